"""ResShift's UNet with Swin layers in place of global attention.

Source: Yue et al. 2023 (arXiv 2307.12348) and Yue et al. 2024 (arXiv 2403.07319), "Network".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, ResBlock, Upsample
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor, nn

from ...images.padding import multiple_above, reflect_pad_to
from .compact import CompactConfig, CompactNet
from .rrdb import RRDBConfig, RRDBNet
from .swin import SwinLayer

CONDITION_BASE_CHANNELS = 16


@dataclass(frozen=True)
class SwinUNetConfig:
    """What a checkpoint's keys and shapes say about its network.

    Attributes:
        latent_channels: Channels of the latent, input and output.
        model_channels: Width of the first level.
        channel_mult: Width of each level over `model_channels`.
        num_res_blocks: Residual blocks of each level.
        attention_levels: Whether each level has Swin layers.
        swin_embed_dim: Width inside the Swin layers.
        num_heads: Attention heads of the Swin layers.
        swin_depth: Blocks of a Swin layer.
        window_size: Side of an attention window, in latent pixels of its level.
        mlp_ratio: Hidden width of the Swin MLP over `swin_embed_dim`.
        image_size: Side of the latent the network was trained at; decides windows and shifts.
        condition_stages: Times the low-quality image is halved to reach the latent's size.
        cond_mask: Whether the condition has a mask as its fourth channel.
        cond_start: Whether the network also sees y itself, beside the state that hides it in noise.
        noise_channels: Channels of standard normal noise that the network sees beside the state.
        start: The network inside the file whose picture y is; None where y is a plain enlargement.
        use_scale_shift_norm: Whether the timestep scales and shifts the norms.
        patch_norm: Whether the projections of the Swin layers have norms.
    """

    latent_channels: int
    model_channels: int = 160
    channel_mult: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: tuple[int, ...] = (2, 2, 2, 2)
    attention_levels: tuple[bool, ...] = (True, True, True, True)
    swin_embed_dim: int = 192
    num_heads: int = 6
    swin_depth: int = 2
    window_size: int = 8
    mlp_ratio: float = 4.0
    image_size: int = 64
    condition_stages: int = 0
    cond_mask: bool = False
    cond_start: bool = False
    noise_channels: int = 0
    start: CompactConfig | RRDBConfig | None = None
    use_scale_shift_norm: bool = True
    patch_norm: bool = False

    @property
    def condition_ratio(self) -> int:
        """Side of the low-quality image over the side of the latent."""
        return 2**self.condition_stages

    @property
    def condition_channels(self) -> int:
        """Channels of the condition image: RGB, and the mask where there is one."""
        return 4 if self.cond_mask else 3

    @property
    def size_multiple(self) -> int:
        """Sides of the latent are padded to multiples of this.

        Every level must divide into its windows, and a window is never larger than the level's
        nominal side.
        """
        return min(self.window_size * 2 ** (len(self.channel_mult) - 1), self.image_size)


class LayerStack(nn.ModuleList):
    """Layers that are called one after the other, each with what it takes."""

    def forward(self, x: Tensor, emb: Tensor, transformer_options: dict) -> Tensor:
        """Return `x` (B, C, H, W) after all layers; `emb` is the timestep's embedding."""
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SwinLayer):
                x = layer(x, transformer_options)
            else:
                x = layer(x)
        return x


