"""The pictures of the help pages of nodes for clips."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..images.conversion import image_to_planes, planes_to_image
from ..images.labels import label_grid
from ..images.motion import FrameGrid
from ..pipelines.clip_motion import noise_on_grid
from ..pipelines.restore_resshift import restore_with_resshift
from ..pipelines.steady_frames import Steadiness
from .clips import reduced
from .contact_sheet import to_image

LABEL_HEIGHT = 22
SEED = 1
# Of the noise's pixels, so that each can be seen.
NOISE_PX = 8
SHOWN_TIMES = 8
COLUMNS = 2
SCALE = 4


def draw_moving_noise(materials: Any) -> Image.Image:
    height, width, step = 120, 208, 24
    frames = _panned(materials, (height, width), COLUMNS, (step, 0))
    grid = FrameGrid(height // NOISE_PX, width // NOISE_PX, 1 / NOISE_PX)
    moved = noise_on_grid(frames, grid, range(len(frames)))
    generator = torch.Generator().manual_seed(SEED)
    noise = moved.of(torch.randn(1, 3, grid.height, grid.width, generator=generator))
    shown = F.interpolate((0.5 + 0.2 * noise).clamp(0, 1), (height, width), mode="nearest")
    labels = [*(f"frame {k}" for k in (1, 2)), *(f"noise of frame {k}" for k in (1, 2))]
    return to_image(label_grid([*frames, *shown], labels, COLUMNS, LABEL_HEIGHT)[None])


def draw_steady_frames(materials: Any) -> Image.Image:
    size, step = (160, 208), (3, 1)
    low = planes_to_image(reduced(_panned(materials, size, 3, step), SCALE))
    shown = {}
    for name, strength in (("each by itself", 0.0), ("strength 0.5", 0.5)):
        restored = restore_with_resshift(
            materials.model, materials.vae, low, seed=SEED, steadiness=Steadiness(strength)
        )
        planes = image_to_planes(restored)[0]
        change = torch.zeros_like(planes[2])
        rows, columns = size[0] - step[1], size[1] - step[0]
        before = planes[1][:, step[1] :, step[0] :]
        change[:, :rows, :columns] = (planes[2][:, :rows, :columns] - before).abs()
        shown[f"restored, {name}"] = planes[2]
        shown[f"flicker x{SHOWN_TIMES}, {name}"] = (SHOWN_TIMES * change).clamp(0, 1)
    pictures = [*list(shown.values())[::2], *list(shown.values())[1::2]]
    labels = [*list(shown)[::2], *list(shown)[1::2]]
    return to_image(label_grid(pictures, labels, COLUMNS, LABEL_HEIGHT)[None])


def _panned(materials: Any, size: tuple[int, int], count: int, step: tuple[int, int]) -> Tensor:
    """Return views of the photograph, each further right and down, `(count, 3, H, W)`."""
    left, top = materials.place
    planes = image_to_planes(materials.original)[0]
    views = [
        planes[
            ...,
            top + k * step[1] : top + k * step[1] + size[0],
            left + k * step[0] : left + k * step[0] + size[1],
        ]
        for k in range(count)
    ]
    return torch.cat(views)
