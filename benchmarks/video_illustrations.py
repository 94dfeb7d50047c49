"""Restored clips as pictures: frames beside each other, and a row of pixels over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..images.color import ColorFix, fix_color
from ..images.conversion import image_to_planes, planes_to_image
from ..images.labels import label_grid
from ..images.resize import enlarge_bicubic, resize_bicubic
from ..model_loaders.resshift import bundled_vae, load_bundled_model
from ..pipelines.flicker import measure_flicker
from ..pipelines.restore_resshift import restore_with_resshift
from ..pipelines.steady_frames import Steadiness
from ..training.validation import gradient_energy
from ..videos.reading import read_frames
from .contact_sheet import to_image

SAMPLE = Path(__file__).resolve().parents[1] / "workflows" / "inputs" / "restoration_clip.mp4"
SCALE = 4
SEED = 1
LABEL_HEIGHT = 22


def read_clip(path: Path, *, skip: int = 0, count: int, width: int | None = None) -> Tensor:
    """Return frames of a video as IMAGE.

    Args:
        path: The video.
        skip: How many are passed over.
        count: How many at most.
        width: What they are reduced to; None leaves their size.
    """
    frames, _ = next(read_frames(path, count, skip=skip))
    image = torch.from_numpy(frames.astype(np.float32) / np.iinfo(frames.dtype).max)
    if width is None:
        return image
    planes = image.movedim(-1, 1)
    height = round(planes.shape[-2] * width / planes.shape[-1])
    return resize_bicubic(planes, height, width).clamp(0, 1).movedim(1, -1)


def time_slice(clip: Tensor, row: int, height: int) -> Tensor:
    """Return a row of pixels over time, the first frame's at the top.

    What stands still gives upright lines, what moves evenly slanted ones; what flickers tears them.

    Args:
        clip: `(N, 3, H, W)`.
        row: Which row of each frame.
        height: Of the result; as many rows for each frame as fit, the rest white.
    Returns:
        `(3, height, W)`.
    """
    rows = clip[:height, :, row].movedim(0, 1)  # (3, N, W)
    shown = rows.repeat_interleave(height // rows.shape[1], 1)
    return F.pad(shown, (0, 0, 0, height - shown.shape[1]), value=1.0)


def draw_clips(
    clips: Mapping[str, Tensor],
    moments: Sequence[int],
    row: int,
    columns: slice = slice(None),
    rows: slice = slice(None),
) -> Image.Image:
    """Return a line for each clip: frames of it, then a row of pixels over time.

    Args:
        clips: `(N, 3, H, W)` each, all of one size, by name.
        moments: Which frames are shown.
        row: Which row of pixels is shown over time.
        columns: Which part of the width is shown.
        rows: Which part of the height is shown.
    """
    cells, labels = [], []
    for name, clip in clips.items():
        shown = [clip[moment, :, rows, columns] for moment in moments]
        cells += [*shown, time_slice(clip[..., columns], row, shown[0].shape[-2])]
        labels += [f"{name}, frame {moment}" for moment in moments]
        labels.append(f"{name}, row {row} over time")
    return to_image(label_grid(cells, labels, len(moments) + 1, LABEL_HEIGHT)[None])


def restored_clip(model: Any, vae: Any, image: Tensor, **options: Any) -> Tensor:
    """Return a clip restored by a ResShift MODEL as `(N, 3, H, W)`."""
    made = restore_with_resshift(model, vae, image, seed=SEED, **options)
    return image_to_planes(made)[0]


def bundled_clip(image: Tensor, *, steadiness: float = 0.0, **options: Any) -> Tensor:
    """Return a clip restored by the bundled model as `(N, 3, H, W)`."""
    model, vae = load_bundled_model(dtype="fp32"), bundled_vae()
    return restored_clip(model, vae, image, steadiness=Steadiness(steadiness), **options)


def with_colors(clip: Tensor, reference: Tensor, methods: Sequence[ColorFix]) -> dict[str, Tensor]:
    """Return a clip with colours fixed by each method, and AdaIN's by statistics of all frames."""
    made = {method: fix_color(clip, reference, method).clamp(0, 1) for method in methods}
    count, channels, height, width = clip.shape
    as_one = [part.movedim(0, 1).reshape(1, channels, -1, width) for part in (clip, reference)]
    fixed = fix_color(*as_one, "adain").reshape(channels, count, height, width).movedim(0, 1)
    return {**made, "adain of the whole clip": fixed.clamp(0, 1)}


def measure_clip(clip: Tensor, enlarged: Tensor, image: Tensor, by_frame: Tensor) -> str:
    """Return how much a clip flickers, its sharpness, and how far its colours go, in words.

    Args:
        clip: `(N, 3, H, W)` restored.
        enlarged: Its frames enlarged.
        image: IMAGE that was restored.
        by_frame: It restored frame by frame, whose sharpness is 1.
    """
    flicker = measure_flicker(planes_to_image(clip), image)
    sharpness = gradient_energy(clip) / gradient_energy(by_frame)
    drift = (clip - enlarged).mean((-2, -1)).diff(dim=0).abs().mean()
    return f"flicker {flicker.ratio:.3f}, sharpness {sharpness:.3f}, colours jump {255 * drift:.3f}/255"


def enlarged_clip(image: Tensor) -> Tensor:
    """Return a clip enlarged by bicubic interpolation as `(N, 3, H, W)`."""
    return enlarge_bicubic(image_to_planes(image)[0], SCALE).clamp(0, 1)


def draw_video(materials: Any) -> Image.Image:
    image = read_clip(SAMPLE, count=25)[::2]
    clips = {
        "bicubic": enlarged_clip(image),
        "restored": restored_clip(materials.model, materials.vae, image),
    }
    return draw_clips(clips, (8,), 150, slice(40, 360), slice(20, 240))
