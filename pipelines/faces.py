"""Faces of ComfyUI's pictures: chosen, aligned, and put back."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..images.conversion import (
    check_image,
    collect_pictures,
    image_to_planes,
    is_stand_in,
    mask_to_plane,
    planes_to_image,
    ready_to_truncate,
)
from ..images.face_geometry import (
    FACE_OVAL,
    MESH_POINTS,
    OUTSIDE,
    TEMPLATE_PX,
    face_template,
    five_points,
)
from ..images.face_masks import FaceMask
from ..images.face_places import FacePlace, FacePlaces, cut_face, put_face_back
from ..images.transparency import visible_planes

logger = logging.getLogger("resshift-diffbir")

FaceChoice = Literal["all", "largest", "by index"]
FACE_CHOICES: tuple[str, ...] = get_args(FaceChoice)
# The reference leaves out faces whose eyes are nearer to each other.
LEAST_EYE_DISTANCE_PX = 5.0
SIZE_PX = TEMPLATE_PX
# The part of an aligned face, as shares of its side, that a box around a mesh covers: left, top,
# right, bottom. Mean of the faces that look ahead in docs/faces.md.
MEAN_BOX = (0.225, 0.255, 0.775, 0.92)
# Of a background's sides, how far their proportions may be from the picture's, in pixels.
PROPORTION_SLACK_PX = 2.0
PICTURE_NUMBER = re.compile(r"\s*(\d+)\s*:")
SEPARATORS = re.compile(r"[\s,;()]+")


def choose_faces(
    landmarks: dict[str, Any],
    image: Tensor,
    *,
    choice: FaceChoice = "all",
    index: int = 0,
    least_eye_distance: float = LEAST_EYE_DISTANCE_PX,
    least_score: float = 0.0,
    size: int = SIZE_PX,
) -> FacePlaces:
    """Return where the chosen faces of every picture lie, in the order of the landmarks.

    Args:
        landmarks: FACE_LANDMARKS of ComfyUI's Detect Face Landmarks or of this pack's Detect Faces,
            or FACE_POINTS of Faces from Points.
        image: `(B, H, W, C)` IMAGE that they were found in.
        choice: All faces of each picture, its largest, or the one at a place in its list.
        index: That place, from 0.
        least_eye_distance: In pixels; faces whose eyes are nearer are left out.
        least_score: Faces of which the detector was less sure are left out.
        size: Side of the aligned faces.
    Raises:
        ValueError: If the landmarks are of other pictures or of another kind, or no face of a picture
            can have such points.
    """
    check_image(image)
    frames = landmarks["frames"]
    height, width = image.shape[1:3]
    if tuple(landmarks["image_size"]) != (height, width):
        was_height, was_width = landmarks["image_size"]
        raise ValueError(
            f"'faces' were found in pictures of {was_width}x{was_height}, and 'image' is"
            f" {width}x{height}. Connect the image that the faces were found in."
        )
    if len(frames) != len(image):
        raise ValueError(
            f"'faces' has the faces of {len(frames)} pictures, and 'image' has {len(image)}. Connect"
            " the image that the faces were found in."
        )
    found = [[_place(face, number) for face in frame] for number, frame in enumerate(frames)]
    for place in itertools.chain.from_iterable(found):
        _check_points(place, height, width)
    chosen = [
        place
        for places in found
        for place in _chosen_of(places, choice, index, least_eye_distance, least_score)
    ]
    logger.info("%d of %d faces in %d pictures", len(chosen), sum(map(len, found)), len(found))
    return FacePlaces(tuple(chosen), len(frames), height, width, size)


def _place(face: dict[str, Any], number: int) -> FacePlace:
    if "points_xy" in face:
        return FacePlace(number, torch.as_tensor(face["points_xy"]).double(), None, face["score"])
    mesh = torch.as_tensor(face["landmarks_xy"]).double()
    if len(mesh) not in MESH_POINTS:
        raise ValueError(
            f"'faces' has a face of {len(mesh)} points; this node knows those of MediaPipe's mesh,"
            f" {' or '.join(map(str, MESH_POINTS))}. For other detectors give five points or a box"
            " to Faces from Points."
        )
    return FacePlace(number, five_points(mesh), mesh[list(FACE_OVAL)], float(face["score"]))


def _check_points(place: FacePlace, height: int, width: int) -> None:
    if not bool(torch.isfinite(place.points).all()):
        raise ValueError(
            "'faces' has a face with NaN or infinite points; mend or replace the node that made it."
        )
    if place.eye_distance > max(height, width):
        raise ValueError(
            f"'faces' has a face with eyes {place.eye_distance:.0f} px apart in a picture of"
            f" {width}x{height}. Give its points in pixels of the picture."
        )


def _chosen_of(
    places: list[FacePlace],
    choice: FaceChoice,
    index: int,
    least_eye_distance: float,
    least_score: float,
) -> list[FacePlace]:
    """Return the chosen ones of a picture's faces."""
    if choice == "by index":
        places = places[index : index + 1]
    kept = []
    for place in places:
        if place.score < least_score:
            continue
        if place.eye_distance < max(least_eye_distance, 1e-3):
            logger.info(
                "picture %d: a face with eyes %.1f px apart is left as it is",
                place.picture,
                place.eye_distance,
            )
            continue
        kept.append(place)
    if choice == "largest" and kept:
        return [max(kept, key=lambda place: place.side)]
    return kept


