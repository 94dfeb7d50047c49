"""DiffBIR's second stage on ComfyUI's objects: sigmas, samplers, model patches, a whole run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ..images.conversion import image_to_planes
from ..samplers.discrete import EDM_FIRST_SIGMA, edm_sigmas, spaced_sigmas
from ..samplers.guidance import rescaled_cfg_scale
from ..samplers.moved_noise import MovedNoise
from ..samplers.spaced import sample_spaced
from .clip_motion import clip_noise, frame_places
from .diffbir_conditioning import CONDITION_KEY, LATENT_CHANNELS
from .diffbir_presets import DIFFBIR_BASES, DiffBIRPreset
from .latent_guidance import LatentGuidance, patch_latent_guidance
from .noise import WHOLE_BATCH, PictureSeeds, own_motion, seeds_of_run, step_noise_sampler
from .own_pictures import own_pictures
from .sampling import sample_latent
from .sd2 import check_sd2, named_prediction, prediction_of

OFFICIAL = "official"
SPACED = "spaced"
LEAST_SPACED_STEPS = 2

NO_GUIDANCE = LatentGuidance()

# Share of a sigma by which rounding moves it.
NO_LENGTH = 1e-5

Sampler = comfy.samplers.KSAMPLER


class _NoiseSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """SD's schedule for a network that predicts the noise, as ComfyUI puts the two together."""


class _VelocitySampling(
    comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION
):
    """SD's schedule for a network that predicts the velocity."""


def run_sampler(preset: DiffBIRPreset, sampler: str) -> str:
    """Return the name of the sampler that a choice means, `spaced` or one of ComfyUI's."""
    return preset.sampler if sampler == OFFICIAL else sampler


def preset_guidance(
    preset: DiffBIRPreset,
    sampler: str,
    scale: float,
    fidelity: float,
    *,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    repeat: int = 1,
    clamp: bool = False,
) -> LatentGuidance:
    """Return latent guidance by the rule of a preset's version.

    The official moves go beyond the target at early steps, which only the spaced sampler bears;
    with every other no move does, whatever `clamp` is.

    Args:
        preset: Settings of the version.
        sampler: `official`, `spaced` or one of ComfyUI's.
        scale: See `LatentGuidance`, as what follows.
        fidelity: The same.
        start_percent: The same.
        end_percent: The same.
        repeat: The same.
        clamp: The same.
    Raises:
        ValueError: If a number is out of range.
    """
    return LatentGuidance(
        scale,
        fidelity,
        preset.guidance_version,
        start_percent,
        end_percent,
        repeat=repeat,
        clamp=clamp or run_sampler(preset, sampler) != SPACED,
    )


def spaced_run_sigmas(model: Any, steps: int) -> Tensor:
    """Return the SIGMAS of DiffBIR's spaced sampler on a MODEL.

    Args:
        model: A MODEL with a table of training timesteps, such as SD 2.1's.
        steps: Network calls, 2 to the number of timesteps.
    Raises:
        ValueError: If `steps` is out of range or the MODEL has no such table.
    """
    if steps < LEAST_SPACED_STEPS:
        raise ValueError(
            f"the spaced sampler visits the first and the last timestep, so 'steps' must be"
            f" {LEAST_SPACED_STEPS} or more, not {steps}."
        )
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete):
        raise ValueError(
            f"the model connected to 'model' is a {type(model.model).__name__} whose schedule has no"
            " training timesteps. Load Stable Diffusion 2.1 with Load Checkpoint."
        )
    sigmas: Any = sampling.sigmas
    return spaced_sigmas(sigmas.cpu(), steps)


def spaced_sampler(seeds: PictureSeeds = WHOLE_BATCH) -> Sampler:
    """Return DiffBIR's spaced sampler as a SAMPLER, exact also at zero terminal SNR.

    Args:
        seeds: How pictures draw their noise; the seed is that of the run.
    """
    return Sampler(_sample_spaced, extra_options={"seeds": seeds})


