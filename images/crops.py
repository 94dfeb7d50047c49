"""Random pieces of pictures, and of pairs of pictures, to train with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .resize import resize_bicubic

ReadPair = Callable[[int], tuple[Tensor, Tensor | None]]


def random_crops(
    sizes: Sequence[tuple[int, int]],
    read: ReadPair,
    count: int,
    side: int,
    scale: int,
    generator: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Return pieces of clean pictures and the same pieces of their degraded versions.

    Every picture serves as often as every other; half of the pieces are mirrored. Where they lie is
    drawn from the sizes alone, so that one picture at a time is in memory.

    Args:
        sizes: Height and width of each clean picture; at least one.
        read: Called once for each picture that a piece is of, with its index. Returns the clean one,
            `(3, H, W)` float32 in [0, 1], and the degraded one, `(3, H // scale, W // scale)`; None
            for the latter reduces the clean pieces, bicubic with antialias.
        count: Number of pieces.
        side: Side of a clean piece, a multiple of `scale`, at most that of the smallest picture.
        scale: Side of a clean picture over that of its degraded version.
        generator: Every random choice comes from it.
    Returns:
        `(count, 3, side, side)` and `(count, 3, side // scale, side // scale)`, float32 in [0, 1].
    """
    small = side // scale
    order = generator.permutation(np.resize(np.arange(len(sizes)), count))
    places = []
    for index in order:
        height, width = (length // scale for length in sizes[index])
        top = int(generator.integers(height - small + 1))
        left = int(generator.integers(width - small + 1))
        places.append((top, left, generator.random() < 0.5))
    pieces, lows = torch.empty(count, 3, side, side), torch.empty(count, 3, small, small)
    for index in np.unique(order):
        clean, degraded = read(int(index))
        for number in np.flatnonzero(order == index):
            top, left, mirrored = places[number]
            flip = [-1] if mirrored else []
            piece = _cut(clean, top * scale, left * scale, side).flip(flip)
            if degraded is None:
                low = resize_bicubic(piece[None], small, small)[0].clamp(0, 1)
            else:
                low = _cut(degraded, top, left, small).flip(flip)
            pieces[number], lows[number] = piece, low
    return pieces, lows


def _cut(picture: Tensor, top: int, left: int, side: int) -> Tensor:
    return picture[:, top : top + side, left : left + side]
