"""The worked example of docs/own-model.md; the command line is `own_model.py`."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..images.conversion import image_to_planes
from ..images.damage import DAMAGES
from ..images.dirt import grid_energy
from ..images.labels import label_grid
from ..model_loaders.resshift import bundled_vae, load_bundled_model
from ..pipelines.damage import damage_image
from ..pipelines.measure import Measured, measure_images
from ..pipelines.pairs import crops_of_folders, prepare_pairs
from ..pipelines.restore_resshift import restore_with_resshift
from ..pipelines.training import TrainingSettings, train_model
from ..pipelines.validation import draw_validation, watch_training
from .contact_sheet import to_image
from .thumbnail_pictures import COFFEE, halves

PACK_ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = PACK_ROOT / "workflows" / "api" / "restoration_train_model.json"
INPUTS = PACK_ROOT / "workflows" / "inputs"
LABEL_HEIGHT = 24


@dataclass(frozen=True)
class Example:
    """What the worked example gave.

    Attributes:
        steps: Training steps.
        pieces: Pairs that were learnt from.
        training_seconds: Time of the training, with its validation.
        threads: Threads of torch.
        report: Validation over the steps, as a table.
        figures: Of the picture to judge by, by what was done with it.
        grids: How much of a grid of dots it has over the original, see `grid_energy`.
        chart: Loss, PSNR, SSIM and NIQE over the steps.
        sheet: The picture damaged, restored by the bundled and the trained model, and its original.
        thumbnail: Of the template: the picture damaged, and restored by the trained model.
    """

    steps: int
    pieces: int
    training_seconds: float
    threads: int
    report: str
    figures: dict[str, Measured]
    grids: dict[str, float]
    chart: Image.Image
    sheet: Image.Image
    thumbnail: Image.Image

    def page(self, seconds: float) -> str:
        """Return the page of figures; `seconds` is how long all of it took."""
        rows = [
            f"| {name} | {m.psnr_y:.2f} | {m.ssim_y:.3f} | {m.psnr_rgb:.2f} | {m.niqe:.2f}"
            f" | {self.grids[name]:.1f} |"
            for name, m in self.figures.items()
        ]
        return "\n".join(
            [
                "# Figures of the worked example",
                "",
                "Written by `python dev.py bench --own-model --write-docs`.",
                "",
                f"{self.steps} steps on {self.pieces} pieces, {self.threads} threads of a"
                f" processor: {self.training_seconds / 60:.1f} minutes of training,"
                f" {seconds / 60:.1f} in all.",
                "",
                "The picture to judge by, which was not learnt from:",
                "",
                "| | PSNR Y | SSIM Y | PSNR RGB | NIQE | grid |",
                "|---|---:|---:|---:|---:|---:|",
                *rows,
                "",
                "grid: power at periods of two and four pixels over the power beside it, relative to"
                " the original's.",
                "",
                "Over the steps:",
                "",
                self.report,
                "",
            ]
        )


def run_example(steps: int | None = None) -> Example:
    """Train as the template does, and judge.

    Args:
        steps: Training steps and pieces; None takes the template's.
    """
    nodes = _nodes_by_type(json.loads(TEMPLATE.read_text("utf-8")))
    train = nodes["RestorationTrainModel"][0]
    crops = nodes["RestorationPairCrops"][0]
    steps = steps or train["steps"]
    learnt, judged = nodes["RestorationDamage"]
    model, vae = load_bundled_model(), bundled_vae()
    with torch.inference_mode():
        count = min(crops["count"], steps)
        folder = INPUTS / crops["folder"]
        clean, low = crops_of_folders(
            folder, None, count, crops["crop"], crops["scale"], crops["seed"]
        )
        low, _ = _damaged(low, learnt)
        latents, positive = prepare_pairs(model, vae, clean, low)
        original = _picture(INPUTS / nodes["LoadImage"][0]["image"])
        small, _ = _damaged(_reduced(original, crops["scale"]), judged)
        validate = nodes["ResShiftValidation"][0]
        watched, validation = watch_training(
            model, vae, original, small, validate["every"], validate["seed"]
        )
        settings = TrainingSettings(
            steps,
            train["learning_rate"],
            train["seed"],
            train["training_dtype"],
            train["grad_accumulation_steps"],
        )
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as kept:
            checkpoint = Path(kept) / "own_model.safetensors"
            trained, loss, _ = train_model(
                watched, latents, positive, settings, checkpoint=checkpoint
            )
        seconds = time.perf_counter() - began
        chart, _, report = draw_validation(loss, validation)
        own = restore_with_resshift(trained, vae, small, seed=0)
        shown = {
            "damaged": _enlarged(small, crops["scale"]),
            "bundled model": restore_with_resshift(model, vae, small, seed=0),
            f"trained, {steps} steps": own,
            "original": original,
        }
    judged_images = {name: image for name, image in shown.items() if image is not original}
    figures = {name: measure_images(image, original) for name, image in judged_images.items()}
    grids = {name: _grid(image, original) for name, image in judged_images.items()}
    sheet = label_grid(
        [image_to_planes(image)[0][0].clamp(0, 1) for image in shown.values()],
        list(shown),
        2,
        LABEL_HEIGHT,
    )
    return Example(
        steps,
        count,
        seconds,
        torch.get_num_threads(),
        report,
        figures,
        grids,
        to_image(image_to_planes(chart)[0]),
        to_image(sheet[None]),
        halves(image_to_planes(shown["damaged"])[0], image_to_planes(own)[0], COFFEE),
    )


def _nodes_by_type(prompt: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the inputs of a prompt's nodes by class, in the order of their ids."""
    found: dict[str, list[dict[str, Any]]] = {}
    for key in sorted(prompt, key=int):
        found.setdefault(prompt[key]["class_type"], []).append(prompt[key]["inputs"])
    return found


def _damaged(image: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    strengths = {name: inputs[name] for name in DAMAGES}
    return damage_image(image, strengths, inputs["mixing"], inputs["seed"])


def _grid(image: Tensor, original: Tensor) -> float:
    return grid_energy(image.movedim(-1, 1), original.movedim(-1, 1)).item()


def _picture(file: Path) -> Tensor:
    with Image.open(file) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"))).float()[None] / 255


def _reduced(image: Tensor, scale: int) -> Tensor:
    planes = torch.nn.functional.avg_pool2d(image.movedim(-1, 1), scale)
    return planes.movedim(1, -1)


def _enlarged(image: Tensor, scale: int) -> Tensor:
    return image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