def patch_dynamic_cfg(model: Any) -> Any:
    """Return a clone of a MODEL whose cfg grows from about 1 at the start to cfg + 1 at the end.

    It brings the negative prediction nearer to the positive one before classifier-free guidance is
    computed, which has the same result: patches that replace that computation go on working, and
    the difference of large states that it would take is not rounded.

    Args:
        model: Any MODEL.

    Source: the reference implementation of DiffBIR, `rescale_cfg`.
    """
    patched = model.clone()
    patched.set_model_sampler_pre_cfg_function(_rescale_cfg)
    return patched


def sample_diffbir(
    model: Any,
    positive: list,
    negative: list,
    latent: dict[str, Any],
    *,
    preset: DiffBIRPreset,
    seeds: PictureSeeds,
    steps: int = 0,
    cfg: float = 0.0,
    sampler: str = OFFICIAL,
    scheduler: str = OFFICIAL,
    guidance: LatentGuidance = NO_GUIDANCE,
    guidance_target: dict[str, Any] | Tensor | None = None,
    vae: Any = None,
    frames: Tensor | None = None,
    callback: Callable[[int, Tensor, Tensor, int], None] | None = None,
) -> dict[str, Any]:
    """Return the latent that DiffBIR's second stage makes.

    Args:
        model: An SD 2.x MODEL. An unpatched one gets the preset's prediction type and schedule,
            for neither can be read from its weights.
        positive: Conditioning with the control, as `prepare_diffbir` makes it.
        negative: The same for the negative prompt.
        latent: Where sampling starts: an empty latent is the official start from noise, another is
            noised to the first sigma; a noise mask in it is honoured.
        preset: Settings of the version that the weights belong to.
        seeds: Decide all noise; places that the latent tells go before theirs.
        steps: Network calls; 0 means the preset's.
        cfg: Scale of classifier-free guidance; 0 means the preset's.
        sampler: `official`, `spaced` or one of ComfyUI's.
        scheduler: `official` or one of ComfyUI's. The official one goes with the sampler: the
            spaced timesteps for `spaced`, those of the EDM samplers for every other.
        guidance: Latent guidance, none by default.
        guidance_target: LATENT or IMAGE it pulls to; None takes the condition that `positive` holds.
        vae: The model's VAE; needed where `guidance_target` is an image.
        frames: `(B, H, W, C)` IMAGE, the clip by whose motion noise moves, where it is to and
            `seeds` do not tell how.
        callback: Called after each step; by default the node's progress bar and preview.
    Raises:
        ValueError: If the MODEL is not an SD 2.x model, an input does not fit it, or it cannot be
            told which of the conditioning's pictures the latent holds.

    Source: Lin et al. 2023 (arXiv 2308.15070), DiffBIR, "Generation Module".
    """
    check_sd2(model, DIFFBIR_BASES)
    _check_latent(latent["samples"], positive)
    model = _with_schedule(model, preset)
    seeds = seeds.of_latent(latent)
    if seeds.needs_motion and frames is not None:
        seeds = seeds.along(_moved_noise(model, frames, latent))
    positive, negative = own_pictures([positive, negative], latent)
    if guidance.acts:
        target = _condition(positive) if guidance_target is None else guidance_target
        model = patch_latent_guidance(model, target, guidance, vae=vae)
    sampler = run_sampler(preset, sampler)
    sigmas = _run_sigmas(model, preset, steps or preset.steps, sampler, scheduler)
    return sample_latent(
        model,
        positive,
        negative,
        latent,
        _sampler(sampler, seeds),
        sigmas,
        seeds=seeds,
        cfg=cfg or preset.cfg,
        callback=callback,
        start_noise=lambda noise, samples: _start_noise(model, preset, noise, samples, sigmas),
    )


def _moved_noise(model: Any, frames: Tensor, latent: dict[str, Any]) -> MovedNoise:
    """Return the order of the noise in a latent's pictures as a clip's frames move."""
    planes = image_to_planes(frames, "'frames'")[0].clamp(0, 1)
    samples = latent["samples"]
    return clip_noise(model, planes, samples, frame_places(len(planes), latent))


