"""What is measured, made with the pack's own loaders and random weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch
import torch.nn.functional as F

from ..model_loaders.resshift import (
    bundled_vae,
    load_bundled_model,
    load_resshift,
    load_vq_vae,
)
from ..pipelines.restore_resshift import restore_with_resshift
from .diffbir import run_diffbir, run_stage_one
from .weights import PRESET, UNET_FILE, VQ_FILE


@dataclass(frozen=True)
class BuiltCase:
    """A call to be measured.

    Attributes:
        call: Does the work once; weights are on the device before the first call.
        estimated_bytes: What ComfyUI is told the call needs besides weights, where it is told.
    """

    call: Callable[[], object]
    estimated_bytes: float | None = None


def build(kind: str, size: int, batch: int, precision: str, folder: Path) -> BuiltCase:
    """Return a case of `run.py` with its model loaded."""
    comfy.utils.set_progress_bar_enabled(False)
    if kind == "unet":
        return build_unet(size, batch, precision, folder)
    if kind == "bundled":
        return build_restoration(load_bundled_model(dtype=precision), bundled_vae(), size, batch)
    if kind in ("swinir", "bsrnet"):
        return BuiltCase(run_stage_one(kind, size, batch))
    if kind in ("step", "guided step", "ten steps"):
        return BuiltCase(run_diffbir(kind, size, batch, folder))
    vae = load_vq_vae(folder / VQ_FILE)
    if kind == "restore":
        model = load_resshift(folder / UNET_FILE, preset=PRESET, dtype=precision)
        return build_restoration(model, vae, size, batch)
    comfy.model_management.load_models_gpu([vae.patcher])
    if kind == "encode":
        image = torch.rand(batch, size, size, 3)
        shape = (batch, 3, size, size)
        return BuiltCase(lambda: vae.encode(image), vae.memory_used_encode(shape, vae.vae_dtype))
    side = size // vae.upscale_ratio
    latent = torch.randn(batch, vae.latent_channels, side, side)
    estimated = vae.memory_used_decode(latent.shape, vae.vae_dtype)
    return BuiltCase(lambda: vae.decode(latent), estimated)


@torch.inference_mode()
def compare_codes(precision: str, side: int, folder: Path) -> dict[str, float]:
    """Return what a precision changes in the VQ autoencoder.

    Returns:
        `changed_codes`, the share of latents that fall to another code than in float32, and
        `decoded_db`, the PSNR of one float32 latent decoded in the precision and in float32.
    """
    exact, coarse = (load_vq_vae(folder / VQ_FILE, dtype=each) for each in ("fp32", precision))
    coarse_image = torch.rand(1, side // 8, side // 8, 3).movedim(-1, 1)
    image = F.interpolate(coarse_image, size=(side, side), mode="bicubic").clamp(0, 1)
    image = image.movedim(1, -1)
    latent = exact.encode(image)
    nearest = exact.first_stage_model.quantize.nearest
    changed = nearest(latent) != nearest(coarse.encode(image))
    error = (exact.decode(latent) - coarse.decode(latent)).square().mean()
    return {
        "changed_codes": changed.float().mean().item(),
        "decoded_db": -10 * math.log10(error.item()),
    }


def build_unet(size: int, batch: int, precision: str, folder: Path) -> BuiltCase:
    """Return one call of the network on a batch of square latents."""
    patcher = load_resshift(folder / UNET_FILE, preset=PRESET, dtype=precision)
    comfy.model_management.load_models_gpu([patcher])
    model = patcher.model
    made = {"dtype": model.get_dtype_inference(), "device": patcher.load_device}
    x = torch.randn(batch, model.network_config.latent_channels, size, size, **made)
    lq = torch.rand(batch, 3, size, size, **made)
    timesteps = torch.zeros(batch, **made)
    estimated = model.memory_required(list(x.shape))
    return BuiltCase(lambda: model.diffusion_model(x, timesteps, lq=lq), estimated)


def build_restoration(model: Any, vae: Any, size: int, batch: int) -> BuiltCase:
    """Return a whole restoration of square images."""
    image = torch.rand(batch, size, size, 3)
    return BuiltCase(lambda: restore_with_resshift(model, vae, image, seed=0))
