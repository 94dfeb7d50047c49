"""Inputs that several nodes have, worded once."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..images.color import COLOR_FIXES
from ..pipelines.diffbir_presets import DIFFBIR_PRESETS
from ..pipelines.diffbir_sampling import OFFICIAL, SPACED
from ..pipelines.frames import FRAMES_AT_ONCE
from ..pipelines.noise import BATCH_NOISES, STILL_BATCH_NOISES, BatchNoise
from ..pipelines.tiles import TILE_CHOICES, TILES

MAX_SEED = 0xFFFFFFFFFFFFFFFF
MAX_STEPS = 1000
MAX_FRAMES_AT_ONCE = 256
MAX_SCALE = 8.0
MAX_TILE = 8192
MAX_CFG = 100.0
MAX_GUIDANCE_SCALE = 10000.0
MAX_REPEAT = 20


def seed_input() -> io.Int.Input:
    """Return the input for the seed."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=MAX_SEED,
        control_after_generate=True,
        tooltip="The same seed gives the same picture; another seed other fine texture.",
    )


def batch_noise_input(
    *, may_move: bool = True, default: BatchNoise = "different per image"
) -> io.Combo.Input:
    """Return the input for how noise differs in a batch, which may be one of a clip's frames."""
    tooltip = (
        "Picture number k of a batch draws its noise from seed + k, or every picture from the"
        " seed itself, which steadies the frames of a video a little"
    )
    if may_move:
        tooltip += ". 'moving with the picture' lets it follow what the frames show"
    return io.Combo.Input(
        "batch_noise",
        options=list(BATCH_NOISES if may_move else STILL_BATCH_NOISES),
        default=default,
        advanced=True,
        tooltip=f"{tooltip}.",
    )


def steadiness_input(*, default: float = 0.0) -> io.Float.Input:
    """Return the input for how far a clip's frames are drawn to the frame before."""
    return io.Float.Input(
        "steadiness",
        default=default,
        min=0.0,
        max=1.0,
        step=0.05,
        optional=True,
        advanced=True,
        tooltip=(
            "For the frames of a video: share of every prediction that is taken from the frame"
            " before, moved to where the frame has it, one frame after the other. 0 restores each by"
            " itself."
        ),
    )


def frames_at_once_input() -> io.Int.Input:
    """Return the input for how many pictures share each call."""
    return io.Int.Input(
        "frames_at_once",
        default=FRAMES_AT_ONCE,
        min=1,
        max=MAX_FRAMES_AT_ONCE,
        optional=True,
        advanced=True,
        tooltip=(
            "Pictures of a batch that are restored together. More are faster on a graphics card"
            " while pictures are small, and need as many times the memory; noise stays the same."
        ),
    )


def keep_grey_input() -> io.Boolean.Input:
    """Return the input for whether black and white pictures stay so."""
    return io.Boolean.Input(
        "keep_grey",
        default=True,
        optional=True,
        advanced=True,
        tooltip=(
            "A black and white picture comes out black and white, also from an RGB file. Off leaves"
            " the tints that the model gives it."
        ),
    )


def restored_image_input() -> io.Image.Input:
    """Return the input for the pictures of a node that does all of a restoration."""
    return io.Image.Input(
        "image", tooltip="One or more images; alpha is kept and enlarged with them."
    )


def color_fix_input(source: str, *, wavelet_is_official: bool) -> io.Combo.Input:
    """Return the input for the colours of a restored picture, which are those of `source`."""
    return io.Combo.Input(
        "color_fix",
        options=list(COLOR_FIXES),
        default="wavelet" if wavelet_is_official else COLOR_FIXES[0],
        tooltip=(
            f"Takes colours from {source}: 'wavelet'{', the official one,' * wavelet_is_official}"
            " the coarse ones, 'adain' mean and spread, 'luminance' all of them."
        ),
    )


def tile_input(*, default: int = TILES.tile, advanced: bool = True) -> io.Int.Input:
    """Return the input for the side of a tile."""
    return io.Int.Input(
        "tile",
        default=default,
        min=64,
        max=MAX_TILE,
        step=64,
        advanced=advanced,
        tooltip=(
            "Side of a tile in pixels of the result, rounded up to what the network needs. Smaller"
            " tiles need less memory and see less of the picture; DiffBIR's own value is 512."
        ),
    )


def tile_overlap_input(*, default: int = TILES.overlap, advanced: bool = True) -> io.Int.Input:
    """Return the input for the overlap of tiles."""
    return io.Int.Input(
        "tile_overlap",
        default=default,
        min=0,
        max=MAX_TILE,
        step=8,
        advanced=advanced,
        tooltip=(
            "Pixels that neighbouring tiles share. A quarter of a tile hides the seams; more takes"
            " longer; DiffBIR's own value is half a tile."
        ),
    )


def tile_choice_input(*, advanced: bool = True) -> io.Combo.Input:
    """Return the input for where the side of a tile comes from."""
    return io.Combo.Input(
        "tile_choice",
        options=list(TILE_CHOICES),
        default=TILE_CHOICES[0],
        optional=True,
        advanced=advanced,
        tooltip=(
            "'fixed' takes the tile above, so the same settings give the same picture everywhere."
            " 'auto (by memory)' takes the largest tile that fits into free memory, so results"
            " differ between machines."
        ),
    )