def _check_latent(samples: Tensor, positive: list) -> None:
    # ComfyUI gives an empty latent the channels that the model needs.
    if samples.shape[1] != LATENT_CHANNELS and samples.any():
        raise ValueError(
            f"the latent connected to 'latent_image' has {samples.shape[1]} channels, and Stable"
            f" Diffusion's have {LATENT_CHANNELS}. Connect the latent of 'DiffBIR Conditioning'."
        )
    for condition in (values[CONDITION_KEY] for _, values in positive if CONDITION_KEY in values):
        if condition.shape[-2:] != samples.shape[-2:]:
            raise ValueError(
                "the latent connected to 'latent_image' is"
                f" {samples.shape[-1]}x{samples.shape[-2]} in latent pixels and the conditioning was"
                f" made for {condition.shape[-1]}x{condition.shape[-2]}. Connect conditioning and"
                " latent of one 'DiffBIR Conditioning', and enlarge nothing between."
            )


def _with_schedule(model: Any, preset: DiffBIRPreset) -> Any:
    """Return the MODEL, or a clone of it, with the preset's prediction type and schedule.

    A patch that says the same is kept; one that contradicts is refused, since one of the two must
    be wrong.
    """
    wanted = preset.prediction, preset.zero_snr
    found = prediction_of(model.get_model_object("model_sampling"))
    if found == wanted:
        return model
    if "model_sampling" in model.object_patches:
        raise ValueError(
            f"a node before this one set the model's sampling to {named_prediction(found)}, and the"
            f" preset is for {named_prediction(wanted)}. Choose the preset of the weights that are"
            " loaded, or take that node away: the preset sets it by itself."
        )
    patched = model.clone()
    prediction = _VelocitySampling if preset.prediction == "v" else _NoiseSampling
    sampling = prediction(model.model.model_config, zsnr=preset.zero_snr)
    patched.add_object_patch("model_sampling", sampling)
    return patched


def _condition(positive: list) -> dict[str, Any]:
    for _, values in positive:
        if CONDITION_KEY in values:
            return {"samples": values[CONDITION_KEY]}
    raise ValueError(
        "the guidance has no target: 'positive' holds no condition. Connect 'guidance_target', or"
        " make the conditioning with 'DiffBIR Conditioning', which keeps it."
    )


def _run_sigmas(
    model: Any, preset: DiffBIRPreset, steps: int, sampler: str, scheduler: str
) -> Tensor:
    sampling = model.get_model_object("model_sampling")
    if scheduler == OFFICIAL and sampler == SPACED:
        return spaced_run_sigmas(model, steps)
    if scheduler == OFFICIAL:
        # The official first sigma of 10000 is meant for infinity. An eps model's prediction of the
        # clean latent is its error times sigma, so there the schedule's own largest stays.
        first = EDM_FIRST_SIGMA if preset.zero_snr else float(sampling.sigma_max)
        return edm_sigmas(sampling.sigmas.cpu(), steps, first)
    if sampler == SPACED:
        return comfy.samplers.calculate_sigmas(sampling, scheduler, steps)
    device = torch.device("cpu")
    stock = comfy.samplers.KSampler(model, steps, device, sampler=sampler, scheduler=scheduler)
    return stock.sigmas


def _start_noise(
    model: Any, preset: DiffBIRPreset, noise: Tensor, samples: Tensor, sigmas: Tensor
) -> Tensor:
    """Return the noise from which ComfyUI makes the official start.

    At the largest sigma ComfyUI adds sqrt(1 + sigma^2) noise to the latent image, which is exact
    for an empty one. From a condition c the official start is sqrt(a) c + sqrt(1 - a) noise with
    a = 1 / (1 + sigma^2), which is c + sigma noise here, and noise alone at zero terminal SNR.
    """
    sampling = model.get_model_object("model_sampling")
    sigma = float(sigmas[0])
    below_largest = sigma < float(sampling.sigma_max) * (1 - 1e-5)
    if below_largest or not samples.any():
        return noise
    spread = (1 + sigma**2) ** 0.5
    if preset.zero_snr:
        clean = model.model.process_latent_in(samples.float()).to(noise.device)
        return noise - clean / spread
    return noise * (sigma / spread)


