"""Whole restorations: an IMAGE in, an IMAGE out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.model_management
from torch import Tensor

from ..images.color import ColorFix
from ..images.conversion import (
    check_count,
    check_image,
    collect_pictures,
    mask_to_plane,
    planes_to_image,
)
from ..images.transparency import visible_planes
from ..samplers.tiles import cut_tile, merge_tiles, tile_positions
from .clip_motion import ClipMemory, size_of
from .finish import finish_restoration, with_alpha_of
from .frames import FRAMES_AT_ONCE, check_frames_at_once
from .noise import MOVING, BatchNoise, PictureSeeds
from .progress import RunProgress, Share
from .resshift_conditioning import check_start_image, prepare_resshift, resshift_model, usable_mask
from .resshift_sampling import residual_shift_sigmas, sample_resshift
from .steady_frames import NOT_STEADIED, Steadiness, patch_steady_motion
from .tiles import TILES, TILINGS, TileSettings, in_tiles

# Between the seeds of the pieces of one picture, far from those of a batch's other pictures.
PIECE_SEED_STEP = 1 << 32
# The reference's overlap is an eighth of its tile: 64 of 512.
CHOP_OVERLAP = 8


def restore_with_resshift(
    model: Any,
    vae: Any,
    image: Tensor,
    mask: Tensor | None = None,
    *,
    seed: int,
    steps: int = 0,
    randomness: float = 1.0,
    color_fix: ColorFix = "none",
    batch_noise: BatchNoise = "different per image",
    tiles: TileSettings = TILES,
    frames_at_once: int = FRAMES_AT_ONCE,
    start_image: Tensor | None = None,
    keep_grey: bool = True,
    for_saving: bool = False,
    share: Share | None = None,
    steadiness: Steadiness = NOT_STEADIED,
    memory: ClipMemory | None = None,
) -> Tensor:
    """Return every picture of a batch restored by ResShift.

    Pictures are restored `frames_at_once` at a time, so memory besides input and result does not
    grow with the batch. A picture's noise is its own, so it does not depend on its neighbours but
    for the rounding of calls that it shares with them.

    Args:
        model: A ResShift MODEL.
        vae: The VAE whose latents it works on.
        image: `(B, H, W, C)` IMAGE; alpha comes back enlarged.
        mask: MASK for inpainting, one or one for each picture, 1 where pixels are to be filled.
        seed: Decides all noise.
        steps: Network calls a picture; 0 means as many as the model is made for.
        randomness: 1 is the published chain, 0 its deterministic member.
        color_fix: See `fix_color`; the reference is `image`.
        batch_noise: Whether picture k draws from `seed + k`, every picture from `seed`, or every
            picture from `seed` and then as the clip's motion has moved it.
        tiles: How large pictures are cut.
        frames_at_once: Pictures that share each call, 1 or more.
        start_image: IMAGE of the result's size that the chain starts around, one or one for each
            picture; see `prepare_resshift`.
        keep_grey: Whether a black and white picture stays so.
        for_saving: See `finish_restoration`.
        share: Which part of a longer run this is, for the progress bar; None for all of it.
        steadiness: How far each picture's predictions are drawn to what was made of the picture
            before, where the pictures are a clip. They are then restored one by one.
        memory: What is kept of a clip whose frames come in several calls; None where they come in
            one.
    Returns:
        `(B, H scale, W scale, 3)` or, with alpha, 4 channels, in [0, 1], on the CPU.
    Raises:
        ValueError: If an input does not fit the model; the message says which and what to do.
    """
    network = resshift_model(model)
    check_image(image)
    check_frames_at_once(frames_at_once)
    count, (height, width) = len(image), image.shape[1:3]
    mask = usable_mask(network, mask, height, width)
    if mask is not None:
        mask = mask.reshape(-1, *mask.shape[-2:])
        check_count(len(mask), count, "'mask'", "masks")
        mask = mask.expand(count, -1, -1)
    scale = network.record.scale
    starts = None
    if start_image is not None:
        starts = check_start_image(start_image, scale, (height, width), count)
    if tiles.tiling not in TILINGS:
        raise ValueError(f"ResShift has no '{tiles.tiling}'; choose one of {', '.join(TILINGS)}.")
    model, vae = in_tiles(model, vae, tiles)
    side = max(height, width)
    if tiles.tiling == "official chop":
        side = max(1, tiles.tile // scale)
        if mask is not None:
            mask_to_plane(mask[:1], 1, height, width)  # pieces would hide that the sizes differ
    memory = ClipMemory() if memory is None else memory
    follows = batch_noise == MOVING or steadiness.acts
    if steadiness.acts:
        frames_at_once = 1  # each is drawn to what was made of the one before
    places = tile_positions(height, width, side, max(1, side - side // CHOP_OVERLAP))
    if follows and len(places) > 1:
        raise ValueError(
            "a clip cannot be followed in pieces that are restored one by one. Set 'tiling' to"
            " 'per step'."
        )
    run_steps = len(residual_shift_sigmas(model, steps)) - 1
    progress = RunProgress(model, run_steps * count * len(places), share)

    def start_of(first: int, pictures: int, place: tuple[int, int]) -> Tensor | None:
        if starts is None:
            return None
        corner = (scale * place[0], scale * place[1])
        return cut_tile(starts[first : first + pictures], corner, scale * side).movedim(1, -1)

    def pieces(first: int, pictures: Tensor, holes: Tensor | None) -> Iterator[Tensor]:
        for number, place in enumerate(places):
            comfy.model_management.throw_exception_if_processing_interrupted()
            part = cut_tile(pictures.movedim(-1, 1), place, side).movedim(1, -1)
            hole = None if holes is None else cut_tile(holes, place, side)
            start = start_of(first, len(pictures), place)
            inputs = prepare_resshift(model, vae, part, hole, start)
            done = run_steps * (first * len(places) + number * len(pictures))
            seeds = PictureSeeds(seed, batch_noise, range(first, first + len(pictures)))
            run_model = model
            if follows:
                motion = memory.follow(model, part, size_of(inputs.latent["samples"]))
                seeds = memory.move_noise(seeds, motion)
                run_model = patch_steady_motion(model, motion, steadiness, memory.latent)
            sampled = sample_resshift(
                run_model,
                inputs.positive,
                inputs.latent,
                seeds=seeds.moved_by(number * PIECE_SEED_STEP),
                steps=steps,
                randomness=randomness,
                callback=progress.steps_after(done, len(pictures)),
            )
            memory.latent = sampled["samples"][-1:]
            decoded = vae.decode(sampled["samples"])
            yield decoded[:, : inputs.height, : inputs.width]

    def restored(first: int) -> Tensor:
        pictures = image[first : first + frames_at_once]
        seen = planes_to_image(visible_planes(pictures))
        holes = None if mask is None else mask[first : first + frames_at_once]
        finished = finish_restoration(
            _merged(pieces(first, seen, holes), places, (height, width), scale),
            0,
            0,
            reference=seen,
            color_fix=color_fix,
            original=None if holes is None else pictures,
            mask=holes,
            grey_like=seen if keep_grey else None,
            for_saving=for_saving,
            name="the restored picture",
        )
        return with_alpha_of(pictures, finished).cpu()

    return collect_pictures(map(restored, range(0, count, frames_at_once)), count)


def _merged(
    pieces: Iterator[Tensor], places: list[tuple[int, int]], size: tuple[int, int], scale: int
) -> Tensor:
    """Return the IMAGE that pieces of it make, `(B, H scale, W scale, 3)`."""
    if len(places) == 1:
        return next(pieces)
    height, width = (side * scale for side in size)
    positions = [(row * scale, column * scale) for row, column in places]
    merged = merge_tiles((piece.movedim(-1, 1) for piece in pieces), positions, height, width)
    return merged.movedim(1, -1)
