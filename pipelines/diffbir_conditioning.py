"""From an image to the conditioning and the start latent of DiffBIR's second stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import comfy.latent_formats
import torch
import torch.nn.functional as F
from torch import Tensor

from ..images.conversion import planes_to_image
from ..images.motion import FrameGrid
from ..images.padding import multiple_above
from ..images.transparency import visible_planes
from ..model_loaders.la_control_net import is_la_control_net, text_width
from ..samplers.discrete import TRAINING_STEPS, alphas_cumprod
from .clip_motion import noise_on_grid, size_of
from .noise import WHOLE_BATCH, PictureSeeds, noise_draws

CONDITION_KEY = "diffbir_condition"
SIZE_MULTIPLE_PX = 64
LATENT_RATIO = 8
LATENT_CHANNELS = 4

Start = Literal["noise", "condition"]
STARTS: tuple[str, ...] = get_args(Start)

# Added to the seed of the noise augmentation, whose stream would otherwise begin with the very
# noise that a sampler of the same seed starts from, and go on with that of its first step.
NOISE_AUG_STREAM = int.from_bytes(b"noiseaug", "big")


@dataclass(frozen=True)
class DiffBIRInputs:
    """What a run of DiffBIR's second stage starts from.

    Attributes:
        positive: ComfyUI conditioning with the control and, under `diffbir_condition`, the
            condition latent in the VAE's scale without noise augmentation.
        negative: The same for the negative prompt.
        latent: ComfyUI latent to start from.
        width: Width of the result without padding.
        height: Height of the result without padding.
    """

    positive: list
    negative: list
    latent: dict[str, Any]
    width: int
    height: int


def prepare_diffbir(
    positive: list,
    negative: list,
    control_net: Any,
    vae: Any,
    image: Tensor,
    *,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    noise_aug: int = 0,
    zero_snr: bool = False,
    start: Start = "noise",
    seeds: PictureSeeds = WHOLE_BATCH,
    multiple: int = SIZE_MULTIPLE_PX,
) -> DiffBIRInputs:
    """Return conditioning and start latent for restoring an image.

    The image is padded with black on the right and at the bottom to multiples of 64 and encoded once; a copy of the control net holds the latent, so nothing is encoded while sampling.

    Args:
        positive: CONDITIONING of SD 2.1's text encoder; controls that it holds stay in the chain.
        negative: The same for the negative prompt.
        control_net: A LAControlNet.
        vae: SD's VAE.
        image: `(B, H, W, C)` IMAGE, the result of stage 1; may leave [0, 1]; alpha is left out.
        strength: Factor of all control tensors; 0 leaves the control out.
        start_percent: Where in the run the control begins, 0 to 1.
        end_percent: Where it ends.
        noise_aug: Training timestep whose noise is added to the condition that the control net
            sees, 0 for none.
        zero_snr: Whether that timestep is one of the schedule with zero terminal SNR (v2.1).
        start: Whether the start latent is empty or the condition without added noise.
        seeds: Decide the added noise; its stream is another than the sampler's of the same seeds.
        multiple: Sides are padded to multiples of it; 64, or 8 for pictures in official tiles.
    Raises:
        ValueError: If an input does not fit; the message says which and what to do.

    Source: Lin et al. 2024 (arXiv 2308.15070), "Generation Module".
    """
    check_control_net(control_net)
    _check_text(control_net, positive, negative)
    check_sd_vae(vae)
    if start not in STARTS:
        raise ValueError(f"'start' is one of {', '.join(STARTS)}, not '{start}'.")
    if not 0 <= noise_aug < TRAINING_STEPS:
        raise ValueError(f"'noise_aug' is {noise_aug}; give 0 to {TRAINING_STEPS - 1}.")
    planes = visible_planes(image)  # (B, 3, H, W)
    height, width = planes.shape[-2:]
    padded = F.pad(
        planes,
        (
            0,
            multiple_above(width, multiple) - width,
            0,
            multiple_above(height, multiple) - height,
        ),
    )  # (B, 3, padded H, padded W)
    condition = vae.encode(planes_to_image(padded)).float()  # (B, 4, padded H / 8, padded W / 8)
    hint = comfy.latent_formats.SD15().process_in(condition)
    if noise_aug > 0:
        if seeds.needs_motion:
            grid = FrameGrid(*size_of(hint), 1 / LATENT_RATIO)
            seeds = seeds.along(noise_on_grid(planes.clamp(0, 1), grid, range(len(planes))))
        noise = noise_draws(seeds.moved_by(NOISE_AUG_STREAM), hint)()
        kept = alphas_cumprod(zero_snr=zero_snr)[noise_aug].item()
        hint = kept**0.5 * hint + (1 - kept) ** 0.5 * noise

    controlled = _with_control(
        (positive, negative), control_net, condition, hint, strength, (start_percent, end_percent)
    )
    return DiffBIRInputs(
        positive=controlled[0],
        negative=controlled[1],
        latent={
            "samples": condition if start == "condition" else torch.zeros_like(condition),
            "downscale_ratio_spacial": LATENT_RATIO,
        },
        width=width,
        height=height,
    )


def _with_control(
    conditionings: tuple[list, ...],
    control_net: Any,
    condition: Tensor,
    hint: Tensor,
    strength: float,
    percents: tuple[float, float],
) -> list[list]:
    # One object for each control that is there already: ComfyUI samples what shares it in one batch.
    by_previous: dict[Any, Any] = {}

    def after(previous: Any) -> tuple[Any, dict[str, Any]]:
        if previous not in by_previous:
            control = control_net.copy()
            # Without these two ComfyUI takes the hint for the latent that it is.
            control.vae = None
            control.latent_format = None
            control.set_cond_hint(hint, strength, percents)
            control.set_previous_controlnet(previous)
            by_previous[previous] = control, control.hint_condition(hint)
        return by_previous[previous]

    controlled = []
    for conditioning in conditionings:
        entries = []
        for embedding, values in conditioning:
            added: dict[str, Any] = {CONDITION_KEY: condition}
            if strength != 0:
                added["control"], part = after(values.get("control"))
                added["model_conds"] = {**values.get("model_conds", {}), **part}
                added["control_apply_to_uncond"] = False
            entries.append([embedding, {**values, **added}])
        controlled.append(entries)
    return controlled


def check_controlled(positive: list) -> None:
    """Make sure that a CONDITIONING holds a control or the latent of an image.

    Raises:
        ValueError: If it is a prompt alone, which would give a picture of its own.
    """
    if not any("control" in values or CONDITION_KEY in values for _, values in positive):
        raise ValueError(
            "the conditioning connected to 'positive' holds no image to restore. Connect positive"
            " and negative of 'DiffBIR Conditioning', or of 'Apply ControlNet' with a LAControlNet."
        )


def check_control_net(control_net: Any) -> None:
    """Make sure that a CONTROL_NET is a LAControlNet.

    Raises:
        ValueError: If it is another kind.
    """
    if not is_la_control_net(control_net):
        raise ValueError(
            f"the control network connected to 'control_net' ({type(control_net).__name__}) is not"
            " a LAControlNet of DiffBIR. Load one with 'Load LAControlNet (DiffBIR)'; ordinary"
            " ControlNets go into 'Apply ControlNet'."
        )


def _check_text(control_net: Any, *conditionings: list) -> None:
    expected = text_width(control_net)
    for embedding, _ in (entry for conditioning in conditionings for entry in conditioning):
        if embedding is not None and embedding.shape[-1] != expected:
            raise ValueError(
                f"the text embeddings have {embedding.shape[-1]} values for each token, and this"
                f" control network takes {expected}. Encode the prompts with the CLIP of SD 2.1."
            )


def check_vae_is_there(vae: Any) -> None:
    """Make sure that a VAE came through an input, as none does from a checkpoint without one.

    Raises:
        ValueError: If it did not.
    """
    if vae is None or vae.first_stage_model is None:
        raise ValueError(
            "nothing came through 'vae': the checkpoint holds none. Load one with 'Load VAE'."
        )


def check_sd_vae(vae: Any) -> None:
    """Make sure that a VAE makes latents like SD's.

    Raises:
        ValueError: If it is missing or another kind.
    """
    check_vae_is_there(vae)
    found = vae.latent_dim, vae.latent_channels, vae.spacial_compression_encode()
    if found != (2, LATENT_CHANNELS, LATENT_RATIO):
        raise ValueError(
            f"the VAE connected to 'vae' makes latents of {vae.latent_channels} channels that are"
            f" not SD's, which have {LATENT_CHANNELS} channels at 1/{LATENT_RATIO} of the size."
            " Connect the VAE of SD 2.1's checkpoint."
        )
