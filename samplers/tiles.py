"""Overlapping tiles: where they lie, how they are cut, and how they are merged.

Windows are those of the reference implementations of ResShift ("chop") and DiffBIR. ResShift
averages overlapping tiles evenly, DiffBIR under a bell whose middle counts most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

TileBlend = Literal["linear", "gaussian"]
TILE_BLENDS: tuple[str, ...] = get_args(TileBlend)

BELL_VARIANCE = 0.01  # of a tile's weights, in units of its side


def sliding_windows(length: int, size: int, stride: int) -> list[int]:
    """Return where windows start along an axis; the last one ends where the axis ends.

    Args:
        length: Length of the axis.
        size: Length of a window; an axis that is not longer is one window.
        stride: Distance of neighbouring starts, in [1, size].
    """
    if length <= size:
        return [0]
    starts = [min(start, length - size) for start in range(0, length, stride)]
    return list(dict.fromkeys(starts))


def tile_positions(height: int, width: int, tile_size: int, stride: int) -> list[tuple[int, int]]:
    """Return the (row, column) start of every tile of a map, row by row."""
    rows = sliding_windows(height, tile_size, stride)
    columns = sliding_windows(width, tile_size, stride)
    return [(row, column) for row in rows for column in columns]


def cut_tile(x: Tensor, position: tuple[int, int], tile_size: int) -> Tensor:
    """Return the tile of `x` (..., H, W) at `position`, smaller where the axis is shorter."""
    row, column = position
    return x[..., row : row + tile_size, column : column + tile_size]


def blend_weights(height: int, width: int, overlap: int, blend: TileBlend) -> Tensor:
    """Return how much each element of a tile counts where tiles overlap.

    Args:
        height: Height of the tile.
        width: Width of the tile.
        overlap: Elements that neighbouring tiles share; `linear` fades over them and is flat
            within, `gaussian` does not use it.
        blend: The kind of weights.
    Returns:
        `(height, width)` float64 on the CPU, positive.
    Raises:
        ValueError: If `blend` is another.
    """
    if blend == "gaussian":
        return gaussian_weights(height, width)
    if blend == "linear":
        return torch.outer(_ramp(height, overlap), _ramp(width, overlap))
    raise ValueError(f"unknown blend {blend!r}; choose one of {', '.join(TILE_BLENDS)}")


def gaussian_weights(height: int, width: int) -> Tensor:
    """Return how much each element of a tile counts in DiffBIR's blending.

    The bell's variance is 0.01 in units of the squared side. Its middle is (width - 1) / 2 across
    but height / 2 down: half an element below the centre, as in the reference implementation.

    Args:
        height: Height of the tile.
        width: Width of the tile.
    Returns:
        `(height, width)` float64 on the CPU, positive.
    """
    rows = _bell(height, height / 2)
    columns = _bell(width, (width - 1) / 2)
    return torch.outer(rows, columns)


def merge_tiles(
    tiles: Iterable[Tensor],
    positions: Sequence[tuple[int, int]],
    height: int,
    width: int,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the average of overlapping tiles.

    Args:
        tiles: `(B, C, h, w)` each; read once, so a generator keeps only one of them alive.
        positions: (row, column) start of each tile in the result.
        height: Height of the result.
        width: Width of the result.
        weights: `(h, w)`, how much each element of a tile counts; evenly if None.
    Returns:
        `(B, C, height, width)` float32 on the device of the tiles.
    """
    total, count, weight = torch.empty(0), torch.empty(0), torch.empty(0)
    for tile, (row, column) in zip(tiles, positions, strict=True):
        if total.numel() == 0:
            total = torch.zeros(*tile.shape[:2], height, width, device=tile.device)
            count = torch.zeros(1, 1, height, width, device=tile.device)
            weight = count.new_ones(1, 1) if weights is None else weights.to(count)
        rows = slice(row, row + tile.shape[-2])
        columns = slice(column, column + tile.shape[-1])
        total[..., rows, columns] += tile * weight  # (B, C, h, w)
        count[..., rows, columns] += weight
    return total.div_(count)


def _ramp(length: int, overlap: int) -> Tensor:
    to_edge = torch.arange(1, length + 1, dtype=torch.float64)
    to_edge = torch.minimum(to_edge, to_edge.flip(0))
    return (to_edge / (overlap + 1)).clamp(max=1)


def _bell(length: int, middle: float) -> Tensor:
    distance = (torch.arange(length, dtype=torch.float64) - middle) / length
    return torch.exp(-(distance**2) / (2 * BELL_VARIANCE)) / math.sqrt(2 * math.pi * BELL_VARIANCE)
