"""Reading of HYPIR's weights: a LoRA of Stable Diffusion 2.1 base under other names.

The file names modules as the diffusers library does. ComfyUI's own table of these names says which
weight each belongs to, so nothing is spelled out here but the kinds of layers that were trained.

Source: facts on the released `HYPIR_sd2.pth`; Lin et al. 2025 (arXiv 2507.20590).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.utils
from torch import Tensor

from .checkpoint import (
    HYPIR_LOADER,
    Checkpoint,
    UnsupportedCheckpointError,
    not_the_network,
    read_checkpoint,
)
from .released import licence_note

logger = logging.getLogger("resshift-diffbir")

# Layers with a LoRA, by the end of their names.
TARGETS = (
    "to_k",
    "to_q",
    "to_v",
    "to_out.0",
    "conv",
    "conv1",
    "conv2",
    "conv_shortcut",
    "conv_out",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
)
# PEFT puts the name of the adapter between the part and `weight`.
FACTOR_KEY = re.compile(
    r"(?:base_model\.model\.)?(?:unet\.)?(?P<module>.+)\.lora_(?P<part>[AB])(?:\.\w+)?\.weight"
)


def hypir_modules(unet_config: dict[str, Any], weights: Iterable[str]) -> dict[str, str]:
    """Return the weight of every module of a UNet that HYPIR has a LoRA for, by diffusers' name.

    Args:
        unet_config: ComfyUI's configuration of the UNet.
        weights: Keys of its weights; the table also holds layers that only other UNets have.
    Returns:
        Keys such as `input_blocks.1.0.in_layers.2.weight` by names such as
        `down_blocks.0.resnets.0.conv1`, 257 for SD 2.1.
    """
    there = set(weights)
    named = {
        name.removesuffix(".weight"): key
        for name, key in comfy.utils.unet_to_diffusers(unet_config).items()
        if name.endswith(".weight") and key in there
    }
    return {
        name: key
        for name, key in named.items()
        if any(f".{name}".endswith(f".{target}") for target in TARGETS)
    }


def load_hypir_patches(
    path: Path, unet_config: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Return HYPIR's LoRA as ComfyUI's patches, by the key of the weight that each changes.

    Args:
        path: HYPIR_sd2.pth, or the same as safetensors; read weights-only.
        unet_config: ComfyUI's configuration of the UNet that will be patched.
        shapes: Its weights' shapes by key, without `diffusion_model.` before them.
    Returns:
        Patches for `ModelPatcher.add_patches`. Their scale is 1: alpha equals the rank.
    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or would have to run code to be read.
        UnsupportedCheckpointError: If it is another file, a module is missing or left over, or a
            shape does not fit the UNet.
    """
    checkpoint = read_checkpoint(path, holder_prefixes=())
    modules = hypir_modules(unet_config, shapes)
    factors, others = _split_factors(checkpoint.state_dict)
    _check_modules(checkpoint, factors, others, modules)
    _check_shapes(path, factors, {name: shapes[key] for name, key in modules.items()})
    # Names that every ComfyUI knows for the two factors.
    renamed = {
        f"{name}.lora_{part}.weight": factor
        for name, parts in factors.items()
        for part, factor in parts.items()
    }
    keys = {name: f"diffusion_model.{key}" for name, key in modules.items()}
    logger.info("'%s': HYPIR, %d modules%s", path.name, len(modules), licence_note(path.name))
    return comfy.lora.load_lora(renamed, keys)


def _split_factors(
    state_dict: dict[str, Tensor],
) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Return the factors A and B of every module of a file, and the keys that are of none."""
    factors: dict[str, dict[str, Tensor]] = {}
    others = []
    for key, tensor in state_dict.items():
        match = FACTOR_KEY.fullmatch(key)
        if match is None:
            others.append(key)
        else:
            factors.setdefault(match["module"], {})[match["part"]] = tensor
    return factors, others


def _check_modules(
    checkpoint: Checkpoint,
    factors: dict[str, dict[str, Tensor]],
    others: list[str],
    modules: dict[str, str],
) -> None:
    """Make sure that a file has the factors of all modules and nothing else."""
    path = checkpoint.path
    missing = [name for name in modules if factors.get(name, {}).keys() != {"A", "B"}]
    if len(missing) == len(modules):
        raise not_the_network(
            checkpoint.state_dict, path, "the LoRA of HYPIR", HYPIR_LOADER, missing
        )
    if missing:
        raise UnsupportedCheckpointError(
            path,
            f"lacks {len(missing)} of the {len(modules)} modules of HYPIR's LoRA; download it"
            " again or choose another file",
            missing,
        )
    unexpected = [name for name in factors if name not in modules] + others
    if unexpected:
        raise UnsupportedCheckpointError(
            path,
            f"changes {len(unexpected)} parts of the model that HYPIR's LoRA does not; choose"
            " HYPIR_sd2.pth, or load a LoRA of another kind with Load LoRA",
            unexpected,
        )


def _check_shapes(
    path: Path,
    factors: dict[str, dict[str, Tensor]],
    shapes: dict[str, tuple[int, ...]],
) -> None:
    """Make sure that the product of the factors has each weight's shape."""
    misshapen = []
    for name, shape in shapes.items():
        down, up = factors[name]["A"], factors[name]["B"]
        fits = (
            down.ndim == up.ndim == len(shape)
            and down.shape[1:] == shape[1:]
            and tuple(up.shape[:2]) == (shape[0], down.shape[0])
            and up[0].numel() == down.shape[0]
        )
        if not fits:
            misshapen.append(f"{name}: {tuple(up.shape)} times {tuple(down.shape)} for {shape}")
    if misshapen:
        raise UnsupportedCheckpointError(
            path,
            f"has {len(misshapen)} modules of other shapes than this model; HYPIR_sd2.pth belongs"
            " to Stable Diffusion 2.1 base",
            misshapen,
        )