class SwinUNet(nn.Module):
    """The network of ResShift; keys are those of the released checkpoints.

    Args:
        config: Sizes of the network.
        dtype: Dtype of the weights.
        device: Device of the weights.
        operations: Layer classes of `comfy.ops`.
    """

    def __init__(
        self,
        config: SwinUNetConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        operations: Any,
    ):
        super().__init__()
        self.config = config
        self.in_channels = config.latent_channels  # read by ComfyUI's nodes
        self.dtype = dtype
        made = {"dtype": dtype, "device": device, "operations": operations}
        plain = {"dtype": dtype, "device": device}
        emb_channels = 4 * config.model_channels
        widths = [config.model_channels * mult for mult in config.channel_mult]
        last_level = len(widths) - 1

        def res_block(in_channels: int, out_channels: int) -> ResBlock:
            return ResBlock(
                in_channels,
                emb_channels,
                0.0,
                out_channels=out_channels,
                use_scale_shift_norm=config.use_scale_shift_norm,
                **made,
            )

        def swin_layer(level: int) -> SwinLayer:
            return SwinLayer(
                widths[level],
                config.swin_embed_dim,
                config.num_heads,
                config.window_size,
                config.swin_depth,
                config.image_size // 2**level,
                config.mlp_ratio,
                config.patch_norm,
                **made,
            )

        self.time_embed = nn.Sequential(
            operations.Linear(config.model_channels, emb_channels, **plain),
            nn.SiLU(),
            operations.Linear(emb_channels, emb_channels, **plain),
        )
        self.feature_extractor, feature_channels = _feature_extractor(config, made, plain)

        # Called for the latent that sampling starts around, not in `forward`.
        self.start = start_network(config.start, made) if config.start else None
        seen = config.latent_channels * (2 if config.cond_start else 1) + feature_channels
        seen += config.noise_channels

        first = operations.Conv2d(seen, widths[0], 3, padding=1, **plain)
        self.input_blocks = nn.ModuleList([LayerStack([first])])
        skip_channels = [widths[0]]
        channels = widths[0]
        for level, width in enumerate(widths):
            for j in range(config.num_res_blocks[level]):
                layers: list[nn.Module] = [res_block(channels, width)]
                channels = width
                if j == 0 and config.attention_levels[level]:
                    layers.append(swin_layer(level))
                self.input_blocks.append(LayerStack(layers))
                skip_channels.append(channels)
            if level != last_level:
                down = Downsample(channels, True, out_channels=channels, **made)
                self.input_blocks.append(LayerStack([down]))
                skip_channels.append(channels)

        self.middle_block = LayerStack(
            [res_block(channels, channels), swin_layer(last_level), res_block(channels, channels)]
        )

        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for j in range(config.num_res_blocks[level] + 1):
                layers = [res_block(channels + skip_channels.pop(), widths[level])]
                channels = widths[level]
                if j == 0 and config.attention_levels[level]:
                    layers.append(swin_layer(level))
                if level != 0 and j == config.num_res_blocks[level]:
                    layers.append(Upsample(channels, True, out_channels=channels, **made))
                self.output_blocks.append(LayerStack(layers))

        self.out = nn.Sequential(
            operations.GroupNorm(32, channels, **plain),
            nn.SiLU(),
            operations.Conv2d(channels, config.latent_channels, 3, padding=1, **plain),
        )

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        control: dict | None = None,
        transformer_options: dict | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return the network's prediction for a latent of any size.

        Args:
            x: `(B, latent_channels, H, W)`, scaled input of the chain.
            timesteps: `(B,)` diffusion index, 0 the least noisy.
            context: Ignored; ResShift has no text.
            control: Ignored; there are no control branches for ResShift.
            transformer_options: ComfyUI's options for this call.
            **kwargs: `lq` `(B, 3 f f, H, W)`, the low-quality image in [-1, 1] folded to the
                latent's size by `pixel_unshuffle` with f = `config.condition_ratio`; `mask`
                `(B, f f, H, W)`, folded alike, +1 in the hole and -1 outside, for networks with a
                mask; `y` like `x`, the latent that the chain starts around, for networks that see
                it; `noise` `(B, noise_channels, H, W)`, standard normal, for networks that see some;
                `y_shift` like `x`, added to it.
        Returns:
            `(B, latent_channels, H, W)` in the dtype of `x`; its meaning is the predict type's.
        """
        transformer_options = transformer_options or {}
        executor = WrapperExecutor.new_class_executor(
            self._forward,
            self,
            get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options),
        )
        return executor.execute(x, timesteps, context, control, transformer_options, **kwargs)

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        control: dict | None,
        transformer_options: dict,
        *,
        lq: Tensor,
        mask: Tensor | None = None,
        y: Tensor | None = None,
        noise: Tensor | None = None,
        y_shift: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if y_shift is not None:
            x = x + y_shift
        height, width = x.shape[-2:]
        padded_height = multiple_above(height, self.config.size_multiple)
        padded_width = multiple_above(width, self.config.size_multiple)
        ratio = self.config.condition_ratio

        condition = F.pixel_shuffle(lq, ratio)  # (B, 3, f H, f W)
        if mask is not None:
            condition = torch.cat([condition, F.pixel_shuffle(mask, ratio)], dim=1)  # (B, 4, ...)
        condition = reflect_pad_to(condition, ratio * padded_height, ratio * padded_width)
        condition = self.feature_extractor(condition)  # (B, features, padded H, padded W)
        x = reflect_pad_to(x, padded_height, padded_width)
        parts = [x, condition]
        if self.config.cond_start:
            if y is None:
                raise ValueError(
                    "this network sees the latent that its chain starts around: give y"
                )
            parts.append(reflect_pad_to(y, padded_height, padded_width))
        if self.config.noise_channels:
            if noise is None:
                raise ValueError("this network sees noise beside the state: give noise")
            parts.append(reflect_pad_to(noise, padded_height, padded_width))
        x = torch.cat(parts, dim=1)  # (B, seen, padded H, padded W)

        emb = timestep_embedding(timesteps, self.config.model_channels).to(x.dtype)
        emb = self.time_embed(emb)  # (B, 4 model_channels)
        skips = []
        for block in self.input_blocks:
            x = block(x, emb, transformer_options)  # halved and widened from level to level
            skips.append(x)
        x = self.middle_block(x, emb, transformer_options)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb, transformer_options)
        return self.out(x)[..., :height, :width]  # (B, latent_channels, H, W)


def start_network(config: CompactConfig | RRDBConfig, made: dict[str, Any]) -> nn.Module:
    """Return the network of a start's configuration; `made` is what its class takes besides."""
    return RRDBNet(config, **made) if isinstance(config, RRDBConfig) else CompactNet(config, **made)


def _feature_extractor(config: SwinUNetConfig, made: dict, plain: dict) -> tuple[nn.Module, int]:
    operations = made["operations"]
    layers: list[nn.Module] = []
    channels = config.condition_channels
    for stage in range(config.condition_stages):
        width = CONDITION_BASE_CHANNELS * 2**stage
        layers.append(operations.Conv2d(channels, width, 3, padding=1, **plain))
        layers.append(nn.SiLU())
        layers.append(Downsample(width, True, out_channels=2 * width, **made))
        channels = 2 * width
    return nn.Sequential(*layers), channels
