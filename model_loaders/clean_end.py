"""Samplers of ComfyUI that leave a ResShift MODEL's latent with noise, brought to a clean end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

KEY = "resshift_clean_end"

# Functions of the samplers `dpm_fast` and `dpm_adaptive`, which stop at the last sigma above 0: on a
# schedule of 4 steps that is no small one.
STOP_ABOVE_ZERO = ("dpm_fast_function", "dpm_adaptive_function")
# Functions of those that need two steps to do anything.
NEED_TWO_STEPS = ("sample_unipc", "sample_unipc_bh2")


def end_clean(model: Any) -> None:
    """Let every sampler of ComfyUI end in a latent without noise where its sigmas end in 0."""
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _sample)


def _sample(
    executor: Callable[..., Tensor],
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
    rest = (model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask)
    if len(sigmas) < 2 or sigmas[-1] != 0:
        return executor(*rest, disable_pbar)
    if name in NEED_TWO_STEPS and len(sigmas) == 2:
        # One step of it is one of Euler's, as of every solver.
        return comfy.samplers.sampler_object("euler").sample(*rest, disable_pbar)
    made = executor(*rest, disable_pbar)
    if name not in STOP_ABOVE_ZERO:
        return made
    model = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
    model.latent_image, model.noise = latent_image, noise
    return model(made, sigmas[-2] * made.new_ones(len(made)), **extra_args)
