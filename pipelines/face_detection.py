"""Finding of faces with the networks that ship with the pack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import numpy as np
import torch
from torch import Tensor

from ..images.conversion import check_image
from ..images.face_detection import (
    EYES,
    MESH_PX,
    OUTER_CORNERS,
    box_around,
    corners_of,
    cut_tiles,
    decode_faces,
    distinct_boxes,
    face_levels,
    in_picture,
    merge_faces,
    mesh_square,
    whole_faces,
)
from ..images.transparency import visible_planes
from ..images.warp import invert_transform, transform_points, warp
from ..model_loaders.face_landmarker import FaceLandmarker, load_face_landmarker

SCORE = 0.5
SMALLEST_PX = 24
# Tiles that share a call: a picture's own, so that no other picture changes them.
TILES_AT_ONCE = 16
# ComfyUI's 3D points are in pixels of a mesh that sees 192 of them.
COMFYUI_MESH_PX = 192


def detect_faces(
    image: Tensor, *, score: float = SCORE, smallest: int = SMALLEST_PX, most: int = 0
) -> dict[str, Any]:
    """Return the faces of every picture as FACE_LANDMARKS, the surest first.

    Every picture is looked at by itself, whole and in ever smaller tiles, so a batch gives what its
    pictures give alone.

    Args:
        image: `(B, H, W, C)` IMAGE.
        score: Least score of the detector, and least probability of the mesh that a face is there.
        smallest: Width of the smallest face that is to be found, in pixels.
        most: Faces of each picture at most, 0 for all.
    Returns:
        The dict of ComfyUI's Detect Face Landmarks, `landmarks_xy` with 478 points; `blendshapes`
        is empty and there is no `transformation_matrix`.
    Raises:
        ValueError: If `image` is no IMAGE.
    """
    check_image(image)
    landmarker = load_face_landmarker()
    landmarker.load()
    frames = []
    for picture in image:
        comfy.model_management.throw_exception_if_processing_interrupted()
        planes = visible_planes(picture[None])[0].cpu()
        faces = _faces(landmarker, planes, score, smallest)
        frames.append(faces[:most] if most else faces)
    return {
        "frames": frames,
        "image_size": (image.shape[1], image.shape[2]),
        "connection_sets": landmarker.connection_sets,
    }


def bounding_boxes(landmarks: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the BOUNDING_BOX of every face of FACE_LANDMARKS, a list for each picture."""
    return [[_bounding_box(face) for face in frame] for frame in landmarks["frames"]]


def _bounding_box(face: dict[str, Any]) -> dict[str, Any]:
    left, top, right, bottom = (float(value) for value in face["bbox_xyxy"])
    sides = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return {**sides, "label": "face", "score": float(face["score"])}


def _faces(
    landmarker: FaceLandmarker, planes: Tensor, score: float, smallest: int
) -> list[dict[str, Any]]:
    faces = []
    for mean, best, sure in _boxes(landmarker, planes, score, smallest):
        # Either may lead the mesh astray, on a face that looks aside or down.
        face = _mesh(landmarker, planes, mean, score) or _mesh(landmarker, planes, best, score)
        if face is not None:
            faces.append({**face, "score": sure})
    if not faces:
        return []
    boxes = torch.stack([torch.from_numpy(face["bbox_xyxy"]) for face in faces])
    groups = distinct_boxes(boxes, torch.tensor([face["score"] for face in faces]))
    return [faces[group[0]] for group in groups]


def _boxes(
    landmarker: FaceLandmarker, planes: Tensor, score: float, smallest: int
) -> list[tuple[Tensor, Tensor, float]]:
    """Return what the detector sees in pixels of the picture; see `merge_faces`."""
    size = planes.shape[-2], planes.shape[-1]
    found, scores = [torch.zeros(0, 8, 2)], [torch.zeros(0)]
    for level in face_levels(*size, smallest):
        tiles = cut_tiles(planes, level).split(TILES_AT_ONCE)
        results = [_run(landmarker.detector, part) for part in tiles]
        numbers, logits = (torch.cat(parts) for parts in zip(*results, strict=True))
        for corner, *seen in zip(level.corners, numbers, logits, strict=True):
            faces, sure = decode_faces(seen[0], seen[1], score)
            whole = whole_faces(faces, level, corner)
            found.append(in_picture(faces[whole], level, corner, size))
            scores.append(sure[whole])
    return merge_faces(torch.cat(found), torch.cat(scores))


def _mesh(
    landmarker: FaceLandmarker, planes: Tensor, found: Tensor, score: float
) -> dict[str, Any] | None:
    """Return the face in a box with key points `(8, 2)`, None where the mesh sees none.

    The mesh looks a second time, at the square around what it found the first time.
    """
    first = _look(landmarker, planes, corners_of(found[:2].flatten().tolist()), found[2:][EYES])
    if first.presence.sigmoid() < score:
        return None
    face = _look(landmarker, planes, first.points, first.points[OUTER_CORNERS])
    if face.presence.sigmoid() < score:
        return None
    return {
        "bbox_xyxy": _numbers(box_around(face.points)),
        "blendshapes": {},
        "landmarks_xy": _numbers(face.points),
        "landmarks_3d": _numbers(face.mesh * (COMFYUI_MESH_PX / MESH_PX)),
        "presence": float(face.presence),
    }


@dataclass(frozen=True)
class _Mesh:
    mesh: Tensor  # (478, 3) in pixels of the square it was seen in
    points: Tensor  # (478, 2) in pixels of the picture
    presence: Tensor  # logit


def _look(landmarker: FaceLandmarker, planes: Tensor, around: Tensor, eyes: Tensor) -> _Mesh:
    """Return what the mesh sees in the square around points, turned until the eyes are level."""
    matrix = mesh_square(around, eyes)
    square = warp(planes, matrix, MESH_PX, MESH_PX, torch.zeros(3)).clamp(0, 1)
    mesh, presence, _ = _run(landmarker.mesh, square[None])
    seen = mesh.reshape(-1, 3).double()
    points = transform_points(invert_transform(matrix), seen[:, :2] - 0.5)
    return _Mesh(seen, points, presence)


def _numbers(values: Tensor) -> np.ndarray:
    return values.numpy().astype(np.float32)


def _run(patcher: Any, pictures: Tensor) -> list[Tensor]:
    return [made.float().cpu() for made in patcher.model(pictures.to(patcher.load_device))]
