"""From a detector's numbers to faces: tiles, anchors, overlaps, the square that the mesh sees.

Boxes are (left, top, right, bottom), points (x, y), in pixels of the picture with (0, 0) the centre of
the first pixel.

Source: MediaPipe's face detection (full range) and face mesh.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .resize import resize_bicubic

DETECTOR_PX = 192
ANCHORS = 48  # along each side
MESH_PX = 256
# Key points of the detector: the eyes, left and right as seen.
EYES = [0, 1]
# Of the mesh, whose outer corners of the eyes tell its turn.
OUTER_CORNERS = [33, 263]
# What the mesh sees, over the larger side of the face's box.
MESH_MARGIN = 1.5
# Width of the smallest faces that the detector finds surely, in its own pixels.
SMALLEST_PX = 16
# Tiles overlap by a quarter, so that a face of up to a quarter lies whole in one of them; larger ones
# do at the level before.
TILE_STEP_PX = 144
# Enlarging more shows the detector nothing new.
LARGEST_FACTOR = 2.0
# Of a tile's side: a box that comes so near to a tile's edge may be a part of a face.
EDGE_SHARE = 0.02
# From which overlap on two boxes are one face: of their union, and of the smaller.
SAME_FACE = 0.3
SAME_FACE_WITHIN = 0.6


@dataclass(frozen=True)
class Level:
    """A picture at the size at which the detector looks at it in tiles.

    Attributes:
        height: Height that the picture is resized to.
        width: Width that it is resized to.
        corners: (top, left) of each tile of 192x192; the last ones may reach beyond the picture.
    """

    height: int
    width: int
    corners: tuple[tuple[int, int], ...]


def face_levels(height: int, width: int, smallest: int) -> Iterator[Level]:
    """Yield the sizes at which a picture is looked at: whole in one tile, then ever twice as large.

    Args:
        height: Height of the picture.
        width: Width of the picture.
        smallest: Width of the smallest face that is to be found, in pixels.
    """
    factor = DETECTOR_PX / max(height, width)
    while True:
        sides = max(1, round(factor * height)), max(1, round(factor * width))
        rows, columns = (_starts(side) for side in sides)
        yield Level(*sides, tuple((top, left) for top in rows for left in columns))
        if factor * smallest >= SMALLEST_PX or factor == LARGEST_FACTOR:
            return
        factor = min(2 * factor, LARGEST_FACTOR)


def _starts(length: int) -> list[int]:
    """Return where tiles begin that cover a length and overlap."""
    if length <= DETECTOR_PX:
        return [0]
    count = math.ceil((length - DETECTOR_PX) / TILE_STEP_PX) + 1
    return [round((length - DETECTOR_PX) * index / (count - 1)) for index in range(count)]


def cut_tiles(picture: Tensor, level: Level) -> Tensor:
    """Return the tiles of a picture at a level, `(N, 3, 192, 192)` in [-1, 1], black around it.

    Args:
        picture: `(3, H, W)` in [0, 1].
        level: Size and tiles.
    """
    resized = resize_bicubic(picture[None], level.height, level.width)[0].clamp(0, 1)
    lacking = [max(0, DETECTOR_PX - side) for side in (level.width, level.height)]
    padded = F.pad(resized, (0, lacking[0], 0, lacking[1]))
    tiles = [
        padded[:, top : top + DETECTOR_PX, left : left + DETECTOR_PX] for top, left in level.corners
    ]
    return torch.stack(tiles) * 2 - 1


def decode_faces(numbers: Tensor, scores: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the faces that the detector saw in one tile.

    Args:
        numbers: `(2304, 16)` box and key points, relative to the anchors.
        scores: `(2304, 1)` logits.
        threshold: Least score, 0 to 1.
    Returns:
        `(N, 8, 2)` box as its two corners, then six key points, as shares of the tile; `(N,)` scores.
    """
    sure = scores[:, 0].clamp(-100, 100).sigmoid()
    kept = (sure >= threshold).nonzero()[:, 0]
    row, column = kept // ANCHORS, kept % ANCHORS
    anchor = (torch.stack([column, row], dim=-1) + 0.5) / ANCHORS  # (N, 2)
    values = numbers[kept].reshape(-1, 8, 2) / DETECTOR_PX
    center, half = values[:, 0] + anchor, values[:, 1] / 2
    points = values[:, 2:] + anchor[:, None]
    return torch.cat([torch.stack([center - half, center + half], 1), points], 1), sure[kept]