def align_faces(image: Tensor, places: FacePlaces) -> Tensor:
    """Return the aligned faces as a batch, `(N, size, size, 3)` in [0, 1] on the CPU.

    Where there is no face the batch is one grey picture, so that what follows can run; `paste_faces`
    does nothing with it.

    Args:
        image: `(B, H, W, C)` IMAGE of the places.
        places: Where the faces lie.
    """
    if not places.faces:
        logger.info("no face: one grey picture stands in for the faces")
        return torch.tensor(OUTSIDE).expand(1, places.size, places.size, 3).clone()
    faces = (planes_to_image(aligned[None]) for aligned in aligned_faces(image, places))
    return collect_pictures(faces, len(places.faces))


def aligned_faces(
    image: Tensor, places: FacePlaces, sizes: Sequence[int] | None = None
) -> Iterator[Tensor]:
    """Yield each aligned face, `(3, size, size)` in [0, 1] on the CPU.

    Args:
        image: `(B, H, W, C)` IMAGE of the places.
        places: Where the faces lie.
        sizes: Side of each; None takes that of the places.
    """
    picture, planes = -1, torch.empty(0)
    for number, face in enumerate(places.faces):
        if face.picture != picture:
            picture = face.picture
            planes = visible_planes(image[picture : picture + 1])[0].cpu()
        yield cut_face(planes, face, places.size if sizes is None else sizes[number])


