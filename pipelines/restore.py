"""Whole restorations: an IMAGE in, an IMAGE out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..images.color import ColorFix
from ..images.conversion import image_to_planes, mask_to_plane
from ..samplers.tiles import cut_tile, merge_tiles, tile_positions
from .conditioning import prepare_resshift, resshift_model
from .finish import enlarge_alpha, finish_restoration
from .noise import SEED_COUNT, BatchNoise
from .sampling import residual_shift_sigmas, run_callback, sample_resshift
from .tiles import TILES, TiledVAE, TileSettings, patch_tiles

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
) -> Tensor:
    """Return every picture of a batch restored by ResShift.

    Pictures are restored one after the other, so memory does not grow with the batch and a
    picture does not depend on its neighbours.

    Args:
        model: A ResShift MODEL.
        vae: The VAE whose latents it works on.
        image: `(B, H, W, C)` IMAGE; alpha comes back enlarged.
        mask: MASK for inpainting, one or one for each picture, 1 where pixels are to be filled.
        seed: Decides all noise.
        steps: Network calls a picture; 0 means as many as the model is made for.
        randomness: 1 is the published chain, 0 its deterministic member.
        color_fix: See `fix_color`; the reference is `image`.
        batch_noise: Whether picture k draws from `seed + k` or every picture from `seed`.
        tiles: How large pictures are cut.
    Returns:
        `(B, H scale, W scale, 3)` or, with alpha, 4 channels, in [0, 1].
    Raises:
        ValueError: If an input does not fit the model; the message says which and what to do.
    """
    network = resshift_model(model)
    _, alpha = image_to_planes(image)
    height, width = image.shape[1:3]
    if mask is not None:
        mask = mask.reshape(-1, *mask.shape[-2:])
        if len(mask) not in (1, len(image)):
            raise ValueError(
                f"'mask' has {len(mask)} masks for {len(image)} images; give one mask or one for"
                " each."
            )
        mask = mask.expand(len(image), -1, -1)
    longest = max(height, width)
    side = max(1, tiles.tile // network.record.scale)
    if tiles.tiling == "per step" and longest > side:
        model = patch_tiles(model, tiles.tile, tiles.overlap)
        vae = TiledVAE(vae, tiles.tile, tiles.overlap)
    if tiles.tiling != "official chop":
        side = longest
    elif mask is not None:
        mask_to_plane(mask, len(image), height, width)  # pieces would hide that the sizes differ
    places = tile_positions(height, width, side, max(1, side - side // CHOP_OVERLAP))
    run_steps = len(residual_shift_sigmas(model, steps)) - 1
    callback_after = None
    restored = []
    for k in range(len(image)):
        picture = image[k : k + 1]
        hole = None if mask is None else mask[k : k + 1]
        pieces = []
        for number, place in enumerate(places):
            part = cut_tile(picture.movedim(-1, 1), place, side).movedim(1, -1)
            part_of_hole = None if hole is None else cut_tile(hole, place, side)
            inputs = prepare_resshift(model, vae, part, part_of_hole)
            if callback_after is None:  # the preview is fitted by the first encoding
                callback_after = run_callback(model, run_steps * len(image) * len(places))
            sampled = sample_resshift(
                model,
                inputs.positive,
                inputs.latent,
                seed=(seed + number * PIECE_SEED_STEP) % SEED_COUNT,
                steps=steps,
                randomness=randomness,
                batch_noise=batch_noise,
                first=k,
                callback=callback_after(run_steps * (len(places) * k + number)),
            )
            decoded = vae.decode(sampled["samples"])
            pieces.append(decoded[:, : inputs.height, : inputs.width])
        finished = finish_restoration(
            _merged(pieces, places, image.shape[1:3], network.record.scale),
            0,
            0,
            reference=picture,
            color_fix=color_fix,
            original=None if hole is None else picture,
            mask=hole,
            name="the restored picture",
        )
        if alpha is not None:
            plane = enlarge_alpha(alpha[k : k + 1], *finished.shape[1:3])
            finished = torch.cat([finished, plane.movedim(1, -1).to(finished)], dim=-1)
        restored.append(finished.cpu())
    return torch.cat(restored)


def _merged(
    pieces: list[Tensor], places: list[tuple[int, int]], size: tuple[int, ...], scale: int
) -> Tensor:
    """Return the IMAGE that pieces of it make, `(1, H scale, W scale, 3)`."""
    if len(pieces) == 1:
        return pieces[0]
    height, width = (side * scale for side in size)
    positions = [(row * scale, column * scale) for row, column in places]
    merged = merge_tiles((piece.movedim(-1, 1) for piece in pieces), positions, height, width)
    return merged.movedim(1, -1)
