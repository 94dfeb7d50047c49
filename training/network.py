"""The Swin-UNet that is trained: its shape, its first weights, its file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.ops
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import Tensor, nn

from ..model_loaders.detection import START_PREFIX
from ..model_loaders.networks.swin import SwinBlock, SwinLayer
from ..model_loaders.networks.swin_unet import SwinUNet, SwinUNetConfig
from ..model_loaders.record import PIXEL_LATENT, ResShiftRecord
from ..model_loaders.weight_names import TABLE_IN_NETWORK, key_in_network
from ..samplers.chain import predict_x_0, prior_sample, scale_input
from ..samplers.schedules import ResShiftSchedule

SCALE = 4
LATENT_CHANNELS = 3 * SCALE**2
CONFIG = SwinUNetConfig(
    latent_channels=LATENT_CHANNELS,
    model_channels=64,
    channel_mult=(1, 1, 2),
    num_res_blocks=(1, 1, 1),
    attention_levels=(False, True, True),
    swin_embed_dim=64,
    num_heads=4,
    mlp_ratio=2.0,
    image_size=32,
    cond_start=True,
)
SCHEDULE = ResShiftSchedule(steps=4, kappa=2.0, min_noise_level=0.2)
PREDICT_TYPE = "residual"
SAMPLING_STEPS = 1
EDGE_GAIN = 5.0
NOISE_GAIN = 0.6
RECORD = ResShiftRecord(
    task="super-resolution of photographs",
    scale=SCALE,
    steps=SCHEDULE.steps,
    kappa=SCHEDULE.kappa,
    min_noise_level=SCHEDULE.min_noise_level,
    etas_end=SCHEDULE.etas_end,
    power=SCHEDULE.power,
    predict_type=PREDICT_TYPE,
    autoencoder=PIXEL_LATENT,
    image_size=CONFIG.image_size,
    sampling_steps=SAMPLING_STEPS,
)


def build_network(config: SwinUNetConfig = CONFIG) -> SwinUNet:
    """Return a network with first weights that make its output 0: the start's picture."""
    network = SwinUNet(config, operations=comfy.ops.disable_weight_init)
    for name, parameter in network.named_parameters():
        if name.endswith(("bias", TABLE_IN_NETWORK)):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 1:
            nn.init.ones_(parameter)  # weights of norms
        else:
            nn.init.kaiming_normal_(parameter, nonlinearity="linear")
    for module in network.modules():
        if isinstance(module, ResBlock):
            nn.init.zeros_(module.out_layers[3].weight)
        elif isinstance(module, SwinBlock):
            nn.init.zeros_(module.attn.proj.weight)
            nn.init.zeros_(module.mlp.fc2.weight)
        elif isinstance(module, SwinLayer):
            # Nothing is added around the layer, so it starts as a projection, not as a random map.
            inward, outward = module.patch_embed.proj, module.patch_unembed.proj
            nn.init.orthogonal_(inward.weight)
            with torch.no_grad():
                outward.weight.copy_(inward.weight.transpose(0, 1))
    _init_first_convolution(network.input_blocks[0][0])
    for block in network.output_blocks:
        _init_joining(block[0].skip_connection)
    nn.init.zeros_(network.out[2].weight)
    return network