def resshift_steps_input() -> io.Int.Input:
    """Return the input for the number of network calls."""
    return io.Int.Input(
        "steps",
        default=0,
        min=0,
        max=MAX_STEPS,
        tooltip=(
            "Network calls. 0 takes as many as the model was made for (4, 15, or 1 for SinSR and"
            " RSD), which is best; fewer are faster, more change little."
        ),
    )


def randomness_input() -> io.Float.Input:
    """Return the input for the share of fresh noise in each step."""
    return io.Float.Input(
        "randomness",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.05,
        tooltip=(
            "1 is the published chain. Lower draws less fresh noise in each step; 0 draws none"
            " after the start, for calmer texture."
        ),
    )


def start_image_input() -> io.Image.Input:
    """Return the input for another picture to start from."""
    return io.Image.Input(
        "start_image",
        optional=True,
        tooltip=(
            "A picture of the result's size to start from, such as another upscaler's; without it"
            " the model starts from its own, or from the plain enlargement."
        ),
    )


def preset_input() -> io.Combo.Input:
    """Return the input for the version of DiffBIR."""
    return io.Combo.Input(
        "preset",
        options=list(DIFFBIR_PRESETS),
        default=next(iter(DIFFBIR_PRESETS)),
        tooltip=(
            "The version the weights belong to. v1 and v2: v2-1_512-ema-pruned with v1_general,"
            " v1_face or v2. v2.1: sd2.1-base-zsnr-laionaes5 with DiffBIR_v2.1. The files do not"
            " tell, so a wrong choice gives noise or grey."
        ),
    )


def diffbir_steps_input() -> io.Int.Input:
    """Return the input for the number of network calls."""
    return io.Int.Input(
        "steps",
        default=0,
        min=0,
        max=MAX_STEPS,
        tooltip=(
            "Network calls; 0 takes the preset's: 50, or 10 with v2.1. Fewer are faster, more add"
            " fine texture."
        ),
    )


def cfg_input() -> io.Float.Input:
    """Return the input for the scale of classifier-free guidance."""
    return io.Float.Input(
        "cfg",
        default=0.0,
        min=0.0,
        max=MAX_CFG,
        step=0.1,
        tooltip=(
            "How much the prompts count; 0 takes the preset's: 4, 8 with v2.1, 1 with v1. More is"
            " sharper and less faithful."
        ),
    )


def sampler_input() -> io.Combo.Input:
    """Return the input for the sampler."""
    return io.Combo.Input(
        "sampler",
        options=[OFFICIAL, SPACED, *comfy.samplers.SAMPLER_NAMES],
        default=OFFICIAL,
        tooltip=(
            "'official' is the preset's: spaced, or dpmpp_3m_sde with v2.1. The others are"
            " ComfyUI's."
        ),
    )


def scheduler_input() -> io.Combo.Input:
    """Return the input for the scheduler."""
    return io.Combo.Input(
        "scheduler",
        options=[OFFICIAL, *comfy.samplers.SCHEDULER_NAMES],
        default=OFFICIAL,
        tooltip="'official' takes DiffBIR's timesteps for the sampler.",
    )


def guidance_scale_input(name: str, default: float) -> io.Float.Input:
    """Return the input for the strength of the guidance in DiffBIR's terms."""
    return io.Float.Input(
        name,
        default=default,
        min=0.0,
        max=MAX_GUIDANCE_SCALE,
        step=0.01,
        tooltip=(
            "DiffBIR's strength of the pull to the target: about 0.5 for v2, about 400 for v1."
            " More is more faithful and less detailed; 0 is off."
        ),
    )


def fidelity_input() -> io.Float.Input:
    """Return the slider between realness and fidelity."""
    return io.Float.Input(
        "fidelity",
        default=0.0,
        min=0.0,
        max=1.0,
        step=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip=(
            "Share of every prediction that is replaced by the target: 0 leaves the model free, 1"
            " gives the target itself, whatever the steps and the sampler."
        ),
    )


def percent_input(name: str, default: float, what: str) -> io.Float.Input:
    """Return an input for a place in the run."""
    return io.Float.Input(
        name,
        default=default,
        min=0.0,
        max=1.0,
        step=0.001,
        advanced=True,
        tooltip=f"Where in the run the guidance {what}, as in ControlNets: 0 its start, 1 its end.",
    )


def repeat_input(name: str) -> io.Int.Input:
    """Return the input for the moves in each step."""
    return io.Int.Input(
        name,
        default=1,
        min=1,
        max=MAX_REPEAT,
        advanced=True,
        tooltip="Pulls in each step, each from where the one before ended; 5 with DiffBIR v1.",
    )


def scale_input(tooltip: str) -> io.Float.Input:
    """Return the input for the size of a result over its input's."""
    return io.Float.Input("scale", default=4.0, min=0.1, max=MAX_SCALE, step=0.1, tooltip=tooltip)


def diffbir_parts(*, users: str, stage_one: str) -> list[Any]:
    """Return the inputs of DiffBIR's networks besides MODEL and VAE, for nodes that do without.

    Args:
        users: Which models need the CLIP.
        stage_one: What the tooltip says of stage 1's network.
    """
    return [
        io.Clip.Input("clip", optional=True, tooltip=f"For {users}: the checkpoint's CLIP."),
        io.ControlNet.Input(
            "control_net", optional=True, tooltip="For DiffBIR: from Load LAControlNet (DiffBIR)."
        ),
        io.UpscaleModel.Input(
            "upscale_model",
            optional=True,
            tooltip=f"For DiffBIR: the network of stage 1{stage_one}",
        ),
    ]
