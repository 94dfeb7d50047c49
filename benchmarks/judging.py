"""What `bench --quality` does: pictures, figures, speed, report; the command line is `quality.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images.conversion import image_to_planes, planes_to_image
from ..images.dirt import blotches, grid_energy
from ..images.metrics import gmsd
from ..images.niqe import niqe
from ..model_loaders.resshift import BUNDLED_MODEL_PATH, bundled_vae, load_resshift
from ..pipelines.resshift_sampling import patch_schedule
from ..pipelines.restore_resshift import restore_with_resshift
from ..training.features import FeatureDistance
from ..training.general import load_general, read_general
from ..training.teacher import load_teacher
from ..training.validation import (
    LEVELS,
    LONGEST_SIDE,
    PICTURES,
    SEED,
    Case,
    degrade_all,
    enlarge_all,
    gradient_energy,
    measure_case,
    read_picture,
)
from .contact_sheet import save_contact_sheet, save_pieces
from .measuring import device_name
from .photographs import LONGEST_SIDE as LONGEST_PHOTOGRAPH
from .photographs import read_photographs
from .quality_page import format_page, format_report
from .second_features import SecondFeatureDistance
from .targets import (
    BICUBIC,
    BUNDLED,
    COLUMNS,
    GENERAL,
    TEACHER,
    Figures,
    check_figures,
    check_speed,
)

PAGE = "bundled-model-figures.md"
SHEET = "bundled-model.webp"
PIECES_SHEET = "bundled-model-{}.webp"
SPEED_SIDE = 256
TIMED_RUNS = 2

Pictures = dict[str, list[Tensor]]


@dataclass(frozen=True)
class Group:
    """Pictures that share a table.

    Attributes:
        title: What the table is called.
        originals: Pictures `(1, 3, H, W)` in [0, 1] by name.
        longest_side: They are reduced to it.
    """

    title: str
    originals: dict[str, Tensor]
    longest_side: int


@dataclass(frozen=True)
class JudgeSettings:
    """What is judged.

    Attributes:
        model: File of the model; None for the bundled one.
        dtype: Choice of the loader.
        cache: Folder of downloads.
        others: Files of more models, each a row named by its file.
        kappas: Noise scales that the model is also judged with.
        times_speed: Whether the speed is measured.
    """

    model: Path | None
    dtype: str
    cache: Path
    others: Sequence[Path] = ()
    kappas: Sequence[float] = ()
    times_speed: bool = False


@dataclass
class Judges:
    """The networks that measure distances.

    Attributes:
        first: The distance that the training uses.
        second: One that it does not use.
    """

    first: nn.Module
    second: nn.Module


@dataclass
class Makers:
    """What makes the pictures.

    Attributes:
        teacher: RealESRGAN_x4plus.
        general: realesr-general-x4v3.
        bundled: Functions of a list of cases, by the row's name; the first is the model judged.
    """

    teacher: nn.Module
    general: nn.Module
    bundled: dict[str, Callable[[list[Case]], list[Tensor]]] = field(default_factory=dict)


def find_groups(cache: Path, *, only_five: bool = False) -> list[Group]:
    """Return the pictures: the five of the training's validation, and photographs.

    Args:
        cache: Folder of downloads.
        only_five: Whether the photographs, a package of Debian's, are left out.
    """
    five = {name: read_picture(name) for name in PICTURES}
    groups = [Group(f"scikit-image's, up to {LONGEST_SIDE} pixels", five, LONGEST_SIDE)]
    if not only_five:
        title = f"Photographs, up to {LONGEST_PHOTOGRAPH} pixels"
        groups.append(Group(title, read_photographs(cache), LONGEST_PHOTOGRAPH))
    return groups


@torch.inference_mode()  # as ComfyUI runs nodes
def run_judging(settings: JudgeSettings, groups: list[Group], folder: Path | None) -> bool:
    """Print the report, write page and sheets to `folder` if there is one.

    Returns:
        Whether every target is met.
    """
    model = load_resshift(settings.model or BUNDLED_MODEL_PATH, dtype=settings.dtype)
    makers = Makers(load_teacher(settings.cache), load_general(read_general(settings.cache)))
    makers.bundled = choose_runs(model, settings)
    judges = Judges(FeatureDistance(), SecondFeatureDistance(settings.cache))
    tables: dict[str, Figures] = {}
    targets = []
    names: list[str] = []
    shown: Pictures = {}
    for group in groups:
        cases = degrade_all(makers.teacher, group.originals, group.longest_side)
        pictures = make_pictures(makers, cases)
        tables[group.title] = judge(cases, pictures, judges)
        targets += check_figures(group.title, tables[group.title])
        names += [case.name for case in cases]
        for title, images in choose_columns(cases, pictures).items():
            shown.setdefault(title, []).extend(images)
    seconds = time_all(model, makers, settings) if settings.times_speed else {}
    targets += check_speed(seconds) if seconds else []
    report = format_report(describe_machine(model), tables, seconds, targets)
    print("\n".join(report))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        sheets = save_sheets(folder, names, shown)
        pictured = {group.title: list(group.originals) for group in groups}
        page = format_page(report, pictured, sheets)
        (folder / PAGE).write_text(page, encoding="utf-8")
        print(f"\nWritten to {folder}: {', '.join([PAGE, *sheets])}")
    return all(target.is_met for target in targets)


def choose_runs(
    model: Any, settings: JudgeSettings
) -> dict[str, Callable[[list[Case]], list[Tensor]]]:
    """Return what restores cases, by name: as usual, with other steps, kappas and models."""
    vae = bundled_vae()
    record = model.model.record
    other = record.steps if (record.sampling_steps or record.steps) == 1 else 1

    def run(changed: Any, **options: Any) -> Callable[[list[Case]], list[Tensor]]:
        return lambda cases: restore_cases(changed, vae, cases, **options)

    runs = {BUNDLED: run(model), f"{BUNDLED}, {steps_name(other)}": run(model, steps=other)}
    for kappa in settings.kappas:
        runs[f"{BUNDLED}, kappa {kappa:g}"] = run(with_kappa(model, kappa))
    for path in settings.others:
        runs[path.name] = run(load_resshift(path, dtype=settings.dtype))
    return runs


def steps_name(steps: int) -> str:
    """Return `1 step`, `4 steps`."""
    return f"{steps} step{'' if steps == 1 else 's'}"


def with_kappa(model: Any, kappa: float) -> Any:
    """Return the MODEL with another noise scale, its sequence of eta the same."""
    schedule = model.model.record.schedule
    # The first of that sequence follows from the least noise over kappa, or over 1 below it.
    least = schedule.min_noise_level * max(1.0, kappa) / max(1.0, schedule.kappa)
    return patch_schedule(model, replace(schedule, kappa=kappa, min_noise_level=least))


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


def make_pictures(makers: Makers, cases: list[Case]) -> Pictures:
    """Return the pictures of every maker, one for each case."""
    pictures = {
        BICUBIC: enlarge_all(cases),
        GENERAL: [makers.general(case.lq).clamp(0, 1) for case in cases],
        TEACHER: [case.teacher for case in cases],
    }
    return pictures | {name: run(cases) for name, run in makers.bundled.items()}


def judge(cases: list[Case], pictures: Pictures, judges: Judges) -> Figures:
    """Return the mean figures by level and by what made the pictures; keys are `COLUMNS`'s."""
    figures: Figures = {level: {} for level in LEVELS}
    for maker, images in pictures.items():
        rows: dict[str, list[dict[str, float]]] = {level: [] for level in LEVELS}
        for case, image in zip(cases, images, strict=True):
            rows[case.level].append(measure_picture(case, image, judges))
        for level, measured in rows.items():
            figures[level][maker] = {
                key: sum(row[key] for row in measured) / len(measured) for key in COLUMNS
            }
    return figures


