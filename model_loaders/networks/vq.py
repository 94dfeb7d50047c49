"""The VQ autoencoders f4 and f8 that ResShift's released models work in.

Source: Esser et al. 2021 (arXiv 2012.09841); Rombach et al. 2022 (arXiv 2112.10752), appendix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.model import Decoder, Encoder, pytorch_attention
from torch import Tensor, nn

# Distances held at once while codes are searched, 16 MiB in float32.
MAX_DISTANCES = 1 << 22
# Attention scores held at once where they are, some 20 MiB in two precisions.
MAX_SCORES = 1 << 21


@dataclass(frozen=True)
class VQConfig:
    """What a checkpoint's keys and shapes say about its autoencoder.

    Attributes:
        embed_dim: Channels of the latent.
        num_codes: Entries of the codebook.
        z_channels: Channels between the convolutions around the codebook.
        width: Width of the first level.
        channel_mult: Width of each level over `width`.
        num_res_blocks: Residual blocks of each encoder level; the decoder has one more.
    """

    embed_dim: int
    num_codes: int
    z_channels: int
    width: int
    channel_mult: tuple[int, ...]
    num_res_blocks: tuple[int, ...]

    @property
    def downscale_ratio(self) -> int:
        """Side of the image over the side of the latent."""
        return 2 ** (len(self.channel_mult) - 1)


class _PassThrough(nn.Module):
    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x


class Codebook(nn.Module):
    """The codes and the search for the nearest one."""

    def __init__(self, num_codes: int, embed_dim: int, *, operations: Any):
        super().__init__()
        self.embedding = operations.Embedding(num_codes, embed_dim)

    def nearest(self, latent: Tensor) -> Tensor:
        """Return the index of the nearest code at each position, the first of equals.

        Args:
            latent: `(B, embed_dim, H, W)`; distances are computed in float32.
        Returns:
            `(B, H, W)` int64.
        """
        latent = latent.float()
        codes = self._codes(latent)
        points = latent.movedim(1, -1).flatten(0, 2)  # (B H W, embed_dim)
        code_norms = codes.square().sum(dim=1)  # (num_codes,)
        rows = max(1, MAX_DISTANCES // codes.shape[0])
        # The square of the point itself is left out: it is the same for all codes.
        found = [  # (rows,) each, of distances (rows, num_codes)
            torch.addmm(code_norms, chunk, codes.T, alpha=-2).argmin(1)
            for chunk in points.split(rows)
        ]
        b, _, h, w = latent.shape
        return torch.cat(found).view(b, h, w)

    def quantise(self, latent: Tensor) -> Tensor:
        """Return the nearest code at each position, like `latent` (B, embed_dim, H, W)."""
        codes = self._codes(latent.float())
        quantised = codes[self.nearest(latent)]  # (B, H, W, embed_dim)
        return quantised.movedim(-1, 1).to(latent.dtype)

    def _codes(self, latent: Tensor) -> Tensor:
        every = torch.arange(self.embedding.num_embeddings, device=latent.device)
        return self.embedding(every, out_dtype=latent.dtype).to(latent)  # (num_codes, embed_dim)


class VQAutoencoder(nn.Module):
    """Encodes without quantising and quantises on decoding, as ResShift uses it.

    Args:
        config: Sizes of the network.
        operations: Layer classes of `comfy.ops`, for the layers that are not ComfyUI's own blocks.
    """

    def __init__(self, config: VQConfig, *, operations: Any):
        super().__init__()
        self.config = config
        sizes = {
            "ch": config.width,
            "ch_mult": config.channel_mult,
            "num_res_blocks": max(config.num_res_blocks),
            "attn_resolutions": [],
            "in_channels": 3,
            "out_ch": 3,
            "resolution": 256,  # only read where levels have attention
            "z_channels": config.z_channels,
            "double_z": False,
        }
        self.encoder = Encoder(**sizes)
        self.decoder = Decoder(**sizes)
        for half in (self.encoder, self.decoder):
            attention: Any = half.get_submodule("mid.attn_1")
            attention.optimized_attention = _lean_on_cpus(attention.optimized_attention)
        for level, blocks in enumerate(config.num_res_blocks):
            _keep_blocks(self.encoder.get_submodule(f"down.{level}.block"), blocks)
            _keep_blocks(self.decoder.get_submodule(f"up.{level}.block"), blocks + 1)
        self.quantize = Codebook(config.num_codes, config.embed_dim, operations=operations)
        self.quant_conv = operations.Conv2d(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = operations.Conv2d(config.embed_dim, config.z_channels, 1)

    def encode(self, image: Tensor) -> Tensor:
        """Return the latent of an image, not quantised.

        Args:
            image: `(B, 3, H, W)` in [-1, 1], sides multiples of the ratio.
        Returns:
            `(B, embed_dim, H / ratio, W / ratio)`.
        """
        return self.quant_conv(self.encoder(image))  # through (B, z_channels, H / ratio, W / ratio)

    def decode(self, latent: Tensor, **_: Any) -> Tensor:
        """Return the image of a latent's nearest codes, `(B, 3, H, W)` around [-1, 1]."""
        return self.decode_unquantised(self.quantize.quantise(latent))

    def decode_unquantised(self, latent: Tensor) -> Tensor:
        """Return the image of the latent itself."""
        return self.decoder(self.post_quant_conv(latent))


def _lean_on_cpus(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return ComfyUI's attention for this device, but on CPUs one that needs little memory.

    There ComfyUI's choice holds the scores of every pair of positions, 8 GiB for 1024 pixels. The
    fused one takes its place, except in bfloat16, where torch's is four times slower than products.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.device.type != "cpu":
            return attention(q, k, v)
        if q.dtype == torch.bfloat16 and not (torch.is_grad_enabled() and q.requires_grad):
            return attend_in_rows(q, k, v)
        return pytorch_attention(q, k, v)

    return attend


def attend_in_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the attention of all positions to all, the scores of some rows of them at a time.

    Scores are rounded to the dtype of `q`, as the published code does, and their exponentials are
    summed in float32.

    Args:
        q: `(B, C, H, W)`, queries of one head.
        k: Like `q`, keys.
        v: Like `q`, values.
    Returns:
        Like `q`.
    """
    queries, keys, values = (t.flatten(2) for t in (q, k, v))  # (B, C, H W)
    queries = (queries * q.shape[1] ** -0.5).mT
    values = values.mT
    rows = max(1, MAX_SCORES // (q.shape[0] * keys.shape[2]))
    attended = []  # (B, rows, C) each
    for chunk in queries.split(rows, dim=1):
        scores = torch.bmm(chunk, keys).float()  # (B, rows, H W)
        attended.append(torch.bmm(scores.softmax(dim=-1).to(v.dtype), values))
    return torch.cat(attended, dim=1).mT.reshape(q.shape)


def _keep_blocks(level: nn.Module, count: int) -> None:
    # ComfyUI's encoder and decoder walk the same number of blocks on every level. Those past
    # `count` keep the width, so letting the map through unchanged leaves them out.
    for index in range(count, len(list(level.children()))):
        level.add_module(str(index), _PassThrough())
