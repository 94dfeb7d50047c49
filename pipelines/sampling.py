"""ResShift's sampler, sigmas and model patch on ComfyUI's objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from torch import Tensor

from ..model_loaders.resshift_sampling import ResShiftSampling, check_sampling
from ..samplers.chain import PredictType
from ..samplers.residual_shift import sample_residual_shift
from ..samplers.schedules import ResShiftSchedule, Spacing, sampling_sigmas
from .conditioning import resshift_model
from .noise import BatchNoise, draw_noise, noise_places, picture_generators, step_noise_sampler
from .own_pictures import own_pictures


def residual_shift_sampler(
    randomness: float = 1.0,
    batch_noise: BatchNoise = "different per image",
    places: Sequence[int] | None = None,
) -> comfy.samplers.KSAMPLER:
    """Return ResShift's reverse chain as a SAMPLER.

    Args:
        randomness: 1 is the published chain, 0 its deterministic member.
        batch_noise: Whether picture k draws from `seed + k` or every picture from `seed`.
        places: Place of each picture in the whole batch; None for a whole batch.
    """
    options = {"randomness": randomness, "batch_noise": batch_noise, "places": places}
    return comfy.samplers.KSAMPLER(_sample, extra_options=options)


def residual_shift_sigmas(model: Any, steps: int, spacing: Spacing = "even") -> Tensor:
    """Return the SIGMAS of a run on a ResShift MODEL.

    Args:
        model: A ResShift MODEL, patched or not.
        steps: Network calls; 0 means as many as the model is made for.
        spacing: See `sampling_sigmas`.
    Raises:
        ValueError: If the MODEL is another kind of model, or `steps` is out of range.
    """
    record = resshift_model(model).record
    grid = check_sampling(model.get_model_object("model_sampling")).grid.cpu()
    return sampling_sigmas(grid, steps or record.sampling_steps, spacing)


def patch_schedule(
    model: Any, schedule: ResShiftSchedule, predict_type: PredictType | None = None
) -> Any:
    """Return a clone of a ResShift MODEL that runs another schedule.

    Args:
        model: A ResShift MODEL.
        schedule: The numbers of the chain.
        predict_type: What the network predicts; None keeps the model's.
    Raises:
        ValueError: If the MODEL is another kind of model or a number is out of range.
    """
    record = resshift_model(model).record
    patched = model.clone()
    kind = predict_type or record.predict_type
    sampling = ResShiftSampling(schedule, kind, record.sampling_steps)
    patched.add_object_patch("model_sampling", sampling)
    return patched


def sample_resshift(
    model: Any,
    positive: list,
    latent: dict[str, Any],
    *,
    seed: int,
    steps: int = 0,
    randomness: float = 1.0,
    batch_noise: BatchNoise = "different per image",
    first: int = 0,
    callback: Callable[[int, Tensor, Tensor, int], None] | None = None,
) -> dict[str, Any]:
    """Return the latent that ResShift's chain makes.

    Args:
        model: A ResShift MODEL.
        positive: Conditioning of `prepare_resshift`.
        latent: Latent of `prepare_resshift`; a noise mask in it is honoured.
        seed: Decides all noise.
        steps: Network calls; 0 means as many as the model is made for.
        randomness: 1 is the published chain, 0 its deterministic member.
        batch_noise: Whether picture k draws from `seed + k` or every picture from `seed`.
        first: Place of the first picture in the whole batch, where the latent does not tell.
        callback: Called after each step; by default the node's progress bar and preview.
    Raises:
        ValueError: If the MODEL is another kind of model, `steps` is out of range, or it cannot be
            told which of the conditioning's pictures the latent holds.
    """
    sigmas = residual_shift_sigmas(model, steps)
    (positive,) = own_pictures([positive], latent)
    sampler = residual_shift_sampler(randomness, batch_noise, noise_places(latent, first))
    return sample_latent(
        model,
        positive,
        positive,
        latent,
        sampler,
        sigmas,
        seed=seed,
        batch_noise=batch_noise,
        first=first,
        callback=callback,
    )


def sample_latent(
    model: Any,
    positive: list,
    negative: list,
    latent: dict[str, Any],
    sampler: comfy.samplers.Sampler,
    sigmas: Tensor,
    *,
    seed: int,
    cfg: float = 1.0,
    batch_noise: BatchNoise = "different per image",
    first: int = 0,
    callback: Callable[[int, Tensor, Tensor, int], None] | None = None,
    start_noise: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Any]:
    """Return the latent that a sampler makes, with noise from each picture's own seed.

    Args:
        model: The MODEL.
        positive: Its conditioning.
        negative: The same for the negative prompt; the positive one where there is none.
        latent: Where sampling starts; a noise mask in it is honoured.
        sampler: The SAMPLER.
        sigmas: Its SIGMAS.
        seed: Decides all noise.
        cfg: Scale of classifier-free guidance.
        batch_noise: Whether picture k draws from `seed + k` or every picture from `seed`.
        first: Place of the first picture in the whole batch, where the latent does not tell.
        callback: Called after each step; by default the node's progress bar and preview.
        start_noise: Makes the noise of the start from standard noise and the latent's samples.
    """
    samples = comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial")
    )
    places = noise_places(latent, first)
    noise = draw_noise(picture_generators(seed, batch_noise, places), samples)
    denoised = comfy.sample.sample_custom(
        model,
        noise if start_noise is None else start_noise(noise, samples),
        cfg,
        sampler,
        sigmas,
        positive,
        negative,
        samples,
        noise_mask=latent.get("noise_mask"),
        callback=callback or latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    kept = {key: value for key, value in latent.items() if key != "downscale_ratio_spacial"}
    return {**kept, "samples": denoised}


def _sample(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    randomness: float,
    batch_noise: BatchNoise,
    places: Sequence[int] | None,
) -> Tensor:
    sampling = model.inner_model.model_patcher.get_model_object("model_sampling")
    if not isinstance(sampling, ResShiftSampling):
        raise ValueError(
            "the ResShift sampler got a model that is not ResShift. Load one with"
            " 'Load ResShift Model', or choose another sampler for this model."
        )
    extra_args = extra_args or {}
    return sample_residual_shift(
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        kappa=sampling.kappa,
        randomness=randomness,
        noise_sampler=step_noise_sampler(x, extra_args.get("seed") or 0, batch_noise, places),
    )
