"""Resizing of images."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Rounding = Literal["official 8-bit", "float"]
ROUNDINGS: tuple[str, ...] = get_args(Rounding)


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


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return (height, width) times `scale`, truncated as DiffBIR truncates its sizes."""
    return int(height * scale), int(width * scale)


def short_edge_size(
    height: int, width: int, minimum: int, *, shrinks: bool = False
) -> tuple[int, int]:
    """Return the (height, width) at which the shorter side is at least `minimum`.

    The shorter side becomes `minimum` exactly and the other follows, truncated; a size that is
    large enough stays, unless it `shrinks`.
    """
    short = min(height, width)
    if short == minimum or (short > minimum and not shrinks):
        return height, width
    factor = minimum / short
    return (
        minimum if height == short else int(height * factor),
        minimum if width == short else int(width * factor),
    )


def quantize_8bit(x: Tensor) -> Tensor:
    """Return `x`, clamped to [0, 1], at the nearest of the 256 levels of an 8-bit picture."""
    return (x.clamp(0, 1) * 255).round() / 255


def resize_bicubic_8bit(x: Tensor, height: int, width: int) -> Tensor:
    """Return `x` at another size as Pillow resizes an 8-bit picture, bicubic.

    Args:
        x: `(B, 3, H, W)`, rounded to 8 bits first, also where the size fits.
        height: New height.
        width: New width.
    Returns:
        `(B, 3, height, width)` float32 on the CPU, multiples of 1/255 in [0, 1].
    """
    levels = (x.clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    pictures = [
        np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
        for pixels in levels
    ]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous().float() / 255
