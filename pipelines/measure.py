"""How far images are from their references, in figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Literal, get_args

import comfy.model_management
import torch
from torch import Tensor

from ..images.color import luminance
from ..images.conversion import check_count, image_to_planes
from ..images.metrics import SSIM_WINDOW, channel_ssim, gmsd, psnr
from ..images.niqe import niqe
from .figures import figures_table

LumaRange = Literal["full range", "limited range"]
LUMA_RANGES: tuple[str, ...] = get_args(LumaRange)

NO_PERCEPTUAL: Literal["none"] = "none"
# Names of the choices: what pyiqa calls them.
PERCEPTUAL_SCORES: dict[str, str] = {
    "LPIPS (AlexNet)": "lpips",
    "DISTS": "dists",
    "NIQE, no reference": "niqe",
    "MUSIQ, no reference": "musiq",
    "MANIQA, no reference": "maniqa",
    "CLIPIQA, no reference": "clipiqa",
}

# The luma of video, 16 to 235 of 255, against that of 0 to 255.
LIMITED_SPAN = 219 / 255
LIMITED_BLACK = 16 / 255


@dataclass(frozen=True)
class Measured:
    """Figures of a batch.

    Attributes:
        report: A table with a row for each picture, as text.
        psnr_y: Mean PSNR of the luma in dB; infinite where pictures are equal.
        ssim_y: Mean SSIM of the luma.
        psnr_rgb: Mean PSNR over the three channels in dB.
        ssim_rgb: Mean SSIM of the three channels.
        gmsd: Mean gradient magnitude similarity deviation of the luma.
        niqe: Mean NIQE of the images alone; NaN where one is too small or flat.
    """

    report: str
    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    ssim_rgb: float
    gmsd: float
    niqe: float


def measure_images(
    image: Tensor,
    reference: Tensor,
    border: int = 0,
    luma: LumaRange = "full range",
    perceptual: str = NO_PERCEPTUAL,
) -> Measured:
    """Return figures of an IMAGE against a reference.

    Values are limited to [0, 1] and not rounded to 8 bit; alpha does not count. GMSD always takes
    luma of full range, and NIQE MATLAB's luma in 8 bit.

    Args:
        image: `(B, H, W, C)` IMAGE.
        reference: IMAGE of the same size; one picture serves a whole batch.
        border: Pixels left out on each side.
        luma: BT.601 luma: `full range` from 0 to 255, `limited range` from 16 to 235, which is
            MATLAB's and that of most papers.
        perceptual: A name of `PERCEPTUAL_SCORES`, or `none`.
    Raises:
        ValueError: If the sizes differ, too little is left inside the border, or pyiqa is missing.
    """
    planes, target = _fit(image, reference)
    _, _, height, width = planes.shape
    if min(height, width) - 2 * border < SSIM_WINDOW:
        raise ValueError(
            f"'image' is {width}x{height} and {border} pixels are left out on each side; SSIM needs"
            f" {SSIM_WINDOW}x{SSIM_WINDOW} pixels inside, so take a smaller border or larger images."
        )
    inside = (..., slice(border, height - border), slice(border, width - border))
    planes, target = planes[inside], target[inside]
    columns = {
        "PSNR Y": (lambda x, y: psnr(_luma(x, luma), _luma(y, luma)), 2),
        "SSIM Y": (lambda x, y: channel_ssim(_luma(x, luma), _luma(y, luma)), 4),
        "PSNR RGB": (psnr, 2),
        "SSIM RGB": (channel_ssim, 4),
        "GMSD": (gmsd, 4),
        "NIQE": (lambda x, _: niqe(x), 2),
    }
    notes = [
        f"Y: BT.601 luma, {luma}. PSNR: dB, peak 1, more is better.",
        "SSIM: Gaussian window, 11 pixels, sigma 1.5, no padding; 1 is equal. GMSD: 0 is equal.",
        "NIQE: the images alone, less is better; nan below 2 blocks of 96 pixels with texture.",
        f"Values in [0, 1], not rounded but for NIQE. Border left out: {border}.",
    ]
    if perceptual != NO_PERCEPTUAL:
        score, is_lower_better = load_perceptual(perceptual)
        name = perceptual.split(",")[0]
        columns[f"{name} (pyiqa)" if name in columns else name] = (score, 4)
        notes.append(
            f"{perceptual}: pyiqa's '{PERCEPTUAL_SCORES[perceptual]}',"
            f" {'less' if is_lower_better else 'more'} is better."
        )
    # One picture at a time, so that a long batch needs no more memory than one of them.
    rows = []
    for x, y in zip(planes, target, strict=True):
        comfy.model_management.throw_exception_if_processing_interrupted()
        rows.append([float(measure(x[None], y[None])) for measure, _ in columns.values()])
    means = torch.tensor(rows, dtype=torch.float64).mean(dim=0).tolist()
    decimals = [places for _, places in columns.values()]
    numbered = [(str(k), row) for k, row in enumerate(rows, 1)]
    if len(rows) > 1:
        numbered.append(("mean", means))
    table = figures_table(["picture", *columns], numbered, decimals)
    return Measured("\n".join([table, "", *notes]), *means[:6])


def load_perceptual(name: str) -> tuple[Callable[[Tensor, Tensor], Tensor], bool]:
    """Return a score of pyiqa, run on the CPU, and whether less of it is better.

    pyiqa fetches the score's weights from the internet when it is first used.

    Args:
        name: A name of `PERCEPTUAL_SCORES`.
    Returns:
        A function of pictures and references, `(B, 3, H, W)` in [0, 1]; a score without reference
        looks at the pictures alone.
    Raises:
        ValueError: If the name is unknown or pyiqa is not installed.
    """
    if name not in PERCEPTUAL_SCORES:
        raise ValueError(
            f"unknown score {name!r}; choose one of {', '.join([NO_PERCEPTUAL, *PERCEPTUAL_SCORES])}"
        )
    if find_spec("pyiqa") is None:
        raise ValueError(
            f"'{name}' needs the package pyiqa, which is not installed; run 'pip install pyiqa' in"
            f" ComfyUI's environment and start ComfyUI again, or choose '{NO_PERCEPTUAL}'"
        )
    # A large package that is not required: only who asks for it waits for it.
    metric = import_module("pyiqa").create_metric(
        PERCEPTUAL_SCORES[name], device=torch.device("cpu")
    )
    has_reference = metric.metric_mode == "FR"

    def score(image: Tensor, reference: Tensor) -> Tensor:
        return metric(image, reference) if has_reference else metric(image)

    return score, metric.lower_better


def _fit(image: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    named = ((image, "'image'"), (reference, "'reference'"))
    planes, target = (image_to_planes(t, name)[0].cpu().clamp(0, 1) for t, name in named)
    if planes.shape[-2:] != target.shape[-2:]:
        raise ValueError(
            f"'image' is {planes.shape[-1]}x{planes.shape[-2]} and 'reference'"
            f" {target.shape[-1]}x{target.shape[-2]}; resize one to the size of the other."
        )
    check_count(len(target), len(planes), "'reference'")
    return planes, target.expand(planes.shape[0], -1, -1, -1)


def _luma(planes: Tensor, luma: LumaRange) -> Tensor:
    full = luminance(planes.double())
    return full if luma == "full range" else LIMITED_BLACK + LIMITED_SPAN * full
