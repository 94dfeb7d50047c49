"""A small UNet of SD 2.1's layout and a LoRA of HYPIR's keys, as in the golden single step."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import comfy.model_patcher
import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from pack.tests.support.diffbir import tiny_model
from pack.tests.support.golden import golden_case, golden_manifest, golden_weights
from pack.tests.support.tiny import tensor_shapes

STEP_CASE = "hypir/single_step"
MANIFEST = "hypir/manifests/hypir_sd2"
MODULE_COUNT = 257


@cache
def unet_weights() -> dict[str, Tensor]:
    """Return the weights of the golden UNet under ComfyUI's keys."""
    description, _ = golden_case(STEP_CASE)
    config = description["unet_config"]
    network = UNetModel(
        **config, device=torch.device("meta"), operations=comfy.ops.disable_weight_init
    )
    return golden_weights(tensor_shapes(network), description["seed"])


@cache
def lora_weights() -> dict[str, Tensor]:
    """Return the golden LoRA under the released keys."""
    description, _ = golden_case(STEP_CASE)
    shapes = [(key, _small(shape, key)) for key, shape, _ in golden_manifest(MANIFEST)["keys"]]
    return golden_weights(shapes, description["seed"])


def _small(shape: list[int], key: str) -> tuple[int, ...]:
    """Return the shape of a released factor at the golden sizes: all widths but the latent's."""
    description, _ = golden_case(STEP_CASE)
    config, rank = description["unet_config"], description["rank"]
    texts = {1024: config["context_dim"]} if ".attn2.to_k." in key or ".attn2.to_v." in key else {}

    def small(length: int) -> int:
        return texts.get(length, length * config["model_channels"] // 320 or length)

    is_down = ".lora_A." in key
    first, second, *window = shape
    return (rank, small(second), *window) if is_down else (small(first), rank, *window)


def small_sd2() -> comfy.model_patcher.ModelPatcher:
    """Return the golden UNet as a MODEL of SD 2.1 base."""
    return tiny_model(weights=unet_weights())


def save_lora(folder: Path, weights: dict[str, Tensor] | None = None) -> Path:
    """Return a pickle with the golden LoRA, or others, under the released name."""
    path = folder / "HYPIR_sd2.pth"
    torch.save(lora_weights() if weights is None else weights, path)
    return path