@torch.no_grad()
def _init_first_convolution(conv: nn.Conv2d) -> None:
    """Let channels start as filters of y and of the image, and every fourth as noise.

    GroupNorm has two channels a group here and forgets how strong a signal was, but not how strong
    it is beside the noise that the chain adds. Channels that mix both, as random weights do, drown
    the picture in the noise of 48 channels: a thousand steps then teach nothing.
    """
    latent = LATENT_CHANNELS
    seen = conv.in_channels - latent
    filters = torch.randn(conv.out_channels, seen, 3, 3)
    edges = filters[: 3 * len(filters) // 4]
    edges -= edges.mean(dim=(1, 2, 3), keepdim=True)
    filters /= filters.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    edges *= EDGE_GAIN
    # Every second filter sees only the middle pixel: what is there, not how it changes.
    filters[1::2, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    conv.weight.zero_()
    conv.weight[:, latent:] = filters[torch.randperm(len(filters))]
    for channel in range(0, conv.out_channels, 4):
        # Two neighbours inside a folded 4x4 block: their difference is mostly noise.
        first = channel // 4 * SCALE % latent
        conv.weight[channel].zero_()
        conv.weight[channel, first, 1, 1] = NOISE_GAIN
        conv.weight[channel, first + 1, 1, 1] = -NOISE_GAIN


@torch.no_grad()
def _init_joining(conv: nn.Conv2d) -> None:
    """Let a joining of two maps start as their weighted sum, channel by channel."""
    outputs, inputs = conv.weight.shape[:2]
    conv.weight.zero_()
    for channel in range(outputs):
        conv.weight[channel, channel, 0, 0] += 0.5
        conv.weight[channel, inputs - outputs + channel, 0, 0] += 0.8


def to_latent(image: Tensor) -> Tensor:
    """Return the latent `(B, 48, H / 4, W / 4)` of `image` (B, 3, H, W) in [0, 1]."""
    return F.pixel_unshuffle(image * 2 - 1, SCALE)


def from_latent(latent: Tensor) -> Tensor:
    """Return the image `(B, 3, H, W)`, about [0, 1], of a latent."""
    return (F.pixel_shuffle(latent, SCALE) + 1) / 2


def latent_of_lq(start: nn.Module, lq: Tensor) -> Tensor:
    """Return y, the latent of the picture that `start` makes of `lq` (B, 3, h, w) in [0, 1]."""
    return to_latent(start(lq).float().clamp(0, 1))


def predict(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    lq: Tensor,
    index: Tensor,
    eta: Tensor,
    kappa: Tensor | float = SCHEDULE.kappa,
) -> Tensor:
    """Return the prediction of x_0.

    Args:
        network: The network.
        x: `(B, 48, h, w)` states of the chain.
        y: Like `x`, the latents of the start's pictures.
        lq: `(B, 3, h, w)` in [0, 1].
        index: `(B,)` int64 diffusion index of each state.
        eta: `(B, 1, 1, 1)` of the states.
        kappa: Noise scale of the chain, like `eta` or a number.
    """
    scaled = scale_input(x, eta, kappa)
    options = {"optimized_attention_override": attend}
    output = network(scaled, index.float(), lq=lq * 2 - 1, y=y, transformer_options=options)
    return predict_x_0(PREDICT_TYPE, output.float(), x, y, eta, kappa)


def attend(
    attention: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    mask: Tensor,
    **options: Any,
) -> Tensor:
    """Return `attention`'s result, sooner where its gradient is wanted.

    torch has no fused attention that gives the mask, the learned position bias, a gradient. What it
    takes instead first looks for rows that are blocked as a whole, at twice the cost of the rest.

    Args:
        attention: ComfyUI's function, which this one is an override of.
        query: `(B, N, E)`.
        key: Like `query`.
        value: Like `query`.
        heads: Attention heads.
        mask: `(1, heads, N, N)`, added to the scores.
        **options: What else ComfyUI passes.
    """
    if not mask.requires_grad:
        return attention(query, key, value, heads, mask=mask, **options)
    b, tokens, channels = query.shape
    q, k, v = (
        t.view(b, tokens, heads, -1).transpose(1, 2).reshape(b * heads, tokens, -1)
        for t in (query, key, value)
    )
    scores = torch.bmm(q * q.shape[2] ** -0.5, k.mT).view(b, heads, tokens, tokens) + mask
    attended = torch.bmm(scores.softmax(dim=-1).view(b * heads, tokens, tokens), v)
    attended = attended.view(b, heads, tokens, -1).transpose(1, 2)
    return attended.reshape(b, tokens, channels)


@torch.no_grad()
def restore(
    network: nn.Module,
    start: nn.Module,
    lq: Tensor,
    generator: torch.Generator,
    kappa: float = SCHEDULE.kappa,
) -> Tensor:
    """Return `lq` (B, 3, h, w) in [0, 1] restored in one step, in [0, 1]."""
    last = SCHEDULE.eta()[-1].float().to(lq.device)
    y = latent_of_lq(start, lq)
    noise = torch.randn(y.shape, generator=generator).to(y.device)
    x = prior_sample(y, noise, last, kappa)
    index = torch.full((len(lq),), SCHEDULE.steps - 1, device=lq.device)
    x_0 = predict(network, x, y, lq, index, last.view(1, 1, 1, 1), kappa)
    return from_latent(x_0).clamp(0, 1)


def save_weights(path: Path, weights: dict[str, Tensor], notes: dict[str, str]) -> None:
    """Write `weights` in 16 bit with `notes` in the header, all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {name: tensor.to(torch.float16).contiguous() for name, tensor in weights.items()}
    partial = path.with_suffix(".part")
    safetensors.torch.save_file(half, partial, metadata=notes)
    partial.chmod(0o644)  # safetensors makes files that only their owner can read
    os.replace(partial, path)


def publish_weights(source: Path, path: Path, residual: float) -> None:
    """Write an exported file to `path` with what the network adds to the start made weaker.

    Args:
        source: A file of `save_weights`.
        path: Where it goes.
        residual: Factor of the last layer, and so of all that is added.
    Raises:
        ValueError: If the file is none of a whole model.
    """
    weights = load_weights(source)
    if "out.2.weight" not in weights:
        raise ValueError(
            f"{source} has no Swin-UNet. A start alone is made the usual one by copying it to"
            " training/start_x4_photo.safetensors."
        )
    for name in ("out.2.weight", "out.2.bias"):
        weights[name] *= residual
    with safetensors.safe_open(source, framework="pt") as opened:
        notes = dict(opened.metadata())
    save_weights(path, weights, {**notes, "residual": f"{residual:g}"})


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights of a file of `save_weights` in float32."""
    return {name: tensor.float() for name, tensor in safetensors.torch.load_file(path).items()}


def trained_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a file without those of the start, by their names in the network."""
    return {
        key_in_network(name): weight
        for name, weight in weights.items()
        if not name.startswith(START_PREFIX)
    }
