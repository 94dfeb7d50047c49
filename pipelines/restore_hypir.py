"""HYPIR as a whole: an IMAGE in, an IMAGE out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..images.color import ColorFix
from ..images.conversion import check_image, collect_pictures, planes_to_image
from ..images.padding import reflect_pad_to_multiple
from ..images.resize import resize_bicubic, scaled_size, short_edge_size
from ..images.transparency import visible_planes
from .diffbir_conditioning import LATENT_RATIO, SIZE_MULTIPLE_PX, check_sd_vae
from .finish import finish_restoration, with_alpha_of
from .frames import FRAMES_AT_ONCE, check_frames_at_once
from .hypir import (
    STRENGTH,
    TIMESTEP,
    single_step_sampler,
    single_step_sigmas,
)
from .noise import WHOLE_BATCH
from .progress import RunProgress, Share
from .restore_diffbir import encode_text, tile_of_stage_one, unclamped_vae
from .sampling import sample_latent
from .stage_one import (
    SHORT_EDGE_PX,
    StageOneResult,
    check_network,
    check_short_edge,
    check_target_size,
    remove_degradation,
)
from .tiles import TileSettings, in_tiles

HYPIR_TILINGS: tuple[str, ...] = ("per step", "off")
# Source: the released code cuts encoding, the network and decoding into tiles of 512 every 256.
HYPIR_TILES = TileSettings(tile=512, overlap=256)


def restore_with_hypir(
    model: Any,
    clip: Any,
    vae: Any,
    image: Tensor,
    *,
    upscale_model: Any = None,
    scale: float = 4.0,
    prompt: str = "",
    timestep: int = TIMESTEP,
    strength: float = STRENGTH,
    color_fix: ColorFix = "wavelet",
    tiles: TileSettings = HYPIR_TILES,
    frames_at_once: int = FRAMES_AT_ONCE,
    keep_grey: bool = True,
    for_saving: bool = False,
    share: Share | None = None,
) -> Tensor:
    """Return every picture of a batch restored by HYPIR in one call of its network.

    Nothing is drawn at random, so there is no seed.

    Args:
        model: MODEL of SD 2.1 base with HYPIR's patches.
        clip: Its CLIP.
        vae: Its VAE.
        image: `(B, H, W, C)` IMAGE; alpha comes back enlarged.
        upscale_model: The network of DiffBIR's stage 1, which removes degradation before; None
            enlarges the image by bicubic interpolation, as the reference does.
        scale: Side of the result over that of `image`.
        prompt: What the picture shows; empty is allowed.
        timestep: Training timestep that the picture's latent is taken to be at, 0 to 999.
        strength: How much of the step is taken, 0 to 1.
        color_fix: See `fix_color`; the reference is the enlarged picture or stage 1's result.
        tiles: How pictures are cut that are larger than a tile, in the VAE and in the network.
        frames_at_once: Pictures that share each call, 1 or more.
        keep_grey: Whether a black and white picture stays so.
        for_saving: See `finish_restoration`.
        share: Which part of a longer run this is, for the progress bar; None for all of it.
    Returns:
        `(B, H scale, W scale, 3)` or, with alpha, 4 channels, in [0, 1], on the CPU.
    Raises:
        ValueError: If an input does not fit; the message says which and what to do.

    Source: Lin et al. 2025 (arXiv 2507.20590).
    """
    if tiles.tiling not in HYPIR_TILINGS:
        raise ValueError(
            f"HYPIR has no '{tiles.tiling}'; choose one of {', '.join(HYPIR_TILINGS)}."
        )
    # Before the first stage runs, which may take minutes.
    sampler, sigmas = single_step_sampler(strength), single_step_sigmas(model, timestep)
    check_sd_vae(vae)
    check_image(image)
    check_frames_at_once(frames_at_once)
    if upscale_model is not None:
        check_network(upscale_model)
    text = encode_text(clip, prompt.strip())
    model, vae = in_tiles(model, unclamped_vae(vae), tiles)
    progress = RunProgress(model, len(image), share)

    def restored(first: int) -> Tensor:
        pictures = image[first : first + frames_at_once]
        enlarged = _enlarge(pictures, scale, upscale_model, tiles)
        planes = enlarged.image.movedim(-1, 1)
        padded = reflect_pad_to_multiple(planes, SIZE_MULTIPLE_PX)
        latent = {
            "samples": vae.encode(planes_to_image(padded)),
            "downscale_ratio_spacial": LATENT_RATIO,
        }
        sampled = sample_latent(
            model,
            text,
            text,
            latent,
            sampler,
            sigmas,
            seeds=WHOLE_BATCH,
            callback=progress.steps_after(first, len(pictures)),
        )
        finished = finish_restoration(
            vae.decode(sampled["samples"]),
            planes.shape[-1],
            planes.shape[-2],
            reference=enlarged.image,
            color_fix=color_fix,
            output_width=enlarged.output_width,
            output_height=enlarged.output_height,
            grey_like=planes_to_image(visible_planes(pictures)) if keep_grey else None,
            for_saving=for_saving,
            name="the restored picture",
        )
        return with_alpha_of(pictures, finished).cpu()

    return collect_pictures(map(restored, range(0, len(image), frames_at_once)), len(image))


def _enlarge(
    pictures: Tensor, scale: float, upscale_model: Any, tiles: TileSettings
) -> StageOneResult:
    """Return pictures at the size that HYPIR sees, the shorter side 512 or more."""
    if upscale_model is not None:
        tile = tile_of_stage_one(upscale_model, tiles)
        return remove_degradation(
            upscale_model,
            pictures,
            scale=scale,
            tile=tile,
            tile_overlap=tile // 2,
            bounded=True,
            progress=lambda done, total: None,
        )
    planes = visible_planes(pictures).clamp(0, 1)
    size = (planes.shape[-2], planes.shape[-1])
    height, width = scaled_size(*size, scale)
    check_target_size(size, (height, width), scale)
    check_short_edge(size, (height, width), "HYPIR", "")
    seen = short_edge_size(height, width, SHORT_EDGE_PX)
    enlarged = torch.clamp(resize_bicubic(planes, *seen), 0, 1)
    return StageOneResult(planes_to_image(enlarged), width, height)
