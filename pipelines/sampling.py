"""A run of ComfyUI's sampling with noise from each picture's own seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from torch import Tensor

from .noise import PictureSeeds, noise_draws


def sample_latent(
    model: Any,
    positive: list,
    negative: list,
    latent: dict[str, Any],
    sampler: comfy.samplers.Sampler,
    sigmas: Tensor,
    *,
    seeds: PictureSeeds,
    cfg: float = 1.0,
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
        seeds: Decide all noise; places that the latent tells go before theirs.
        cfg: Scale of classifier-free guidance.
        callback: Called after each step; by default the node's progress bar and preview.
        start_noise: Makes the noise of the start from standard noise and the latent's samples.
    """
    samples = comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial")
    )
    noise = noise_draws(seeds.of_latent(latent), samples)()
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
        seed=seeds.seed,
    )
    kept = {key: value for key, value in latent.items() if key != "downscale_ratio_spacial"}
    return {**kept, "samples": denoised}
