"""Aligned faces cut out of pictures, and put back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .face_geometry import (
    OUTSIDE,
    TEMPLATE_PX,
    eye_distance,
    face_template,
    fit_similarity_robustly,
)
from .face_masks import FaceMask, mean_oval, oval_weight, square_weight
from .warp import (
    chain_transforms,
    enlarging_transform,
    invert_transform,
    transform_points,
    transform_scale,
    warp,
)

# How often a cut-out face is corrected by what the way back loses. Twice brings an untouched face
# back with more than 45 dB, measured.
CORRECTIONS = 2
# From the edge of an aligned face, where what lies outside of it shines in.
RIM_PX = 8


@dataclass(frozen=True)
class FacePlace:
    """Where a face lies.

    Attributes:
        picture: Place of its picture in the batch.
        points: `(5, 2)` float64, see `face_geometry`, in pixels of the picture.
        oval: `(N, 2)` float64 outline of the face in pixels of the picture, None where unknown.
        score: How sure the detector was, 0 to 1.
    """

    picture: int
    points: Tensor
    oval: Tensor | None = None
    score: float = 1.0

    def transform(self, size: int) -> Tensor:
        """Return the transform from the picture to an aligned face of a size, `(2, 3)` float64.

        Those of two sizes differ by an enlargement that keeps the pixels' edges in place.
        """
        matrix = fit_similarity_robustly(self.points, face_template())
        return chain_transforms(matrix, enlarging_transform(size / TEMPLATE_PX, size / TEMPLATE_PX))

    @property
    def side(self) -> float:
        """Side in pixels of the picture of what an aligned face shows."""
        return 1 / transform_scale(self.transform(1))

    @property
    def eye_distance(self) -> float:
        """Distance of the eyes in pixels of the picture."""
        return eye_distance(self.points)


@dataclass(frozen=True)
class FacePlaces:
    """The chosen faces of a batch of pictures, ordered by picture.

    Attributes:
        faces: One for each aligned face.
        pictures: Pictures in the batch.
        height: Height of the pictures.
        width: Width of the pictures.
        size: Side of the aligned faces in pixels.
    """

    faces: tuple[FacePlace, ...]
    pictures: int
    height: int
    width: int
    size: int


def cut_face(picture: Tensor, place: FacePlace, size: int) -> Tensor:
    """Return a face, aligned.

    Where the face is enlarged it is corrected twice by what it would lose on the way back, so that
    it is as sharp as the picture.

    Args:
        picture: `(3, H, W)` float in [0, 1], on any device.
        place: Where the face lies in it.
        size: Side of the aligned face.
    Returns:
        `(3, size, size)` in [0, 1], grey where it reaches beyond the picture.
    """
    matrix = place.transform(size)
    around = torch.tensor(OUTSIDE)
    face = warp(picture, matrix, size, size, around)
    top, left, height, width = _box(matrix, size, *picture.shape[-2:])
    if transform_scale(matrix) < 1 or 0 in (height, width):
        return face.clamp(0, 1)
    shifted = invert_transform(_after_crop(matrix, top, left))
    part = picture[:, top : top + height, left : left + width]
    inside = _is_inside(_aligned_points(matrix, top, left, height, width), size).to(part)
    nothing = torch.zeros(3)
    for _ in range(CORRECTIONS):
        lost = (part - warp(face, shifted, height, width, around)) * inside
        face = face + warp(lost, invert_transform(shifted), size, size, nothing)
    return face.clamp(0, 1)


def put_face_back(
    background: Tensor,
    weight: Tensor,
    face: Tensor,
    place: FacePlace,
    picture_size: tuple[int, int],
    *,
    strength: float,
    mask: FaceMask,
    allowed: Tensor | None = None,
) -> None:
    """Blend a restored face into a picture, in place; what its mask leaves out stays as it is.

    Args:
        background: `(3, H, W)` float, the picture, at any enlargement.
        weight: `(H, W)` how much of each pixel is restored already; grows where the face comes.
        face: `(3, S, S)` restored face in [0, 1]; S may differ from the side it was aligned at.
        place: Where the face lies in the picture that it was cut out of.
        picture_size: (height, width) of that picture.
        strength: Share of the restored face, 0 to 1.
        mask: How the mask is made.
        allowed: `(H, W)` in [0, 1], how much of each pixel may change at most; None for all.

    Source: facexlib's way back, as DiffBIR uses it.
    """
    size, (height, width) = face.shape[-1], background.shape[-2:]
    enlarge = enlarging_transform(width / picture_size[1], height / picture_size[0])
    matrix = chain_transforms(invert_transform(enlarge), place.transform(size))
    top, left, rows, columns = _box(matrix, size, height, width)
    if 0 in (rows, columns):
        return
    points = (_aligned_points(matrix, top, left, rows, columns) / size).to(background)
    share = square_weight(points)
    if mask == "face oval":
        share = share.minimum(oval_weight(points, outline_shares(place)))
    window = (slice(top, top + rows), slice(left, left + columns))
    if allowed is not None:
        share = share.minimum(allowed[window].to(share))
    share = strength * share
    back = invert_transform(_after_crop(matrix, top, left))
    around = torch.tensor(OUTSIDE)
    turned = warp(face.to(background), back, rows, columns, around).clamp(0, 1)
    part = background[(slice(None), *window)]
    part += share * (turned - part)
    weight[window] += share * (1 - weight[window])


def outline_shares(place: FacePlace) -> Tensor:
    """Return the outline of a face as shares of the aligned face's side, `(N, 2)` float64."""
    if place.oval is None:
        return mean_oval()
    return transform_points(place.transform(1), place.oval) + 0.5


def _box(matrix: Tensor, size: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the part of a picture that an aligned face shows."""
    edge = float(size)
    corners = torch.tensor([(0, 0), (edge, 0), (0, edge), (edge, edge)], dtype=torch.float64) - 0.5
    seen = transform_points(invert_transform(matrix), corners)
    left, top = (max(0, int(value)) for value in seen.amin(0).floor().tolist())
    right, bottom = (int(value) + 1 for value in seen.amax(0).ceil().tolist())
    return top, left, max(0, min(height, bottom) - top), max(0, min(width, right) - left)


def _after_crop(matrix: Tensor, top: int, left: int) -> Tensor:
    """Return a transform for the picture from a corner on."""
    moved = matrix.clone()
    moved[:, 2] += matrix[:, :2] @ torch.tensor([left, top], dtype=torch.float64)
    return moved


def _aligned_points(matrix: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Return where pixels of a picture lie in the aligned face, `(height, width, 2)` float64."""
    y, x = torch.meshgrid(
        torch.arange(top, top + height, dtype=torch.float64),
        torch.arange(left, left + width, dtype=torch.float64),
        indexing="ij",
    )
    return transform_points(matrix, torch.stack([x, y], dim=-1)) + 0.5


def _is_inside(points: Tensor, size: int) -> Tensor:
    return ((points >= RIM_PX) & (points <= size - RIM_PX)).all(-1)
