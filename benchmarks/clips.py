"""Clips whose motion is known: views of a photograph along a path, and a patch before a still ground."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..images.warp import chain_transforms, invert_transform, transform_points, warp

PICTURES = Path(__file__).resolve().parents[1] / "workflows" / "inputs"


@dataclass(frozen=True)
class Clip:
    """Frames and the motion between them, as `images/flow.py` defines a flow.

    Attributes:
        frames: `(T, 3, H, W)` in [0, 1].
        backward: `(T - 1, 2, H, W)`: of each frame but the first, the flow to the frame before.
        forward: `(T - 1, 2, H, W)`: of each frame but the last, the flow to the frame after.
        shown: `(T - 1, 1, H, W)`, 1 where the frame before shows what the frame shows.
    """

    frames: Tensor
    backward: Tensor
    forward: Tensor
    shown: Tensor


def workflow_picture(name: str) -> Tensor:
    """Return a picture of the shipped workflows, all free, as `(3, H, W)` in [0, 1]."""
    with Image.open(PICTURES / name) as opened:
        pixels = np.array(opened.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def similarity(
    scale: float, degrees: float, middle: tuple[float, float], shift: tuple[float, float]
) -> Tensor:
    """Return the `(2, 3)` transform that turns and scales about a point (x, y), then shifts."""
    cos, sin = (f(math.radians(degrees)) * scale for f in (math.cos, math.sin))
    matrix = torch.tensor([[cos, -sin, 0], [sin, cos, 0]], dtype=torch.float64)
    point = torch.tensor(middle, dtype=torch.float64)
    matrix[:, 2] = point - matrix[:, :2] @ point + torch.tensor(shift, dtype=torch.float64)
    return matrix


def moved_clip(
    photograph: Tensor,
    size: tuple[int, int],
    count: int,
    *,
    shift: tuple[float, float] = (0, 0),
    zoom: float = 1,
    turn: float = 0,
    reduction: float = 1,
) -> Clip:
    """Return a clip of a photograph that moves evenly.

    Args:
        photograph: `(3, H, W)` in [0, 1], large enough for the whole way.
        size: (height, width) of the frames; the way's middle shows the photograph's middle.
        count: Number of frames, 2 or more.
        shift: Pixels (x, y) that the picture moves from a frame to the next.
        zoom: Factor from a frame to the next, about the middle.
        turn: Degrees from a frame to the next, about the middle.
        reduction: Size of the photograph in the first frame, as a fraction of its own.
    """
    height, width = size
    middle = ((width - 1) / 2, (height - 1) / 2)
    half = (count - 1) / 2
    base = similarity(reduction, 0, (0, 0), (0, 0))
    of_photograph = torch.tensor([photograph.shape[-1] - 1, photograph.shape[-2] - 1])
    base[:, 2] = torch.tensor(middle, dtype=torch.float64) - reduction * of_photograph / 2
    # From the places of a picture that does not move to those of frame k.
    paths = [
        similarity(
            zoom**k, turn * (k - half), middle, (shift[0] * (k - half), shift[1] * (k - half))
        )
        for k in range(count)
    ]
    grey = photograph.mean(dim=(1, 2))
    frames = [warp(photograph, chain_transforms(base, path), height, width, grey) for path in paths]
    pairs = list(pairwise(paths))
    backward = torch.stack([_flow_along(after, before, size) for before, after in pairs])
    forward = torch.stack([_flow_along(before, after, size) for before, after in pairs])
    rows, columns = torch.meshgrid(
        *(torch.arange(side, dtype=torch.float32) for side in size), indexing="ij"
    )
    x, y = columns + backward[:, :1], rows + backward[:, 1:]
    shown = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    return Clip(torch.stack(frames).clamp(0, 1), backward, forward, shown.float())


def patch_clip(ground: Tensor, patch: Tensor, count: int, shift: tuple[int, int]) -> Clip:
    """Return a clip of a patch that moves before a still ground by whole pixels.

    Args:
        ground: `(3, H, W)` in [0, 1].
        patch: `(3, h, w)` in [0, 1]; the middle of its way is the middle of the ground.
        count: Number of frames, 2 or more.
        shift: Pixels (x, y) from a frame to the next.
    """
    height, width = patch.shape[-2:]
    top = (ground.shape[-2] - height - shift[1] * (count - 1)) // 2
    left = (ground.shape[-1] - width - shift[0] * (count - 1)) // 2
    places = [
        (
            slice(top + k * shift[1], top + k * shift[1] + height),
            slice(left + k * shift[0], left + k * shift[0] + width),
        )
        for k in range(count)
    ]
    frames = ground.repeat(count, 1, 1, 1)
    covered = torch.zeros(count, 1, *ground.shape[-2:])
    for frame, cover, (rows, columns) in zip(frames, covered, places, strict=True):
        frame[:, rows, columns] = patch
        cover[:, rows, columns] = 1
    step = torch.tensor(shift, dtype=torch.float32).view(2, 1, 1)
    # What the patch left bare is new.
    shown = 1 - covered[:-1] * (1 - covered[1:])
    return Clip(frames, -step * covered[1:], step * covered[:-1], shown)


def reduced(frames: Tensor, factor: int) -> Tensor:
    """Return frames `(T, 3, H, W)` smaller by a whole factor, bicubic with antialias, in [0, 1]."""
    height, width = frames.shape[-2:]
    size = (height // factor, width // factor)
    smaller = F.interpolate(frames, size, mode="bicubic", align_corners=False, antialias=True)
    return smaller.clamp(0, 1)


def compressed(frames: Tensor, quality: int) -> Tensor:
    """Return frames `(T, 3, H, W)` each saved as JPEG and read again."""
    decoded = []
    for frame in frames:
        file = BytesIO()
        levels = (frame * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(levels).save(file, "JPEG", quality=quality)
        decoded.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(decoded).float() / 255


def noisy(frames: Tensor, strength: float, seed: int = 0) -> Tensor:
    """Return frames `(T, 3, H, W)` with Gaussian noise, other in each frame, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return (frames + strength * torch.randn(frames.shape, generator=generator)).clamp(0, 1)


def _flow_along(path_from: Tensor, path_to: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = torch.meshgrid(
        *(torch.arange(side, dtype=torch.float64) for side in size), indexing="ij"
    )
    places = torch.stack([columns, rows], dim=-1)  # (H, W, 2): x, y
    moved = transform_points(chain_transforms(invert_transform(path_from), path_to), places)
    return (moved - places).permute(2, 0, 1).float()
