"""Tiles as the reference implementation of ResShift cuts and merges them ("chop").

Tiles overlap, are restored one by one and averaged with even weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def tile_starts(length: int, tile_size: int, stride: int) -> list[int]:
    """Return where tiles start along an axis; the last one ends where the axis ends.

    Args:
        length: Length of the axis.
        tile_size: Length of a tile; an axis that is not longer is one tile.
        stride: Distance of neighbouring starts, in [1, tile_size].
    """
    if length <= tile_size:
        return [0]
    starts = [min(start, length - tile_size) for start in range(0, length, stride)]
    return list(dict.fromkeys(starts))


def tile_positions(height: int, width: int, tile_size: int, stride: int) -> list[tuple[int, int]]:
    """Return the (row, column) start of every tile of a map, row by row."""
    rows = tile_starts(height, tile_size, stride)
    columns = tile_starts(width, tile_size, stride)
    return [(row, column) for row in rows for column in columns]


def cut_tile(x: Tensor, position: tuple[int, int], tile_size: int) -> Tensor:
    """Return the tile of `x` (..., H, W) at `position`, smaller where the axis is shorter."""
    row, column = position
    return x[..., row : row + tile_size, column : column + tile_size]


def merge_tiles(
    tiles: Sequence[Tensor], positions: Sequence[tuple[int, int]], height: int, width: int
) -> Tensor:
    """Return the average of overlapping tiles.

    Args:
        tiles: `(B, C, h, w)` each.
        positions: (row, column) start of each tile in the result.
        height: Height of the result.
        width: Width of the result.
    Returns:
        `(B, C, height, width)` float32 on the device of the tiles.
    """
    b, c = tiles[0].shape[:2]
    total = torch.zeros(b, c, height, width, device=tiles[0].device)
    count = torch.zeros(1, 1, height, width, device=tiles[0].device)
    for tile, (row, column) in zip(tiles, positions, strict=True):
        rows = slice(row, row + tile.shape[-2])
        columns = slice(column, column + tile.shape[-1])
        total[..., rows, columns] += tile
        count[..., rows, columns] += 1
    return total / count
