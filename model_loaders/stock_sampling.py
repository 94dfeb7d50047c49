"""What samplers and guiders of ComfyUI need to end well on a ResShift MODEL."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

KEY = "resshift_stock_sampling"

# Functions of the samplers `dpm_fast` and `dpm_adaptive`, which stop at the last sigma above 0: on a
# schedule of 4 steps that is no small one.
STOP_ABOVE_ZERO = ("dpm_fast_function", "dpm_adaptive_function")
# Functions of those that need two steps to do anything.
NEED_TWO_STEPS = ("sample_unipc", "sample_unipc_bh2")


def suit_stock_sampling(model: Any) -> None:
    """Let every sampler and guider of ComfyUI end in a latent without noise and without NaN."""
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _end_clean)
    model.set_model_sampler_post_cfg_function(_prediction_for_nan)


def _prediction_for_nan(args: dict[str, Any]) -> Tensor:
    """Return the prediction where guidance divided by the difference of two equal ones.

    Perp-Neg does. Positive and negative conditioning of ResShift are the same, so no guidance is
    what is left of it.
    """
    denoised = args["denoised"]
    return torch.where(denoised.isnan(), args["cond_denoised"], denoised)


def _keeping_what_is_kept(extra_args: dict[str, Any]) -> dict[str, Any]:
    """Return a sampler's arguments whose mask function lets nothing change where the mask is 0.

    Differential Diffusion's lets all change at the model's smallest sigma, which other models reach
    with some schedulers only, and which each run of a ResShift ends with.
    """
    options = extra_args.get("model_options", {})
    function = options.get("denoise_mask_function")
    if function is None:
        return extra_args

    def mask_of(sigma: Tensor, mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        return function(sigma, mask, extra_options=extra_options) * (mask > 0)

    return {**extra_args, "model_options": {**options, "denoise_mask_function": mask_of}}


def _end_clean(
    executor: Any,
    model_wrap: Any,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Any,
    noise: Tensor,
    latent_image: Tensor | None = None,
    denoise_mask: Tensor | None = None,
    disable_pbar: bool = False,
) -> Tensor:
    sampler = executor.class_obj
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    extra_args = _keeping_what_is_kept(extra_args)
    rest = (model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask)
    if len(sigmas) < 2 or sigmas[-1] != 0:
        return executor(*rest, disable_pbar)
    if name in NEED_TWO_STEPS and len(sigmas) == 2:
        # One step of it is one of Euler's, as of every solver.
        return comfy.samplers.sampler_object("euler").sample(*rest, disable_pbar)
    made = executor(*rest, disable_pbar)
    if name not in STOP_ABOVE_ZERO:
        return made
    model: Any = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
    model.latent_image, model.noise = latent_image, noise
    return model(made, sigmas[-2] * made.new_ones(len(made)), **extra_args)
