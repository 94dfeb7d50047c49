"""Noise that a network sees beside the state, as the students of RSD do."""

from __future__ import annotations

import torch
from torch import Tensor


def noise_beside(noise: Tensor, channels: int) -> Tensor:
    """Return standard normal noise that is independent of a run's start noise and decided by it.

    Samplers of ComfyUI hand a model the start noise and no generator. The start noise of each
    picture seeds a generator of its own, so that whatever decides the one decides the other: the
    seed, the picture's place in a batch, or noise that a user made.

    Args:
        noise: `(B, C, H, W)` start noise, any dtype and device.
        channels: Channels of noise to make.
    Returns:
        `(B, channels, H, W)` float32 on the CPU.
    """
    size = (channels, *noise.shape[-2:])
    # The bits of two float32 values, as one whole number.
    seeds = noise.flatten(1)[:, :2].float().cpu().contiguous().view(torch.int64)
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    return torch.stack([torch.randn(size, generator=generator) for generator in generators])