def measure_picture(case: Case, image: Tensor, judges: Judges) -> dict[str, float]:
    """Return the figures of one picture."""
    original = case.original
    return {
        **measure_case(case, image, judges.first),
        "second": judges.second(image, original).item(),
        "gmsd": gmsd(image, original).item(),
        "niqe": niqe(image).item(),
        "grid": grid_energy(image, original).item(),
        "blotches": blotches(image, original).item(),
        "original_energy": (gradient_energy(image) / gradient_energy(original)).item(),
    }


def choose_columns(cases: list[Case], pictures: Pictures) -> Pictures:
    """Return the columns of the sheets."""
    columns = {"low quality": [F.interpolate(case.lq, scale_factor=4) for case in cases]}
    columns |= {name: pictures[name] for name in (BICUBIC, GENERAL, BUNDLED, TEACHER)}
    return {**columns, "original": [case.original for case in cases]}


def save_sheets(folder: Path, names: list[str], shown: Pictures) -> list[str]:
    """Write the sheets of whole pictures and of pieces; return their files."""
    save_contact_sheet(folder / SHEET, names, shown)
    sheets = [SHEET]
    for level in LEVELS:
        chosen = [number for number, name in enumerate(names) if name.endswith(level)]
        columns = {title: [images[k] for k in chosen] for title, images in shown.items()}
        sheets.append(PIECES_SHEET.format(level))
        save_pieces(folder / sheets[-1], [names[k] for k in chosen], columns)
    return sheets


def describe_machine(model: Any) -> str:
    """Return device, threads and dtype of the computation."""
    dtype = str(model.model.get_dtype_inference()).removeprefix("torch.")
    device = comfy.model_management.get_torch_device()
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device_name(device)}{threads}, torch {torch.__version__}, {dtype}"


def time_all(model: Any, makers: Makers, settings: JudgeSettings) -> dict[str, float]:
    """Return the seconds from 256x256 to 1024x1024 by maker, in one precision on one device.

    Each is run once before; the best of some runs counts, as other work only slows.
    """
    vae = bundled_vae()
    device, dtype = model.load_device, model.model.get_dtype_inference()
    image = torch.rand(1, SPEED_SIDE, SPEED_SIDE, 3, generator=torch.Generator().manual_seed(0))
    planes = image_to_planes(image)[0].to(device, dtype, memory_format=torch.channels_last)

    def published(network: nn.Module) -> Callable[[], object]:
        placed = network.to(device, dtype, memory_format=torch.channels_last)
        return lambda: placed(planes).float().cpu()

    other = next(name for name in makers.bundled if name != BUNDLED)
    steps = int(other.removeprefix(f"{BUNDLED}, ").split()[0])
    calls = {
        TEACHER: published(makers.teacher),
        GENERAL: published(makers.general),
        BUNDLED: lambda: restore_with_resshift(model, vae, image, seed=SEED),
        other: lambda: restore_with_resshift(model, vae, image, seed=SEED, steps=steps),
    }
    return {name: best_time(call) for name, call in calls.items()}


def best_time(call: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some calls, after one that does not count."""
    call()
    times = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
