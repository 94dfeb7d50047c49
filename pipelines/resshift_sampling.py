"""ResShift's sampler, sigmas and model patch on ComfyUI's objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
from torch import Tensor

from ..model_loaders.resshift_model import LATENT_KEY, LQ_KEY
from ..model_loaders.resshift_sampling import ResShiftSampling, check_sampling
from ..samplers.chain import PredictType
from ..samplers.moved_noise import MovedNoise
from ..samplers.places import places_in_batch
from ..samplers.residual_shift import sample_residual_shift
from ..samplers.schedules import ResShiftSchedule, Spacing, sampling_sigmas
from .clip_motion import clip_noise
from .noise import WHOLE_BATCH, PictureSeeds, seeds_of_run, step_noise_sampler
from .own_pictures import own_pictures
from .resshift_conditioning import resshift_model
from .sampling import sample_latent


def residual_shift_sampler(
    randomness: float = 1.0, seeds: PictureSeeds = WHOLE_BATCH
) -> comfy.samplers.KSAMPLER:
    """Return ResShift's reverse chain as a SAMPLER.

    Args:
        randomness: 1 is the published chain, 0 its deterministic member.
        seeds: How pictures draw their noise; the seed is that of the run.
    """
    options = {"randomness": randomness, "seeds": seeds}
    return comfy.samplers.KSAMPLER(_sample, extra_options=options)


def residual_shift_sigmas(model: Any, steps: int, spacing: Spacing = "even") -> Tensor:
    """Return the SIGMAS of a run on a ResShift MODEL.

    Args:
        model: A ResShift MODEL, patched or not.
        steps: Network calls; 0 means as many as the model is made for.
        spacing: See `sampling_sigmas`. As many steps as the model is made for stand where it was
            trained, so they are even.
    Raises:
        ValueError: If the MODEL is another kind of model, or `steps` is out of range.
    """
    record = resshift_model(model).record
    trained = check_sampling(model.get_model_object("model_sampling")).trained_sigmas.cpu()
    if record.sampling_steps and steps in (0, record.sampling_steps):
        spacing = "even"
    return sampling_sigmas(trained, steps or record.sampling_steps, spacing)


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
    seeds: PictureSeeds,
    steps: int = 0,
    randomness: float = 1.0,
    callback: Callable[[int, Tensor, Tensor, int], None] | None = None,
) -> dict[str, Any]:
    """Return the latent that ResShift's chain makes.

    Args:
        model: A ResShift MODEL.
        positive: Conditioning of `prepare_resshift`.
        latent: Latent of `prepare_resshift`; a noise mask in it is honoured.
        seeds: Decide all noise; places that the latent tells go before theirs.
        steps: Network calls; 0 means as many as the model is made for.
        randomness: 1 is the published chain, 0 its deterministic member.
        callback: Called after each step; by default the node's progress bar and preview.
    Raises:
        ValueError: If the MODEL is another kind of model, `steps` is out of range, or it cannot be
            told which of the conditioning's pictures the latent holds.
    """
    sigmas = residual_shift_sigmas(model, steps)
    seeds = seeds.of_latent(latent)
    if seeds.needs_motion:
        conds = [values for _, values in positive]
        samples, index = latent["samples"], latent.get("batch_index")
        seeds = seeds.along(_moved_noise(model, conds, samples, index))
    (positive,) = own_pictures([positive], latent)
    sampler = residual_shift_sampler(randomness, seeds)
    return sample_latent(
        model, positive, positive, latent, sampler, sigmas, seeds=seeds, callback=callback
    )


def _sample(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    randomness: float,
    seeds: PictureSeeds,
) -> Tensor:
    sampling = model.inner_model.model_patcher.get_model_object("model_sampling")
    if not isinstance(sampling, ResShiftSampling):
        raise ValueError(
            "the ResShift sampler got a model that is not ResShift. Load one with"
            " 'Load ResShift Model', or choose another sampler for this model."
        )
    seeds = seeds_of_run(seeds, extra_args)
    if seeds.needs_motion and randomness > 0:
        guider = model.inner_model
        conds = guider.conds["positive"]
        seeds = seeds.along(_moved_noise(guider.model_patcher, conds, x))
    return sample_residual_shift(
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        kappa=sampling.kappa,
        randomness=randomness,
        noise_sampler=step_noise_sampler(x, seeds, len(sigmas)),
    )


def _moved_noise(
    model: Any, conds: list[dict[str, Any]], samples: Tensor, batch_index: list[int] | None = None
) -> MovedNoise:
    """Return the order of the noise in a latent's pictures as the conditioning's pictures move.

    Args:
        model: The ResShift MODEL.
        conds: Values of its conditioning.
        samples: `(B, C, h, w)` of the latent.
        batch_index: Places of its pictures, where they are told.
    Raises:
        ValueError: If the conditioning holds no pictures, or not those of the latent.
    """
    values = next((values for values in conds if LQ_KEY in values), None)
    if values is None:
        raise ValueError(
            "noise that moves with the picture needs the pictures that 'ResShift Conditioning' puts"
            " into 'positive'. Connect its conditioning."
        )
    lq = values[LQ_KEY]
    places = places_in_batch(
        len(samples),
        len(lq),
        batch_index=batch_index,
        latent=samples,
        candidates=values.get(LATENT_KEY),
    )
    return clip_noise(model, (lq + 1) / 2, samples, places)
