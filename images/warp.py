"""Sampling of pictures along similarity transforms.

Coordinates are (x, y) in pixels, the centre of the first pixel being (0, 0). A transform is a
`(2, 3)` float64 matrix `[A | t]` with `A` a turn times a scale: it maps p to `A p + t`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the target around what is asked, so that the filter of a reduction sees what lies there.
MARGIN_PX = 3
# Of the source around what is looked at: reach of the cubic, and room for rounding.
REACH_PX = 3


def transform_scale(matrix: Tensor) -> float:
    """Return how many pixels a transform makes of one."""
    return math.hypot(*matrix[:, 0].tolist())


def invert_transform(matrix: Tensor) -> Tensor:
    """Return the `(2, 3)` transform that undoes another."""
    inverse = torch.linalg.inv(matrix[:, :2])
    return torch.cat([inverse, -inverse @ matrix[:, 2:]], dim=1)


def transform_points(matrix: Tensor, points: Tensor) -> Tensor:
    """Return points `(..., 2)` moved by a `(2, 3)` transform, in its dtype."""
    return points.to(matrix) @ matrix[:, :2].T + matrix[:, 2]


def chain_transforms(first: Tensor, second: Tensor) -> Tensor:
    """Return the `(2, 3)` transform that does `first` and then `second`."""
    turned = second[:, :2] @ first
    turned[:, 2] += second[:, 2]
    return turned


def enlarging_transform(factor_x: float, factor_y: float) -> Tensor:
    """Return the transform from a picture's pixels to those of the picture resized by factors.

    The pixels' edges are kept in place, so their centres move by half a pixel's difference.
    """
    return torch.tensor(
        [[factor_x, 0, (factor_x - 1) / 2], [0, factor_y, (factor_y - 1) / 2]], dtype=torch.float64
    )


def warp(picture: Tensor, matrix: Tensor, height: int, width: int, outside: Tensor) -> Tensor:
    """Return a picture seen through a similarity transform.

    It is sampled by bicubic interpolation (a = -0.75), on a grid at least as fine as its own; where
    the transform reduces, an antialiased cubic brings that grid to the target's.

    Args:
        picture: `(C, H, W)` float, on any device.
        matrix: Transform from its pixels to those of the target.
        height: Height of the target.
        width: Width of the target.
        outside: `(C,)` values around the picture.
    Returns:
        `(C, height, width)`, dtype and device of `picture`; the cubic's overshoot is kept.
    """
    inverse = invert_transform(matrix)
    fineness = max(1, math.ceil(transform_scale(inverse) - 1e-3))
    margin = MARGIN_PX if fineness > 1 else 0
    rows, columns = (
        (torch.arange(fineness * (side + 2 * margin), dtype=torch.float64) + 0.5) / fineness
        - 0.5
        - margin
        for side in (height, width)
    )
    corners = torch.cartesian_prod(columns[[0, -1]], rows[[0, -1]])
    seen, offset = _cut_around(picture, transform_points(inverse, corners))
    if seen.numel() == 0:
        return outside.to(picture)[:, None, None].repeat(1, height, width)
    to_seen = inverse.clone()
    to_seen[:, 2] -= offset
    x = to_seen[0, 0] * columns + to_seen[0, 1] * rows[:, None] + to_seen[0, 2]
    y = to_seen[1, 0] * columns + to_seen[1, 1] * rows[:, None] + to_seen[1, 2]
    sides = seen.shape[-1], seen.shape[-2]
    grid = torch.stack(
        [(2 * at + 1) / side - 1 for at, side in zip((x, y), sides, strict=True)], dim=-1
    )
    grey = outside.to(picture)[:, None, None]
    sampled = F.grid_sample(
        (seen - grey)[None],
        grid[None].to(picture),
        mode="bicubic",
        padding_mode="zeros",
        align_corners=False,
    )  # (1, C, fineness (height + 2 margin), fineness (width + 2 margin))
    if fineness > 1:
        size = height + 2 * margin, width + 2 * margin
        sampled = F.interpolate(sampled, size, mode="bicubic", antialias=True)
    return sampled[0, :, margin : margin + height, margin : margin + width] + grey


def _cut_around(picture: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of a picture around points, and its top left corner as `(2,)` (x, y)."""
    limit = torch.tensor([picture.shape[-1], picture.shape[-2]])
    first = (points.amin(0).floor().long() - REACH_PX).clamp(min=0).minimum(limit)
    last = (points.amax(0).ceil().long() + REACH_PX + 1).clamp(min=0).minimum(limit)
    part = picture[:, int(first[1]) : int(last[1]), int(first[0]) : int(last[0])]
    return part, first.to(points)
