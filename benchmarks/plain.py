"""ResShift as it was published, in torch's own modules: what the pack's speed is held against.

Nothing here is fused, laid out anew or kept from one call to the next. Keys are those of the
released checkpoints, so that both sides run on the same weights.

Source: Yue et al. 2024 (arXiv 2403.07319), Esser et al. 2021 (arXiv 2012.09841).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model_loaders.networks.swin_unet import SwinUNetConfig
from ..model_loaders.networks.vq import VQConfig
from ..samplers.schedules import ResShiftSchedule

GROUPS = 32
BLOCKED = -100.0


class ResBlock(nn.Module):
    """Two convolutions whose second norm the timestep scales and shifts."""

    def __init__(self, channels: int, out_channels: int, emb_channels: int):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, 1, 1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, out_channels), nn.SiLU(), nn.Dropout(0.0),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1),
        )  # fmt: skip
        self.skip_connection = (
            nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x)  # (B, out_channels, H, W)
        scale, shift = self.emb_layers(emb)[..., None, None].chunk(2, dim=1)
        norm, *rest = self.out_layers
        h = norm(h) * (1 + scale) + shift
        for layer in rest:
            h = layer(h)
        return self.skip_connection(x) + h


class WindowAttention(nn.Module):
    """Attention among the pixels of each window."""

    def __init__(self, width: int, window: int, heads: int):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        places = torch.cartesian_prod(torch.arange(window), torch.arange(window))  # (N, 2)
        apart = places[:, None] - places + window - 1  # (N, N, 2)
        index = apart[..., 0] * (2 * window - 1) + apart[..., 1]
        self.register_buffer("relative_position_index", index, persistent=False)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b, n, c = x.shape  # all pictures' windows, their pixels
        qkv = self.qkv(x).view(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (b, heads, n, c / heads)
        scores = q * (c // self.heads) ** -0.5 @ k.transpose(-2, -1)  # (b, heads, n, n)
        bias = self.relative_position_bias_table[self.relative_position_index]
        scores = scores + bias.permute(2, 0, 1)
        if mask is not None:
            windows = mask.shape[0]
            scores = scores.view(b // windows, windows, self.heads, n, n) + mask[:, None]
            scores = scores.view(b, self.heads, n, n)
        x = scores.softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class SwinBlock(nn.Module):
    """Window attention and two 1x1 convolutions, each beside a skip."""

    def __init__(self, width: int, window: int, shift: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.window, self.shift = window, shift
        hidden = int(width * mlp_ratio)
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, width), nn.GroupNorm(GROUPS, width)
        self.attn = WindowAttention(width, window, heads)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Conv2d(width, hidden, 1), "fc2": nn.Conv2d(hidden, width, 1)}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))

    def _attend(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        side, shift = self.window, self.shift
        if shift:
            x = x.roll((-shift, -shift), dims=(2, 3))
        x = x.view(b, c, h // side, side, w // side, side)
        x = x.permute(0, 2, 4, 3, 5, 1).reshape(-1, side * side, c)  # (B windows, N, C)
        x = self.attn(x, self._mask(h, w).to(x) if shift else None)
        x = x.view(b, h // side, w // side, side, side, c)
        x = x.permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        return x.roll((shift, shift), dims=(2, 3)) if shift else x

    def _mask(self, height: int, width: int) -> Tensor:
        """Return `(windows, N, N)`: the windows of the last row alone keep two sides apart."""
        side = self.window
        across = width // side
        moved = torch.arange(side * side) % side >= side - self.shift
        mask = torch.zeros(height // side * across, side * side, side * side)
        mask[-across:] = BLOCKED * (moved[:, None] != moved).float()
        return mask


class SwinLayer(nn.Module):
    """Swin blocks between two 1x1 convolutions; nothing passes beside them."""

    def __init__(self, channels: int, resolution: int, config: SwinUNetConfig):
        super().__init__()
        width = config.swin_embed_dim
        window = min(config.window_size, resolution)
        shift = config.window_size // 2 if resolution > config.window_size else 0
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(channels, width, 1)})
        self.patch_unembed = nn.ModuleDict({"proj": nn.Conv2d(width, channels, 1)})
        self.blocks = nn.Sequential(
            *(
                SwinBlock(width, window, shift * (n % 2), config.num_heads, config.mlp_ratio)
                for n in range(config.swin_depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.patch_unembed["proj"](self.blocks(self.patch_embed["proj"](x)))


class Downsample(nn.Module):
    """A convolution of stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """The nearest pixels twice, and a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    """ResShift's network for enlarging, whose condition has the size of the latent.

    Args:
        config: Sizes; no feature extractor, no mask, no start, norms scaled by the timestep.
    """

    def __init__(self, config: SwinUNetConfig):
        super().__init__()
        self.width = config.model_channels
        emb = 4 * self.width
        self.time_embed = nn.Sequential(nn.Linear(self.width, emb), nn.SiLU(), nn.Linear(emb, emb))
        channels = self.width * config.channel_mult[0]
        first = nn.Conv2d(config.latent_channels + config.condition_channels, channels, 3, 1, 1)
        self.input_blocks = nn.ModuleList([nn.ModuleList([first])])
        skips = [channels]
        levels = list(enumerate(zip(config.channel_mult, config.num_res_blocks, strict=True)))
        for level, (multiple, blocks) in levels:
            resolution = config.image_size // 2**level
            for block in range(blocks):
                layers: list[nn.Module] = [ResBlock(channels, self.width * multiple, emb)]
                channels = self.width * multiple
                if block == 0 and config.attention_levels[level]:
                    layers.append(SwinLayer(channels, resolution, config))
                self.input_blocks.append(nn.ModuleList(layers))
                skips.append(channels)
            if level < len(levels) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(channels)]))
                skips.append(channels)
        self.middle_block = nn.ModuleList(
            [
                ResBlock(channels, channels, emb),
                SwinLayer(channels, config.image_size // 2 ** (len(levels) - 1), config),
                ResBlock(channels, channels, emb),
            ]
        )
        self.output_blocks = nn.ModuleList()
        for level, (multiple, blocks) in reversed(levels):
            resolution = config.image_size // 2**level
            for block in range(blocks + 1):
                layers = [ResBlock(channels + skips.pop(), self.width * multiple, emb)]
                channels = self.width * multiple
                if block == 0 and config.attention_levels[level]:
                    layers.append(SwinLayer(channels, resolution, config))
                if block == blocks and level:
                    layers.append(Upsample(channels))
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(),
            nn.Conv2d(channels, config.latent_channels, 3, 1, 1),
        )  # fmt: skip

    def forward(self, x: Tensor, index: Tensor, lq: Tensor) -> Tensor:
        """Return the prediction for `x` `(B, C, H, W)`; `index` `(B,)`, `lq` `(B, 3, H, W)`."""
        half = self.width // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half) / half)
        angles = index[:, None].float() * rates
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype))
        h = torch.cat([x, lq], dim=1)
        skips = []
        for block in self.input_blocks:
            h = _through(block, h, emb)
            skips.append(h)
        h = _through(self.middle_block, h, emb)
        for block in self.output_blocks:
            h = _through(block, torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)


def _through(layers: nn.Module, x: Tensor, emb: Tensor) -> Tensor:
    for layer in layers.children():
        x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
    return x


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class VQBlock(nn.Module):
    """Two convolutions beside a skip."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.norm1, self.norm2 = _norm(channels), _norm(out_channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        if channels != out_channels:
            self.nin_shortcut = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class VQAttention(nn.Module):
    """Attention of one head among all positions."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))  # (B, C, H W)
        scores = q.transpose(1, 2) @ k * x.shape[1] ** -0.5  # (B, H W, H W)
        h = v @ scores.softmax(dim=-1).transpose(1, 2)
        return x + self.proj_out(h.view_as(x))


def _middle(channels: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "block_1": VQBlock(channels, channels),
            "attn_1": VQAttention(channels),
            "block_2": VQBlock(channels, channels),
        }
    )


class Encoder(nn.Module):
    """From an image to the latent before its last 1x1 convolution."""

    def __init__(self, config: VQConfig):
        super().__init__()
        channels = config.width
        self.conv_in = nn.Conv2d(3, channels, 3, 1, 1)
        self.down = nn.ModuleList()
        for level, multiple in enumerate(config.channel_mult):
            blocks = nn.ModuleList()
            for _ in range(config.num_res_blocks[level]):
                blocks.append(VQBlock(channels, config.width * multiple))
                channels = config.width * multiple
            parts: dict[str, nn.Module] = {"block": blocks}
            if level < len(config.channel_mult) - 1:
                parts["downsample"] = nn.ModuleDict({"conv": nn.Conv2d(channels, channels, 3, 2)})
            self.down.append(nn.ModuleDict(parts))
        self.mid = _middle(channels)
        self.norm_out = _norm(channels)
        self.conv_out = nn.Conv2d(channels, config.z_channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            for block in level["block"]:
                h = block(h)
            if "downsample" in level:
                h = level["downsample"]["conv"](F.pad(h, (0, 1, 0, 1)))  # (B, C, H / 2, W / 2)
        for layer in self.mid.values():
            h = layer(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    """From a latent behind its first 1x1 convolution to an image."""

    def __init__(self, config: VQConfig):
        super().__init__()
        channels = config.width * config.channel_mult[-1]
        self.conv_in = nn.Conv2d(config.z_channels, channels, 3, 1, 1)
        self.mid = _middle(channels)
        levels = []
        for level, multiple in reversed(list(enumerate(config.channel_mult))):
            blocks = nn.ModuleList()
            for _ in range(config.num_res_blocks[level] + 1):
                blocks.append(VQBlock(channels, config.width * multiple))
                channels = config.width * multiple
            parts: dict[str, nn.Module] = {"block": blocks}
            if level:
                parts["upsample"] = nn.ModuleDict({"conv": nn.Conv2d(channels, channels, 3, 1, 1)})
            levels.append(nn.ModuleDict(parts))
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = _norm(channels)
        self.conv_out = nn.Conv2d(channels, 3, 3, 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.conv_in(z)
        for layer in self.mid.values():
            h = layer(h)
        for level in reversed(self.up):
            for block in level["block"]:
                h = block(h)
            if "upsample" in level:
                h = F.interpolate(h, scale_factor=2, mode="nearest")  # (B, C, 2 H, 2 W)
                h = level["upsample"]["conv"](h)
        return self.conv_out(F.silu(self.norm_out(h)))


class VQ(nn.Module):
    """The VQ autoencoder: encodes without quantising, quantises on decoding."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantize = nn.ModuleDict(
            {"embedding": nn.Embedding(config.num_codes, config.embed_dim)}
        )
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)

    def encode(self, image: Tensor) -> Tensor:
        """Return the latent `(B, embed_dim, H / f, W / f)` of `image` `(B, 3, H, W)` in [-1, 1]."""
        return self.quant_conv(self.encoder(image))

    def decode(self, latent: Tensor) -> Tensor:
        """Return the image of a latent's nearest codes."""
        codes = self.quantize["embedding"].weight.float()
        points = latent.float().movedim(1, -1).flatten(0, 2)  # (B H W, embed_dim)
        distances = points.square().sum(1, keepdim=True) + codes.square().sum(1)
        nearest = torch.addmm(distances, points, codes.T, alpha=-2).argmin(1)
        b, _, h, w = latent.shape
        quantised = codes[nearest].view(b, h, w, -1).movedim(-1, 1).to(latent.dtype)
        return self.decoder(self.post_quant_conv(quantised))


def restore(unet: UNet, vq: VQ, schedule: ResShiftSchedule, lq: Tensor, scale: int) -> Tensor:
    """Return a picture enlarged by the whole chain, with a network that predicts x_0.

    Args:
        unet: The network.
        vq: The autoencoder.
        schedule: The chain.
        lq: `(B, 3, H, W)` in [-1, 1], sides multiples of what the network takes.
        scale: How many times larger the result is.
    Returns:
        `(B, 3, scale H, scale W)` around [-1, 1].
    """
    eta, kappa = schedule.eta().tolist(), schedule.kappa
    y = vq.encode(F.interpolate(lq, scale_factor=scale, mode="bicubic"))
    x = y + kappa * math.sqrt(eta[-1]) * torch.randn_like(y)
    for i in range(len(eta) - 1, -1, -1):
        scaled = x / math.sqrt(kappa**2 * eta[i] + 1)
        x_0 = unet(scaled, torch.full((len(x),), i), lq)
        before = eta[i - 1] if i else 0.0
        step = eta[i] - before
        x = before / eta[i] * x + step / eta[i] * x_0
        if i:
            x = x + kappa * math.sqrt(before * step / eta[i]) * torch.randn_like(x)
    return vq.decode(x)
