"""Small ResShift MODELs and VAEs, and the calls that ComfyUI makes on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from pack.model_loaders.resshift import bundled_vae, load_resshift, load_vq_vae
from pack.pipelines.resshift_conditioning import ResShiftInputs
from pack.pipelines.resshift_sampling import residual_shift_sigmas
from pack.samplers.residual_shift import sample_residual_shift
from pack.tests.support.tiny import (
    DENSELY_STARTED_UNET,
    FOLDED_RECORD,
    FOLDED_UNET,
    INPAINT_RECORD,
    INPAINT_UNET,
    STARTED_UNET,
    TINY_RECORD,
    TINY_UNET,
    save_unet,
    save_vq,
)


def tiny_pair(folder: Path, **record: Any) -> tuple[Any, Any]:
    """Return a x4 MODEL on VQ latents and its VAE."""
    path = save_unet(folder, TINY_UNET, replace(TINY_RECORD, **record))
    return load_resshift(path), load_vq_vae(save_vq(folder))


def folded_pair(folder: Path) -> tuple[Any, Any]:
    """Return a x4 MODEL on folded pixels, as the bundled one, and its VAE."""
    return load_resshift(save_unet(folder, FOLDED_UNET, FOLDED_RECORD)), bundled_vae()


def started_pair(folder: Path) -> tuple[Any, Any]:
    """Return a x4 MODEL with a network of its own to start from, and its VAE."""
    return load_resshift(save_unet(folder, STARTED_UNET, FOLDED_RECORD)), bundled_vae()


def densely_started_pair(folder: Path) -> tuple[Any, Any]:
    """Return the same with another network to start from, of dense blocks, and its VAE."""
    return load_resshift(save_unet(folder, DENSELY_STARTED_UNET, FOLDED_RECORD)), bundled_vae()


def inpaint_pair(folder: Path) -> tuple[Any, Any]:
    """Return an inpainting MODEL and its VAE."""
    path = save_unet(folder, INPAINT_UNET, INPAINT_RECORD)
    return load_resshift(path), load_vq_vae(save_vq(folder))


def sample_with_noises(model: Any, inputs: ResShiftInputs, noises: Tensor) -> Tensor:
    """Return the latent that the chain makes with these noises, the first the start's."""
    remaining = iter(noises[1:])

    def sampler(net, x, sigmas, extra_args=None, callback=None, disable=None):
        kappa = model.get_model_object("model_sampling").kappa
        return sample_residual_shift(
            net, x, sigmas, extra_args, kappa=kappa, noise_sampler=lambda *_: next(remaining)
        )

    return comfy.sample.sample_custom(
        model,
        noises[0],
        1.0,
        comfy.samplers.KSAMPLER(sampler),
        residual_shift_sigmas(model, 0),
        inputs.positive,
        inputs.negative,
        inputs.latent["samples"],
        disable_pbar=True,
        seed=0,
    )


def denoise(
    model: Any, x: Tensor, sigma: float, conditioning: dict[str, Tensor], **options: Any
) -> Tensor:
    """Return what the MODEL as it is loaded predicts for the state `x`, without a sampler."""
    network = model.model
    conds = network.extra_conds(
        noise=x, device=x.device, latent_image=torch.zeros_like(x), **conditioning
    )
    arguments = {name: cond.process_cond(len(x), area=None).cond for name, cond in conds.items()}
    return network.apply_model(x, torch.full([len(x)], sigma), **arguments, **options)
