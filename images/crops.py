"""Random pieces of pictures, and of pairs of pictures, to train with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .resize import resize_bicubic


def random_crops(
    clean: Sequence[Tensor],
    degraded: Sequence[Tensor] | None,
    count: int,
    side: int,
    scale: int,
    generator: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Return pieces of clean pictures and the same pieces of their degraded versions.

    Every picture serves as often as every other; half of the pieces are mirrored.

    Args:
        clean: `(3, H, W)` each, in [0, 1], of any sizes; at least one.
        degraded: `(3, H // scale, W // scale)` for each of `clean`; None reduces the clean pieces,
            bicubic with antialias.
        count: Number of pieces.
        side: Side of a clean piece, a multiple of `scale`, at most that of the smallest picture.
        scale: Side of a clean picture over that of its degraded version.
        generator: Every random choice comes from it.
    Returns:
        `(count, 3, side, side)` and `(count, 3, side // scale, side // scale)`, both like `clean`.
    """
    small = side // scale
    order = np.resize(np.arange(len(clean)), count)
    pairs = []
    for index in generator.permutation(order):
        height, width = (length // scale for length in clean[index].shape[-2:])
        top = int(generator.integers(height - small + 1))
        left = int(generator.integers(width - small + 1))
        flip = [-1] if generator.random() < 0.5 else []
        piece = _cut(clean[index], top * scale, left * scale, side).flip(flip)
        if degraded is None:
            low = resize_bicubic(piece[None], small, small)[0].clamp(0, 1)
        else:
            low = _cut(degraded[index], top, left, small).flip(flip)
        pairs.append((piece, low))
    pieces, lows = zip(*pairs, strict=True)
    return torch.stack(pieces), torch.stack(lows)


def _cut(picture: Tensor, top: int, left: int, side: int) -> Tensor:
    return picture[:, top : top + side, left : left + side]