def whole_faces(faces: Tensor, level: Level, corner: tuple[int, int]) -> Tensor:
    """Return which faces of a tile, `(N, 8, 2)` shares, do not touch an edge inside the picture.

    What touches one may be a part of a face, which is whole in another tile or at a level before.
    """
    top, left = corner
    first = torch.tensor([left, top])
    inner_low, inner_high = (
        first > 0,
        first + DETECTOR_PX < torch.tensor([level.width, level.height]),
    )
    low, high = faces[:, 0], faces[:, 1]
    return ~(((low < EDGE_SHARE) & inner_low) | ((high > 1 - EDGE_SHARE) & inner_high)).any(-1)


def in_picture(
    faces: Tensor, level: Level, corner: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Return points of a tile, `(N, 8, 2)` shares, in pixels of the picture.

    Args:
        faces: The points.
        level: The tile's level.
        corner: (top, left) of the tile.
        size: (height, width) of the picture.
    """
    top, left = corner
    at_level = faces * DETECTOR_PX + torch.tensor([left, top])
    return at_level * torch.tensor([size[1] / level.width, size[0] / level.height]) - 0.5


def distinct_boxes(boxes: Tensor, scores: Tensor) -> list[list[int]]:
    """Return the places of boxes face by face, the surest face first and first in its own.

    Args:
        boxes: `(N, 4)`.
        scores: `(N,)`.
    """
    groups: list[list[int]] = []
    for place in scores.argsort(descending=True, stable=True).tolist():
        same = _overlaps(boxes[[group[0] for group in groups]], boxes[place]).tolist()
        if any(same):
            groups[same.index(True)].append(place)
        else:
            groups.append([place])
    return groups


def _overlaps(boxes: Tensor, box: Tensor) -> Tensor:
    """Return which of boxes `(N, 4)` are of the same face as another `(4,)`."""
    low, high = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    common = _area(torch.cat([low, high], dim=1))
    areas, area = _area(boxes), _area(box[None])
    union, smaller = areas + area - common, torch.minimum(areas, area)
    return (common > SAME_FACE * union) | (common > SAME_FACE_WITHIN * smaller)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)


def merge_faces(faces: Tensor, scores: Tensor) -> list[tuple[Tensor, Tensor, float]]:
    """Return each face once, the surest first.

    Args:
        faces: `(N, 8, 2)` boxes with key points.
        scores: `(N,)`.
    Returns:
        For each face the mean of all that the detector saw of it weighted by their scores,
        `(8, 2)`, what it saw with the best score, `(8, 2)`, and that score.
    """
    merged = []
    for group in distinct_boxes(faces[:, :2].flatten(1), scores):
        mean = (faces[group] * scores[group, None, None]).sum(0) / scores[group].sum()
        merged.append((mean, faces[group[0]], float(scores[group[0]])))
    return merged


def mesh_square(points: Tensor, eyes: Tensor) -> Tensor:
    """Return the transform from a picture to the square that the mesh sees, `(2, 3)` float64.

    Args:
        points: `(N, 2)` what it shall hold: a box's corners or a mesh.
        eyes: `(2, 2)` left and right, which come to lie level.
    """
    across = (eyes[1] - eyes[0]).double()
    turn = math.atan2(float(across[1]), float(across[0]))
    cos, sin = math.cos(turn), math.sin(turn)
    upright = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
    turned = points.double() @ upright.T
    low, high = turned.amin(0), turned.amax(0)
    scale = MESH_PX / (MESH_MARGIN * float((high - low).max()))
    matrix = scale * upright
    middle = torch.tensor([(MESH_PX - 1) / 2] * 2, dtype=torch.float64)
    return torch.cat([matrix, (middle - scale * (low + high) / 2)[:, None]], dim=1)


def box_around(points: Tensor) -> Tensor:
    """Return the box of points `(N, 2)`, `(4,)`."""
    return torch.cat([points.amin(0), points.amax(0)])


def corners_of(box: Sequence[float]) -> Tensor:
    """Return the four corners of a box, `(4, 2)` float64."""
    left, top, right, bottom = box
    return torch.tensor(
        [(left, top), (right, top), (left, bottom), (right, bottom)], dtype=torch.float64
    )
