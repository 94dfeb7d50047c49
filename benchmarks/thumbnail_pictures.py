"""The thumbnails of the workflows; the command line is `thumbnails.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..images.conversion import image_to_planes, planes_to_image
from ..images.flow import resized_flow, warp_along
from ..images.resize import enlarge_bicubic
from ..model_loaders.resshift import bundled_vae, load_bundled_model
from ..pipelines.damage import correct_levels, scratch_mask
from ..pipelines.degrade import degrade_image
from ..pipelines.flow import find_flow
from ..pipelines.restore_faces import resshift_restorer, restore_faces
from ..pipelines.restore_resshift import restore_with_resshift
from ..pipelines.steady_frames import Steadiness
from ..training.teacher import load_teacher
from .clips import workflow_picture
from .contact_sheet import to_image
from .face_illustrations import find_crew
from .video_illustrations import SAMPLE as CLIP
from .video_illustrations import read_clip

SIDE = 400
QUALITY = 85
SCALE = 4
SEED = 0  # this and the likeness are those of the workflows
LINE = 2
SAMPLE, ORIGINAL = "restoration_raccoon.png", "restoration_original.jpg"
OLD_PHOTO = "restoration_old_photo.jpg"
Box = tuple[int, int, int, int]
# Left, top, right and bottom in the enlarged picture.
RACCOON: Box = (378, 20, 938, 580)
COFFEE: Box = (100, 0, 500, 400)
CREW: Box = (612, 100, 1012, 500)
CAT: Box = (76, 0, 376, 300)  # not enlarged
FRAME, CLIP_BOX = 8, (80, 0, 380, 300)
LIKENESS = 0.0
SHOWN_TIMES = 16  # of what changes between frames beyond their motion
# Of the strip of film: the height of its edge, and of its holes their size and distance.
EDGE, HOLE, HOLE_EVERY = 27, (18, 15), 34


@dataclass
class Makers:
    """What makes the results.

    Attributes:
        cache: Folder of downloads.
    """

    cache: Path

    @cached_property
    def bundled(self) -> tuple[Any, Any]:
        """The bundled MODEL and its VAE."""
        return load_bundled_model(dtype="fp32"), bundled_vae()

    def restore(self, planes: Tensor) -> Tensor:
        """Return `(1, 3, H, W)` restored by the bundled model as its template does."""
        made = restore_with_resshift(*self.bundled, planes_to_image(planes), seed=SEED)
        return image_to_planes(made)[0]


def write_thumbnails(folder: Path, cache: Path, names: Sequence[str] = ()) -> dict[str, int]:
    """Write `<workflow>.jpg` for those named, or all there is a picture for; return their bytes."""
    comfy.utils.set_progress_bar_enabled(False)
    makers = Makers(cache)
    written = {}
    with torch.inference_mode():
        for name in names or THUMBNAILS:
            path = folder / f"{name}.jpg"
            THUMBNAILS[name](makers).save(path, quality=QUALITY, optimize=True)
            written[name] = path.stat().st_size
    return written


def draw_bundled(makers: Makers) -> Image.Image:
    low = workflow_picture(SAMPLE)[None]
    return halves(enlarge(low), makers.restore(low), RACCOON)


def draw_stage_one(makers: Makers) -> Image.Image:
    low = workflow_picture(SAMPLE)[None]
    network = load_teacher(makers.cache)
    restored = network(low.to(next(network.parameters()).dtype)).float().clamp(0, 1)
    return halves(enlarge(low), restored, RACCOON)


def draw_input(_: Makers) -> Image.Image:
    """Draw what goes in: the weights that these workflows name were not at hand."""
    low = enlarge(workflow_picture(SAMPLE)[None])
    return square(low, RACCOON)


def draw_measure(makers: Makers) -> Image.Image:
    original = planes_to_image(workflow_picture(ORIGINAL)[None])
    low = image_to_planes(degrade_image(original, "one round, heavy", SEED, SCALE))[0]
    return halves(enlarge(low), makers.restore(low), COFFEE)


def draw_faces(makers: Makers) -> Image.Image:
    image, _faces, places = find_crew()
    behind = planes_to_image(makers.restore(image_to_planes(image)[0]))
    restorer = resshift_restorer(*makers.bundled, likeness=LIKENESS)
    made, _mask = restore_faces(restorer, image, places, seed=SEED, background=behind)
    return halves(enlarge(image_to_planes(image)[0]), image_to_planes(made)[0], CREW)


def draw_video(makers: Makers, *, restores: bool) -> Image.Image:
    low = image_to_planes(read_clip(CLIP, skip=FRAME, count=1))[0]
    before = enlarge(low)
    if restores:
        return on_film(halves(before, makers.restore(low), CLIP_BOX))
    return on_film(square(before, CLIP_BOX))


def draw_steady_frames(makers: Makers) -> Image.Image:
    """Draw a steadied frame, and below what flickers in two: each by itself, and steadied."""
    low = read_clip(CLIP, skip=FRAME - 1, count=2)
    planes = image_to_planes(low)[0]
    flow = find_flow(planes[1:], planes[:1])
    half = SIDE // 2
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    for k, strength in enumerate((0.0, 0.5)):
        made = restore_with_resshift(
            *makers.bundled, low, seed=SEED, steadiness=Steadiness(strength)
        )
        before, now = image_to_planes(made)[0].split(1)
        moved = warp_along(before, resized_flow(flow, (now.shape[-2], now.shape[-1])))
        change = square((SHOWN_TIMES * (now - moved).abs()).clamp(0, 1), CLIP_BOX)
        picture.paste(square(now, CLIP_BOX).crop((0, EDGE, SIDE, half + EDGE)), (0, 0))
        piece = change.resize((half - LINE // 2, half - LINE))
        picture.paste(piece, (k * (half + LINE // 2), half + LINE))
    return on_film(picture)


def draw_old_photo(_: Makers) -> Image.Image:
    """Draw the photograph, and its colours and found scratches; what fills them was not at hand."""
    image = planes_to_image(workflow_picture(OLD_PHOTO)[None])
    mask = scratch_mask(image, 0.3, 3, "light and dark", True, 2)[..., None]
    levelled = correct_levels(image, 0.8, "each channel", 0.5)
    marked = levelled * (1 - mask) + mask * torch.tensor([0.9, 0.1, 0.1])
    return halves(image_to_planes(image)[0], image_to_planes(marked)[0], CAT)


def on_film(picture: Image.Image) -> Image.Image:
    """Return it with the holed edges of a film."""
    draw = ImageDraw.Draw(picture)
    width, height = HOLE
    for top in (0, SIDE - EDGE):
        draw.rectangle((0, top, SIDE, top + EDGE), fill=(16, 16, 16))
        y = top + (EDGE - height) // 2
        for x in range((HOLE_EVERY - width) // 2, SIDE, HOLE_EVERY):
            draw.rounded_rectangle((x, y, x + width, y + height), 4, fill=(235, 235, 235))
    return picture


def enlarge(planes: Tensor) -> Tensor:
    """Return `(1, 3, H, W)` enlarged as Upscale Image By does."""
    return enlarge_bicubic(planes, SCALE).clamp(0, 1)


def square(planes: Tensor, box: Box) -> Image.Image:
    """Return a square part of `(1, 3, H, W)` as a thumbnail."""
    return to_image(planes).crop(box).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def halves(before: Tensor, after: Tensor, box: Box) -> Image.Image:
    """Return the left half of one and the right half of the other, a line between them."""
    picture, other = square(before, box), square(after, box)
    middle = SIDE // 2
    picture.paste(other.crop((middle, 0, SIDE, SIDE)), (middle, 0))
    ImageDraw.Draw(picture).rectangle((middle - LINE // 2, 0, middle, SIDE), fill="white")
    return picture


THUMBNAILS: dict[str, Callable[[Makers], Image.Image]] = {
    **dict.fromkeys(("resshift_x4_bundled", "resshift_ksampler"), draw_bundled),
    "resshift_sampler_custom": draw_bundled,
    "restoration_stage1": draw_stage_one,
    "restoration_measure": draw_measure,
    "face_photo_bundled": draw_faces,
    "video_bundled": partial(draw_video, restores=True),
    "video_steady_frames": draw_steady_frames,
    "restoration_old_photo": draw_old_photo,
    **dict.fromkeys(("video_resshift", "video_diffbir"), partial(draw_video, restores=False)),
    **dict.fromkeys(
        (
            "resshift_x4_released",
            "resshift_one_step",
            "diffbir_one_node",
            "diffbir_text",
            "diffbir_v2_x4",
            "diffbir_v2_1_x4",
            "diffbir_sampler_custom",
            "diffbir_fidelity",
            "diffbir_after_resshift",
            "hypir_one_node",
            "hypir_sampler_custom",
        ),
        draw_input,
    ),
}