def _sampler(name: str, seeds: PictureSeeds) -> comfy.samplers.Sampler:
    if name == SPACED:
        return spaced_sampler(seeds)
    stock = comfy.samplers.sampler_object(name)
    if not isinstance(stock, Sampler):
        return stock
    if "noise_sampler" not in inspect.signature(stock.sampler_function).parameters:
        return stock
    options = {"sampler_function": stock.sampler_function, **stock.extra_options, "seeds": seeds}
    return Sampler(_sample_stock, options, stock.inpaint_options)


def _sample_spaced(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    seeds: PictureSeeds,
) -> Tensor:
    extra_args = extra_args or {}
    sampling = model.inner_model.model_patcher.get_model_object("model_sampling")
    from_noise = float(sigmas[0]) >= float(sampling.sigma_max) * (1 - 1e-5)
    return sample_spaced(
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        zero_snr_start=from_noise and prediction_of(sampling) == ("v", True),
        noise_sampler=step_noise_sampler(x, seeds_of_run(seeds, extra_args), len(sigmas)),
    )


def _sample_stock(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    sampler_function: Callable[..., Tensor],
    seeds: PictureSeeds,
    **options: Any,
) -> Tensor:
    """Run a sampler of ComfyUI with noise that depends on each picture's own seed."""
    extra_args = extra_args or {}
    noise_sampler = _path_noise_sampler(x, sigmas, seeds_of_run(seeds, extra_args))
    return sampler_function(
        model,
        x,
        sigmas,
        extra_args=extra_args,
        callback=callback,
        disable=disable,
        noise_sampler=noise_sampler,
        **options,
    )


def _path_noise_sampler(
    x: Tensor, sigmas: Tensor, seeds: PictureSeeds
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a noise sampler in which steps of any length share one path of each picture.

    A path tells nothing of an interval of no length, which samplers of two stages whose first ends
    where the step ends ask for and then multiply by 0.
    """
    moved = own_motion(seeds, len(x))
    paths = len(x) if moved is None else 1
    along_path = comfy.k_diffusion.sampling.BrownianTreeNoiseSampler(
        x[:paths],
        sigmas[sigmas > 0].min(),
        sigmas.max(),
        seed=[generator.initial_seed() for generator in seeds.generators(paths)],
        cpu=True,
    )

    def sample(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        larger, smaller = max(sigma, sigma_next), min(sigma, sigma_next)
        if larger - smaller <= NO_LENGTH * larger:
            return torch.zeros_like(x)
        noise = along_path(sigma, sigma_next)
        return noise if moved is None else moved.of(noise)

    return sample


def _rescale_cfg(args: dict[str, Any]) -> list[Tensor]:
    cond, uncond, *others = args["conds_out"]
    scale = args["cond_scale"]
    if scale <= 1 or args["conds"][1] is None:  # no guidance, so nothing to rescale
        return args["conds_out"]
    sampling = args["model"].model_sampling
    timestep, total = sampling.timestep(args["sigma"]).float(), 1000.0
    discrete = comfy.model_sampling.ModelSamplingDiscrete
    if type(sampling).timestep is not discrete.timestep:  # flows count from 0 to 1, or otherwise
        total = float(sampling.timestep(torch.as_tensor(sampling.sigma_max)))
        timestep = timestep.clamp(0, total)
    share = (rescaled_cfg_scale(scale, timestep, total) - 1) / (scale - 1)
    return [cond, cond + share.view(-1, *[1] * (cond.ndim - 1)) * (uncond - cond), *others]
