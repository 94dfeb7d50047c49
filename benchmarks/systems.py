"""Whole restorations of every system, IMAGE to IMAGE, with random weights of the released sizes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..model_loaders.hypir import hypir_modules
from ..model_loaders.networks.swin_unet import SwinUNet
from ..model_loaders.record import RSD_X4
from ..model_loaders.resshift import (
    bundled_vae,
    load_bundled_model,
    load_resshift,
    load_vq_vae,
)
from ..pipelines.diffbir_presets import DIFFBIR_PRESETS
from ..pipelines.hypir import patch_hypir
from ..pipelines.restore_diffbir import DiffBIRWeights, restore_with_diffbir
from ..pipelines.restore_hypir import restore_with_hypir
from ..pipelines.restore_resshift import restore_with_resshift
from . import measuring
from .diffbir import (
    CONTEXT,
    control_net,
    fill,
    model_of_sd21,
    shapes_of,
    stage_one_network,
    vae_of_sd,
)
from .weights import RELEASED_UNET, TINY_UNET, UNET_FILE, VQ_FILE, random_weights

HYPIR_RANK = 256
STUDENT_FILE = "rsd.safetensors"
RESSHIFT_PRESETS = {
    "ResShift, 15 steps": "realsr x4, 15 steps (v2)",
    "ResShift, 4 steps": "realsr x4, 4 steps (v3)",
    "SinSR": "SinSR x4, 1 step",
    "RSD": RSD_X4,
}
DIFFBIR_VERSIONS = {"DiffBIR v2, 50 steps": "v2", "DiffBIR v2.1, 10 steps": "v2.1"}
BUNDLED = "bundled model"
HYPIR = "HYPIR"


@dataclass(frozen=True)
class System:
    """A restoration and what it holds.

    Attributes:
        restore: Restores a picture once.
        model: The MODEL whose calls are counted.
        weights_bytes: Size of all its networks, the text encoder left out.
    """

    restore: Callable[[], Tensor]
    model: Any
    weights_bytes: int


class _Text:
    """Stands for a text encoder, whose work for a prompt does not depend on the picture."""

    def tokenize(self, text: str, return_word_ids: bool = False) -> dict[str, list]:
        return {}

    def encode_from_tokens_scheduled(self, tokens: dict[str, list]) -> list:
        return [[torch.zeros(1, 77, CONTEXT), {}]]


def build_system(
    name: str, side: int, precision: str, folder: Path, *, tiny: bool, steps: int = 0
) -> System:
    """Return a system by its name, ready to restore a square picture four times enlarged.

    Args:
        name: A key of `RESSHIFT_PRESETS` or `DIFFBIR_VERSIONS`, `HYPIR` or `BUNDLED`.
        side: Side of the picture before.
        precision: Dtype of ResShift's networks; those of SD follow ComfyUI's options.
        folder: Where `write_checkpoints` wrote its files.
        tiny: Whether networks are tiny.
        steps: Steps of DiffBIR in place of the version's.
    """
    comfy.utils.set_progress_bar_enabled(False)
    image = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(1))
    if name == HYPIR:
        return _hypir(image, folder, tiny)
    if name in DIFFBIR_VERSIONS:
        return _diffbir(DIFFBIR_VERSIONS[name], image, folder, tiny, steps)
    if name == BUNDLED:
        model, vae = load_bundled_model(dtype=precision), bundled_vae()
    else:
        path = _write_student(folder, tiny) if name == "RSD" else folder / UNET_FILE
        model = load_resshift(path, preset=RESSHIFT_PRESETS[name], dtype=precision)
        vae = load_vq_vae(folder / VQ_FILE)
    size = _module_size(model.model, vae.first_stage_model)
    return System(lambda: restore_with_resshift(model, vae, image, seed=0), model, size)


def measure_system(system: System, device: torch.device, seconds: float) -> dict[str, Any]:
    """Return what `measuring.measure` does of a restoration, and more.

    Args:
        system: The restoration.
        device: Where it runs.
        seconds: The restoration is repeated until this much time was spent.
    Returns:
        Besides: `calls` of the network in one restoration, prompts of a step sharing one;
        `weights_bytes`; on CPUs `seconds` is the processor's time, which other work on the machine
        changes little.
    """
    calls: list[None] = []
    spent: list[float] = []
    network = system.model.model.diffusion_model
    network.register_forward_pre_hook(lambda *_: calls.append(None))

    def restore() -> None:
        before = time.process_time()
        system.restore()
        spent.append(time.process_time() - before)

    found = measuring.measure(restore, device, seconds)
    if device.type == "cpu":
        found["seconds"] = min(spent[1:] or spent)
    return found | {"calls": len(calls) // len(spent), "weights_bytes": system.weights_bytes}


def _diffbir(version: str, image: Tensor, folder: Path, tiny: bool, steps: int) -> System:
    stage_one = stage_one_network("bsrnet" if version == "v2" else "swinir", tiny=tiny)
    model, vae, control = (
        model_of_sd21(tiny=tiny),
        vae_of_sd(tiny=tiny),
        control_net(folder, tiny=tiny),
    )
    weights = DiffBIRWeights(model, _Text(), vae, control, stage_one)
    size = _module_size(model.model, vae.first_stage_model, control.control_model, stage_one.model)
    preset = DIFFBIR_PRESETS[version]
    return System(
        lambda: restore_with_diffbir(weights, image, preset=preset, seed=0, steps=steps),
        model,
        size,
    )


def _hypir(image: Tensor, folder: Path, tiny: bool) -> System:
    base, vae = model_of_sd21(tiny=tiny), vae_of_sd(tiny=tiny)
    path = folder / "HYPIR_sd2.safetensors"
    _write_lora(path, base, 4 if tiny else HYPIR_RANK)
    model = patch_hypir(base, path)
    size = _module_size(model.model, vae.first_stage_model)
    return System(lambda: restore_with_hypir(model, _Text(), vae, image), model, size)


def _write_lora(path: Path, model: Any, rank: int) -> None:
    weights = shapes_of(model.model.diffusion_model)
    shapes = {}
    for name, key in hypir_modules(model.model.model_config.unet_config, weights).items():
        shape = weights[key]
        window = torch.Size([1] * (len(shape) - 2))
        shapes[f"{name}.lora_A.default.weight"] = torch.Size([rank, *shape[1:]])
        shapes[f"{name}.lora_B.default.weight"] = torch.Size([shape[0], rank, *window])
    # Small beside the weights, as a trained LoRA is, so that activations stay near unit size.
    save_file({key: 0.1 * t for key, t in fill(shapes, torch.float16).items()}, path)


def _write_student(folder: Path, tiny: bool) -> Path:
    config = replace(TINY_UNET if tiny else RELEASED_UNET, noise_channels=1)
    path = folder / STUDENT_FILE
    network = SwinUNet(config, operations=comfy.ops.disable_weight_init)
    save_file(random_weights(network), path)
    return path


def _module_size(*networks: torch.nn.Module) -> int:
    return sum(comfy.model_management.module_size(network) for network in networks)
