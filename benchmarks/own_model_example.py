"""The worked example of docs/own-model.md; the command line is `own_model.py`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd
import numpy as np
import torch
from comfy_extras.nodes_train import TrainLoraNode
from PIL import Image
from torch import Tensor

from ..images.conversion import image_to_planes
from ..images.damage import DAMAGES
from ..images.labels import label_grid
from ..model_loaders.resshift import bundled_vae, load_bundled_model
from ..pipelines.damage import damage_image
from ..pipelines.measure import Measured, measure_images
from ..pipelines.pairs import crops_of_folders, prepare_pairs
from ..pipelines.restore_resshift import restore_with_resshift
from ..pipelines.validation import draw_validation, watch_training
from .contact_sheet import to_image

PACK_ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = PACK_ROOT / "workflows" / "api" / "restoration_train_lora.json"
INPUTS = PACK_ROOT / "workflows" / "inputs"
LABEL_HEIGHT = 24


@dataclass(frozen=True)
class Example:
    """What the worked example gave.

    Attributes:
        steps: Training steps.
        pieces: Pairs that were learnt from.
        training_seconds: Time of Train LoRA, with its validation.
        threads: Threads of torch.
        report: Validation over the steps, as a table.
        figures: Of the picture to judge by, by what was done with it.
        chart: Loss, PSNR, SSIM and NIQE over the steps.
        sheet: The picture damaged, without and with the LoRA, and its original.
    """

    steps: int
    pieces: int
    training_seconds: float
    threads: int
    report: str
    figures: dict[str, Measured]
    chart: Image.Image
    sheet: Image.Image

    def page(self, seconds: float) -> str:
        """Return the page of figures; `seconds` is how long all of it took."""
        rows = [
            f"| {name} | {m.psnr_y:.2f} | {m.ssim_y:.3f} | {m.psnr_rgb:.2f} | {m.niqe:.2f} |"
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
                "| | PSNR Y | SSIM Y | PSNR RGB | NIQE |",
                "|---|---:|---:|---:|---:|",
                *rows,
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
    train = {**nodes["TrainLoraNode"][0]}
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
        began = time.perf_counter()
        torch.manual_seed(train["seed"])
        lora, loss, _ = _train(watched, latents, positive, {**train, "steps": steps})
        seconds = time.perf_counter() - began
        tuned, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
        chart, _, report = draw_validation(loss, validation)
        shown = {
            "damaged": _enlarged(small, crops["scale"]),
            "bundled model": restore_with_resshift(model, vae, small, seed=0),
            f"with the LoRA, {steps} steps": restore_with_resshift(tuned, vae, small, seed=0),
            "original": original,
        }
    figures = {name: measure_images(image, original) for name, image in list(shown.items())[:-1]}
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
        to_image(image_to_planes(chart)[0]),
        to_image(sheet[None]),
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


def _train(model: Any, latents: Any, positive: list, inputs: dict[str, Any]) -> tuple:
    values = {**inputs, "model": model, "latents": latents, "positive": positive}
    return TrainLoraNode.execute(**{name: [value] for name, value in values.items()}).result


def _picture(file: Path) -> Tensor:
    with Image.open(file) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"))).float()[None] / 255


def _reduced(image: Tensor, scale: int) -> Tensor:
    planes = torch.nn.functional.avg_pool2d(image.movedim(-1, 1), scale)
    return planes.movedim(1, -1)


def _enlarged(image: Tensor, scale: int) -> Tensor:
    return image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
