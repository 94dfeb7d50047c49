"""How much of a restored face counts at each point of it.

Points are (x, y) as shares of the aligned face's side, so a mask is the same at every size and turn,
and is not cut where the face reaches beyond the picture.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

FaceMask = Literal["soft square", "face oval"]
FACE_MASKS: tuple[str, ...] = get_args(FaceMask)

# The published mask: a square eroded by a twentieth of its side at each edge and blurred by a
# Gaussian of that radius, whose deviation OpenCV takes as 0.3 of the radius.
EDGE = 1 / 20
EDGE_DEVIATION = 0.3 * EDGE
# The published face mask is blurred twice by a deviation of 11 pixels of 512.
OVAL_DEVIATION = 11 * math.sqrt(2) / 512
OVAL_REACH = 3 * OVAL_DEVIATION
# The oval of a face whose outline is unknown: centre and half axes, from the meshes of faces that
# look ahead.
MEAN_OVAL = (0.5, 0.5875, 0.275, 0.3325)
OVAL_POINTS = 36


def square_weight(points: Tensor) -> Tensor:
    """Return the weight of the soft square, 1 inside and 0 from the edge on.

    Args:
        points: `(..., 2)` float, shares of the side.
    Returns:
        `(...)` in [0, 1], exactly 0 outside and exactly 1 from a tenth of the side inwards.

    Source: facexlib's paste, as DiffBIR uses it, with the square turned with the face.
    """
    to_edge = torch.minimum(points, 1 - points)  # (..., 2)
    return _soft_step(to_edge - EDGE, EDGE_DEVIATION, EDGE).prod(-1)


def oval_weight(points: Tensor, outline: Tensor) -> Tensor:
    """Return the weight of a face's oval with a soft edge.

    Args:
        points: `(..., 2)` float, shares of the side.
        outline: `(N, 2)` its corners in the same shares.
    Returns:
        `(...)` in [0, 1], exactly 0 and 1 farther from the outline than three deviations.
    """
    distance = _signed_distance(points, outline.to(points))
    return _soft_step(distance, OVAL_DEVIATION, OVAL_REACH)


def mean_oval() -> Tensor:
    """Return the outline of a mean aligned face, `(36, 2)` float64, shares of the side."""
    x, y, half_width, half_height = MEAN_OVAL
    angle = torch.arange(OVAL_POINTS, dtype=torch.float64) * (2 * math.pi / OVAL_POINTS)
    return torch.stack([x + half_width * angle.sin(), y - half_height * angle.cos()], dim=-1)


def _soft_step(distance: Tensor, deviation: float, reach: float) -> Tensor:
    """Return a step from 0 to 1 at 0, blurred by a Gaussian that ends at `reach`."""
    scale = deviation * math.sqrt(2)
    end = math.erf(reach / scale)
    return 0.5 + 0.5 * torch.erf(distance.clamp(-reach, reach) / scale) / end


def _signed_distance(points: Tensor, outline: Tensor) -> Tensor:
    """Return how far points lie inside an outline; negative outside of it."""
    nearest = torch.full_like(points[..., 0], math.inf)
    crossings = torch.zeros_like(nearest, dtype=torch.bool)
    x, y = points[..., 0], points[..., 1]
    for start, end in zip(outline, outline.roll(-1, 0), strict=True):
        edge = end - start
        along = ((points - start) @ edge / edge.square().sum().clamp(min=1e-12)).clamp(0, 1)
        nearest = nearest.minimum((points - start - along[..., None] * edge).norm(dim=-1))
        rises = (start[1] > y) != (end[1] > y)
        reached = start[0] + (y - start[1]) * edge[0] / torch.where(edge[1] == 0, 1, edge[1])
        crossings ^= rises & (x < reached)
    return torch.where(crossings, nearest, -nearest)