def paste_faces(
    background: Tensor,
    places: FacePlaces,
    faces: Tensor,
    *,
    strength: float = 1.0,
    mask: FaceMask = "soft square",
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return pictures with restored faces put back, and how much of each pixel is restored.

    Args:
        background: `(B, H, W, C)` IMAGE, the pictures at any enlargement; alpha is kept.
        places: Where the faces lie, from the node that aligned them.
        faces: `(N, S, S, C)` IMAGE, a restored face for each place.
        strength: Share of the restored face, 0 to 1.
        mask: How the mask of a face is made.
        allowed: MASK of the background's size: pixels of 0 stay as they are.
    Returns:
        IMAGE as the background, outside the mask bit for bit the same, and MASK `(B, H, W)`, both
        on the CPU.
    Raises:
        ValueError: If an input does not fit; the message says which and what to do.
    """
    check_image(faces, "'faces'")
    if faces.shape[1] != faces.shape[2]:
        raise ValueError(
            f"'faces' are {faces.shape[2]}x{faces.shape[1]}; aligned faces are square. Connect the"
            " faces of Align Faces after they were restored, uncropped."
        )
    expected = max(1, len(places.faces))
    if len(faces) != expected:
        raise ValueError(
            f"'faces' has {len(faces)} pictures for {len(places.faces)} places. Connect the faces"
            " of the same Align Faces that 'places' comes from, all of them."
        )
    planes = (image_to_planes(face[None])[0][0].cpu() for face in faces)
    return blend_faces(background, places, planes, strength=strength, mask=mask, allowed=allowed)


def blend_faces(
    background: Tensor,
    places: FacePlaces,
    faces: Iterator[Tensor],
    *,
    strength: float,
    mask: FaceMask,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `paste_faces` does, of faces that are made one after the other.

    Args:
        background: See `paste_faces`.
        places: Where the faces lie.
        faces: `(3, S, S)` in [0, 1] each, on the CPU, in the order of the places; S may differ.
        strength: See `paste_faces`.
        mask: See `paste_faces`.
        allowed: See `paste_faces`.
    """
    check_background(background, places)
    count, (height, width) = len(background), background.shape[1:3]
    if allowed is not None and is_stand_in(allowed, height, width):
        raise ValueError(
            "'mask' is the empty one that Load Image gives with a picture without transparency."
            " Connect the mask of what may change, 1 there, or disconnect 'mask'."
        )
    limits = None if allowed is None else mask_to_plane(allowed, count, height, width)[:, 0].cpu()
    pasted = background.float().cpu().clone()
    weights = torch.zeros(count, height, width)
    size = places.height, places.width
    for place, face in zip(places.faces, faces, strict=False):  # a stand-in has no place
        color = _color_planes(pasted, place.picture)
        put_face_back(
            color,
            weights[place.picture],
            face,
            place,
            size,
            strength=strength,
            mask=mask,
            allowed=None if limits is None else limits[place.picture],
        )
        _set_color(pasted[place.picture], color, weights[place.picture] > 0)
    return pasted, weights


def check_background(background: Tensor, places: FacePlaces) -> None:
    """Make sure that a background shows the pictures that faces were found in, at any size."""
    check_image(background, "'background'")
    if len(background) != places.pictures:
        raise ValueError(
            f"'background' has {len(background)} pictures, and the faces are of {places.pictures}."
            " Connect the same pictures that the faces were found in, restored or enlarged."
        )
    height, width = background.shape[1:3]
    expected = places.height * width / places.width
    if abs(height - expected) > PROPORTION_SLACK_PX * max(1, width / places.width):
        raise ValueError(
            f"'background' is {width}x{height}, and the faces were found in pictures of"
            f" {places.width}x{places.height}. Connect the same picture, uncropped; it may be"
            " enlarged."
        )


def _color_planes(pictures: Tensor, number: int) -> Tensor:
    """Return the colours of one picture, `(3, H, W)`, grey repeated."""
    return image_to_planes(pictures[number : number + 1])[0][0].contiguous()


def _set_color(picture: Tensor, planes: Tensor, changed: Tensor) -> None:
    """Write colours into the changed pixels of a picture `(H, W, C)`; grey takes their mean."""
    if picture.shape[-1] < 3:
        planes = planes.mean(0, keepdim=True)
    channels = len(planes)
    picture[..., :channels][changed] = ready_to_truncate(planes[:, changed].T)


def points_from_text(text: str, image: Tensor) -> dict[str, Any]:
    """Return FACE_POINTS of five points that a user writes, one face on each line.

    Args:
        text: Ten numbers on each line: x and y, in pixels, of the left eye, the right eye, the nose
            and the left and right mouth corner, as seen. `2: ` before them means the picture at
            place 2 of the batch, from 0; without it the first.
        image: `(B, H, W, C)` IMAGE that the faces are in.
    Raises:
        ValueError: If a line is something else or names a picture that is not there.
    """
    frames: list[list[dict[str, Any]]] = [[] for _ in image]
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        named = PICTURE_NUMBER.match(line)
        picture = int(named[1]) if named else 0
        if picture >= len(frames):
            raise ValueError(
                f"line {number} of 'points' names picture {picture}, and 'image' has {len(frames)},"
                " counted from 0."
            )
        values = [part for part in SEPARATORS.split(line[named.end() if named else 0 :]) if part]
        frames[picture].append(_face_of([_number(value, number) for value in values], number))
    return _as_points(frames, image)


def _number(value: str, line: int) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ValueError(f"line {line} of 'points' has '{value}', which is no number.") from error


def _face_of(values: list[float], line: int) -> dict[str, Any]:
    points = torch.tensor(values, dtype=torch.float64)
    if len(values) != 10 or not bool(torch.isfinite(points).all()):
        raise ValueError(
            f"line {line} of 'points' has {len(values)} numbers; give ten: x and y of the left eye,"
            " the right eye, the nose, the left and the right corner of the mouth."
        )
    return {"points_xy": points.reshape(5, 2), "score": 1.0}


def points_from_boxes(boxes: Any, image: Tensor) -> dict[str, Any]:
    """Return FACE_POINTS of upright faces in boxes, as a mean face has its points in its box.

    Args:
        boxes: BOUNDING_BOX: a box, a list of boxes for the first picture, or a list of such lists,
            one for each picture.
        image: `(B, H, W, C)` IMAGE that the faces are in.
    Raises:
        ValueError: If there are boxes of more pictures than there are, or a box is empty.
    """
    if isinstance(boxes, dict):
        boxes = [boxes]
    if not boxes or isinstance(boxes[0], dict):
        boxes = [boxes]
    if len(boxes) > len(image):
        raise ValueError(
            f"'boxes' has the boxes of {len(boxes)} pictures, and 'image' has {len(image)}. Connect"
            " the image that the boxes were found in."
        )
    frames = [[_face_in(box) for box in of_picture] for of_picture in boxes]
    return _as_points([*frames, *([] for _ in range(len(image) - len(frames)))], image)


def _face_in(box: dict[str, Any]) -> dict[str, Any]:
    width, height = float(box["width"]), float(box["height"])
    if min(width, height) <= 0:
        raise ValueError(f"'boxes' has a box of {width:g}x{height:g}; its sides must be positive.")
    left, top, right, bottom = MEAN_BOX
    side = ((width / (right - left)) * (height / (bottom - top))) ** 0.5
    middle = torch.tensor(
        [float(box["x"]) + width / 2, float(box["y"]) + height / 2], dtype=torch.float64
    )
    shares = face_template() / TEMPLATE_PX
    center = torch.tensor([(left + right) / 2, (top + bottom) / 2], dtype=torch.float64)
    points = middle + side * (shares - center) - 0.5
    return {"points_xy": points, "score": float(box.get("score", 1.0))}


def merge_points(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the faces of both, picture by picture."""
    frames = [a + b for a, b in zip(first["frames"], second["frames"], strict=True)]
    return {**first, "frames": frames}


def _as_points(frames: list[list[dict[str, Any]]], image: Tensor) -> dict[str, Any]:
    return {"frames": frames, "image_size": (image.shape[1], image.shape[2])}
