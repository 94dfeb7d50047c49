"""Validation on whole photographs that are never trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..images.degradation import filter_image, gaussian_kernel, jpeg_compress
from ..images.metrics import psnr, ssim
from ..images.resize import enlarge_bicubic, resize_bicubic
from .network import SCALE
from .precision import mixed_precision
from .teacher import restore as restore_by_teacher

PICTURES = ("astronaut", "coffee", "chelsea", "rocket", "motorcycle")
LEVELS = ("heavy", "light")
LONGEST_SIDE = 448
SEED = 1234


@dataclass(frozen=True)
class Case:
    """One degraded picture.

    Attributes:
        name: Picture and level.
        level: Entry of `LEVELS`.
        original: `(1, 3, 4 h, 4 w)` in [0, 1].
        lq: `(1, 3, h, w)` in [0, 1].
        teacher: The teacher's restoration, like `original`.
    """

    name: str
    level: str
    original: Tensor
    lq: Tensor
    teacher: Tensor

    def to(self, device: torch.device) -> Case:
        """Return the case with its pictures on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("original", "lq", "teacher")}
        return replace(self, **moved)


def degrade_at(original: Tensor, level: str, seed: int) -> Tensor:
    """Return `original` (1, 3, H, W) degraded by a fixed recipe, `(1, 3, H / 4, W / 4)`.

    Heavy is a blur of 2 pixels, noise of 12/255 and JPEG 50; light is noise of 2/255 and JPEG 85.
    """
    sigma, noise, quality = {"heavy": (2.0, 12, 50), "light": (0.0, 2, 85)}[level]
    if sigma:
        original = filter_image(original, gaussian_kernel(13, sigma, sigma))
    small = resize_bicubic(original, original.shape[2] // SCALE, original.shape[3] // SCALE)
    generator = torch.Generator().manual_seed(seed)
    noisy = small + noise / 255 * torch.randn(small.shape, generator=generator)
    return jpeg_compress(noisy, quality)


def build_cases(
    teacher: nn.Module, pictures: Sequence[str] = PICTURES, longest_side: int = LONGEST_SIDE
) -> list[Case]:
    """Return pictures of scikit-image at all levels, reduced to `longest_side`."""
    return degrade_all(teacher, {name: read_picture(name) for name in pictures}, longest_side)


def read_picture(name: str) -> Tensor:
    """Return a picture of scikit-image, `(1, 3, H, W)` in [0, 1]."""
    pixels = skimage.data.stereo_motorcycle()[0] if name == "motorcycle" else None
    pixels = getattr(skimage.data, name)() if pixels is None else pixels
    return to_picture(pixels)


def to_picture(pixels: np.ndarray) -> Tensor:
    """Return 8-bit pixels `(H, W, 3)` or, grey, `(H, W)` as `(1, 3, H, W)` in [0, 1]."""
    picture = torch.from_numpy(pixels.copy()).float() / 255
    if picture.ndim == 2:
        picture = picture.unsqueeze(2).expand(-1, -1, 3)
    return picture.permute(2, 0, 1)[None].contiguous()


def degrade_all(
    teacher: nn.Module, originals: dict[str, Tensor], longest_side: int = LONGEST_SIDE
) -> list[Case]:
    """Return pictures `(1, 3, H, W)` by name at all levels, reduced to `longest_side`."""
    cases = []
    for number, (name, original) in enumerate(originals.items()):
        factor = min(1.0, longest_side / max(original.shape[2:]))
        height, width = (int(factor * side) // 16 * 16 for side in original.shape[2:])
        original = resize_bicubic(original, height, width).clamp(0, 1)
        for level in LEVELS:
            lq = degrade_at(original, level, SEED + number)
            restored = restore_by_teacher(teacher, lq)
            cases.append(Case(f"{name} {level}", level, original, lq, restored))
    return cases


def load_cases(path: Path) -> list[Case]:
    """Return the cases that `save_cases` wrote."""

    def unpacked(value: object) -> object:
        return value.float() / 255 if isinstance(value, Tensor) else value

    stored = torch.load(path, weights_only=True)
    return [Case(**{name: unpacked(value) for name, value in case.items()}) for case in stored]


def save_cases(path: Path, cases: list[Case]) -> None:
    """Write the cases in 8 bit, so that the teacher is asked once only."""

    def packed(value: object) -> object:
        return (value * 255).round().to(torch.uint8) if isinstance(value, Tensor) else value

    torch.save([{name: packed(v) for name, v in vars(case).items()} for case in cases], path)


def gradient_energy(image: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels."""
    across = (image[..., 1:] - image[..., :-1]).square().mean()
    return across + (image[..., 1:, :] - image[..., :-1, :]).square().mean()


def restore_all(
    restore: Callable[[Tensor, torch.Generator], Tensor], cases: list[Case], device: torch.device
) -> list[Tensor]:
    """Return every case restored by a function of the picture and the source of its noise."""
    restored = []
    for case in cases:
        generator = torch.Generator().manual_seed(SEED)
        with mixed_precision(device):
            restored.append(restore(case.lq.to(device), generator).cpu())
    return restored


def enlarge_all(cases: list[Case]) -> list[Tensor]:
    """Return every case enlarged bicubically."""
    return [enlarge_bicubic(case.lq, SCALE).clamp(0, 1) for case in cases]


def measure(
    cases: list[Case],
    restored: list[Tensor],
    distance: nn.Module,
    device: torch.device,
) -> dict[str, float]:
    """Return the mean figures of each level, named `<level>_<figure>`; see `measure_case`."""
    figures = {}
    for level in LEVELS:
        rows = [
            measure_case(case.to(device), image.to(device), distance)
            for case, image in zip(cases, restored, strict=True)
            if case.level == level
        ]
        for key in rows[0]:
            figures[f"{level}_{key}"] = float(np.mean([row[key] for row in rows]))
    return figures


@torch.no_grad()
def measure_case(case: Case, image: Tensor, distance: nn.Module) -> dict[str, float]:
    """Return the figures of one restored picture.

    `psnr`, `ssim` and `feature` are against the original, `teacher_psnr` and `teacher_ssim` against
    the teacher's picture, `energy` is the gradient energy over that of the teacher's picture.
    """
    return {
        "psnr": psnr(image, case.original).item(),
        "ssim": ssim(image, case.original).item(),
        "feature": distance(image, case.original).item(),
        "teacher_psnr": psnr(image, case.teacher).clamp(max=99).item(),
        "teacher_ssim": ssim(image, case.teacher).item(),
        "energy": (gradient_energy(image) / gradient_energy(case.teacher)).item(),
    }


def save_sheet(path: Path, cases: list[Case], restored: list[Tensor]) -> None:
    """Write a PNG with a row per case: bicubic, restored, teacher, original."""
    rows = []
    for case, image, enlarged in zip(cases, restored, enlarge_all(cases), strict=True):
        row = torch.cat([enlarged, image, case.teacher, case.original], dim=3)
        rows.append(F.pad(row, (0, 4 * LONGEST_SIDE - row.shape[3])))
    sheet = torch.cat(rows, dim=2)[0].clamp(0, 1)
    pixels = (sheet * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)
