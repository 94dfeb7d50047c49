"""Resizing of images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def enlarge_bicubic(x: Tensor, scale: int) -> Tensor:
    """Return `x` enlarged as ResShift enlarges the low-quality image.

    Bicubic with a = -0.75, half-pixel centres and no antialias; overshoot is kept.

    Args:
        x: `(B, C, H, W)` float.
        scale: Whole factor; 1 returns `x` itself.
    """
    if scale == 1:
        return x
    return F.interpolate(x, scale_factor=scale, mode="bicubic", align_corners=False)


def resize_bicubic(x: Tensor, height: int, width: int) -> Tensor:
    """Return `x` (B, C, H, W) at another size, bicubic with antialias; itself where it fits."""
    if x.shape[-2:] == (height, width):
        return x
    return F.interpolate(
        x, size=(height, width), mode="bicubic", align_corners=False, antialias=True
    )
