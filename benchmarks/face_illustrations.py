"""The pictures of the help pages on faces, and of docs/faces.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..images.conversion import image_to_planes
from ..images.face_geometry import face_template
from ..images.face_places import FacePlaces
from ..images.labels import label_grid
from ..images.resize import enlarge_bicubic, resize_bicubic
from ..pipelines.face_detection import detect_faces
from ..pipelines.faces import align_faces, choose_faces, paste_faces
from ..pipelines.restore_faces import resshift_restorer, restore_faces
from ..pipelines.restore_resshift import restore_with_resshift
from .contact_sheet import to_image

CREW = Path(__file__).resolve().parents[1] / "workflows" / "inputs" / "restoration_crew.jpg"
BOX_COLOUR, POINT_COLOUR = (255, 210, 60), (90, 255, 120)
LABEL_HEIGHT = 22
LIKENESSES = (0.0, 0.3, 0.6)
SHOWN_PX = 200


def read_crew() -> Tensor:
    """Return the sample photograph as IMAGE."""
    with Image.open(CREW) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"))).float()[None] / 255


def find_crew() -> tuple[Tensor, dict[str, Any], FacePlaces]:
    """Return the photograph, its faces and their places."""
    image = read_crew()
    faces = detect_faces(image)
    return image, faces, choose_faces(faces, image)


def mark_faces(image: Tensor, faces: dict[str, Any], scale: int = 2) -> Image.Image:
    """Return the first picture of an IMAGE, enlarged, with boxes and points of its faces."""
    picture = to_image(enlarge_bicubic(image_to_planes(image)[0], scale).clamp(0, 1))
    draw = ImageDraw.Draw(picture)
    for face in faces["frames"][0]:
        draw.rectangle([scale * float(side) for side in face["bbox_xyxy"]], outline=BOX_COLOUR)
        for x, y in scale * face["landmarks_xy"]:
            draw.ellipse([x - 0.5, y - 0.5, x + 0.5, y + 0.5], fill=POINT_COLOUR)
    return picture


def draw_detection(_: Any) -> Image.Image:
    image, faces, _places = find_crew()
    return mark_faces(image, faces).crop((140, 20, 720, 420))


def draw_points(_: Any) -> Image.Image:
    image, _faces, places = find_crew()
    picture = to_image(align_faces(image, places).movedim(-1, 1)[:1]).resize((320, 320))
    draw = ImageDraw.Draw(picture)
    names = ("left eye", "right eye", "nose", "left corner", "right corner")
    for name, (x, y) in zip(names, (face_template() * 320 / 512).tolist(), strict=True):
        draw.ellipse([x - 4, y - 4, x + 4, y + 4], outline=POINT_COLOUR, width=2)
        draw.text((x - 22, y + 6), name, fill=BOX_COLOUR)
    return picture


def draw_alignment(_: Any) -> Image.Image:
    image, _faces, places = find_crew()
    faces = resize_bicubic(align_faces(image, places).movedim(-1, 1), SHOWN_PX, SHOWN_PX)
    labels = [f"face {number}" for number in range(len(faces))]
    return to_image(label_grid(list(faces.clamp(0, 1)), labels, 3, LABEL_HEIGHT)[None])


def draw_masks(_: Any) -> Image.Image:
    image, _faces, places = find_crew()
    faces = align_faces(image, places)
    shown = {"photograph": image}
    for kind in ("soft square", "face oval"):
        _pasted, weights = paste_faces(image, places, faces, mask=kind)
        shown[kind] = image * (0.25 + 0.75 * weights[..., None])
    pieces = [image_to_planes(picture)[0][0, :, 20:200, 60:340] for picture in shown.values()]
    return to_image(label_grid(pieces, list(shown), 3, LABEL_HEIGHT)[None])


def draw_photo(materials: Any) -> Image.Image:
    model, vae = materials.model, materials.vae
    image, _faces, places = find_crew()
    behind = restore_with_resshift(model, vae, image, seed=0)
    bicubic = enlarge_bicubic(image_to_planes(image)[0], 4).clamp(0, 1)
    shown = {"bicubic": bicubic}
    for likeness in LIKENESSES:
        restorer = resshift_restorer(model, vae, likeness=likeness)
        made, _mask = restore_faces(restorer, image, places, seed=0, background=behind)
        shown[f"likeness {likeness:g}"] = image_to_planes(made)[0]
    pieces = [picture[0, :, 210:480, 680:940] for picture in shown.values()]
    return to_image(label_grid(pieces, list(shown), 2, LABEL_HEIGHT)[None])
