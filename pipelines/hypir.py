"""HYPIR on ComfyUI's objects: the patched MODEL, its sampler and its two sigmas."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_sampling
import comfy.samplers
import torch
from torch import Tensor

from ..model_loaders.hypir import load_hypir_patches
from ..samplers.discrete import TRAINING_STEPS
from ..samplers.single_step import noise_without_noise, take_share
from .sd2 import NOISE_PREDICTION, check_sd2, named_prediction, prediction_of

logger = logging.getLogger("resshift-diffbir")

# Source: the released code's defaults.
TIMESTEP = 200
STRENGTH = 1.0

HYPIR_KEY = "hypir"
HYPIR_BASES = (
    "HYPIR works on Stable Diffusion 2.1 base. Load v2-1_512-ema-pruned with Load Checkpoint."
)


def patch_hypir(model: Any, path: Path) -> Any:
    """Return a clone of a MODEL of SD 2.1 base with HYPIR's LoRA among its patches.

    The patches are ComfyUI's own, so that other LoRAs add to them, and saving and merging models
    take them along.

    Args:
        model: MODEL of SD 2.1 base.
        path: HYPIR_sd2.pth.
    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the MODEL is another, predicts something else than noise or has HYPIR
            already, or the file is damaged.
        UnsupportedCheckpointError: If the file is another, or not all of the LoRA.

    Source: Lin et al. 2025 (arXiv 2507.20590).
    """
    check_base(model)
    if model.get_attachment(HYPIR_KEY) is not None:
        raise ValueError(
            "the model connected to 'model' went through 'Load HYPIR' before, and twice is too much."
            " Connect the model of Load Checkpoint."
        )
    network = model.model.diffusion_model
    shapes = {key: tuple(weight.shape) for key, weight in network.state_dict().items()}
    patches = load_hypir_patches(path, model.model.model_config.unet_config, shapes)
    patched = model.clone()
    patched.add_patches(patches)
    patched.set_attachments(HYPIR_KEY, path.name)
    return patched


def check_base(model: Any) -> None:
    """Make sure that a MODEL is SD 2.1 base or made of it.

    Raises:
        ValueError: If it is another model, or ComfyUI or a node takes its output for something else
            than the noise.
    """
    check_sd2(model, HYPIR_BASES)
    found = prediction_of(model.get_model_object("model_sampling"))
    if found == NOISE_PREDICTION:
        return
    if "model_sampling" in model.object_patches:
        raise ValueError(
            f"a node before this one set the model's sampling to {named_prediction(found)}, and HYPIR"
            f" needs {named_prediction(NOISE_PREDICTION)}. Take that node away."
        )
    raise ValueError(
        f"the model connected to 'model' has weights that ComfyUI takes for {named_prediction(found)},"
        f" as SD 2.1 with 768 pixels and sd2.1-base-zsnr-laionaes5 have, and {HYPIR_BASES} Where it"
        f" does predict noise, put ModelSamplingDiscrete with 'eps' before this node."
    )


def warn_without_hypir(model: Any) -> None:
    """Log that a MODEL has no patch of HYPIR, which is right only where it was merged before."""
    if model.get_attachment(HYPIR_KEY) is None:
        logger.warning(
            "this model did not come through 'Load HYPIR', so it restores only if HYPIR was merged"
            " into it and saved."
        )


def single_step_sampler(strength: float = STRENGTH) -> comfy.samplers.KSAMPLER:
    """Return HYPIR's step as a SAMPLER, which adds no noise whatever noise it is given.

    Args:
        strength: How much of the step is taken, 0 to 1; see `take_share`.
    Raises:
        ValueError: If `strength` is out of range.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"'strength' is {strength}; give 0 to 1.")
    return _SingleStep(strength)


def single_step_sigmas(model: Any, timestep: int = TIMESTEP) -> Tensor:
    """Return the SIGMAS of HYPIR's step on a MODEL: that of a training timestep, then 0.

    Args:
        model: MODEL of SD 2.1 base with HYPIR's patches, or that was saved with them.
        timestep: Where the picture's latent is taken to be, 0 to 999.
    Returns:
        `(2,)` float32 on the CPU.
    Raises:
        ValueError: If `timestep` is out of range, the MODEL is another, or a node took its table of
            training timesteps away.
    """
    check_base(model)
    warn_without_hypir(model)
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete):
        raise ValueError(
            f"a node before this one set the model's sampling to {type(sampling).__name__}, which has"
            " no training timesteps. Take that node away."
        )
    if not 0 <= timestep < TRAINING_STEPS:
        raise ValueError(f"'timestep' is {timestep}; give 0 to {TRAINING_STEPS - 1}.")
    sigmas: Any = sampling.sigmas
    return torch.stack([sigmas[timestep].float().cpu(), torch.zeros(())])


class _SingleStep(comfy.samplers.KSAMPLER):
    """A step of Euler's from the latent of a picture, scaled and without noise.

    Args:
        strength: See `single_step_sampler`.
    """

    def __init__(self, strength: float):
        super().__init__(comfy.k_diffusion.sampling.sample_euler)
        self.strength = strength

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[..., None] | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Return the restored latent, in the scale of the network."""
        if len(sigmas) != 2 or sigmas[1] != 0:
            raise ValueError(
                f"HYPIR's sampler takes one step and got {len(sigmas) - 1} of them. Connect the"
                " sigmas of 'HYPIR Single Step'."
            )
        if latent_image is None or not latent_image.any():
            raise ValueError(
                "the latent at 'latent_image' is empty, and HYPIR restores what is in it. Connect the"
                " latent of the enlarged picture, from VAE Encode."
            )
        start = noise_without_noise(
            latent_image, sigmas[0], spread=self.max_denoise(model_wrap, sigmas)
        )
        restored = super().sample(
            model_wrap,
            sigmas,
            extra_args,
            callback,
            start,
            latent_image,
            denoise_mask,
            disable_pbar,
        )
        return take_share(latent_image, restored, self.strength)
