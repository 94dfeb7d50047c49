"""Smoothing of pictures and maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_blur(x: Tensor, sigma: float, radius: int) -> Tensor:
    """Return `x` smoothed by a Gaussian, its border repeated.

    Args:
        x: `(B, C, H, W)` float, on any device.
        sigma: Standard deviation in pixels, positive.
        radius: Pixels on each side of the middle that the Gaussian reaches.
    Returns:
        Like `x`.
    """
    offset = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    x = F.pad(x, [radius] * 4, mode="replicate")  # (B, C, H + 2 radius, W + 2 radius)
    x = F.conv2d(x, kernel.unsqueeze(-1), groups=x.shape[1])
    return F.conv2d(x, kernel.unsqueeze(-2), groups=x.shape[1])
