"""Damaged versions of pictures, where pictures are scratched, and their levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import comfy.model_management
import numpy as np
import torch
from torch import Tensor

from ..images.conversion import check_image, collect_pictures, image_to_planes, planes_to_image
from ..images.damage import DAMAGES, LONGEST_FRAME_PX, damage
from ..images.levels import Stretching, stretch_levels
from ..images.scratches import Shade, find_scratches, grow
from ..images.transparency import visible_planes
from .noise import SEED_COUNT

Mixing = Literal["all, as set", "all, up to what is set", "one at random"]
MIXINGS: tuple[str, ...] = get_args(Mixing)


def damage_image(
    image: Tensor, strengths: Mapping[str, float], mixing: Mixing, seed: int
) -> tuple[Tensor, Tensor]:
    """Return damaged versions of the pictures of an IMAGE, and where scratches and dust are.

    Args:
        image: `(B, H, W, C)` IMAGE; alpha is dropped.
        strengths: Strength by name, of `DAMAGES`, from 0 to 1.
        mixing: Whether every picture gets all damages as they are set, all of them at strengths
            drawn from 0 to what is set, or one of them, drawn, as it is set.
        seed: Picture k draws from `seed + k`.
    Returns:
        IMAGE `(B, H, W, 3)` on 256 levels and MASK `(B, H, W)`, both on the CPU.
    Raises:
        ValueError: A picture is too large for one of the damages.
    """
    planes, _ = image_to_planes(image)
    if strengths.get("video_compression", 0) > 0 and max(planes.shape[-2:]) > LONGEST_FRAME_PX:
        raise ValueError(
            f"'image' is {planes.shape[-1]}x{planes.shape[-2]}, and frames of MPEG-4 have sides of at"
            f" most {LONGEST_FRAME_PX}. Give a smaller one, or set 'video_compression' to 0."
        )
    made = []
    for k, picture in enumerate(planes):
        comfy.model_management.throw_exception_if_processing_interrupted()
        generator = np.random.default_rng((seed + k) % SEED_COUNT)
        made.append(damage(picture, draw_strengths(strengths, mixing, generator), generator))
    pictures, masks = zip(*made, strict=True)
    return planes_to_image(torch.stack(pictures)), torch.stack(masks)


def draw_strengths(
    strengths: Mapping[str, float], mixing: Mixing, generator: np.random.Generator
) -> dict[str, float]:
    """Return the strengths that one picture gets; see `damage_image`."""
    if mixing == "all, up to what is set":
        shares = generator.uniform(0, 1, len(DAMAGES))
        return {
            name: float(share) * strengths.get(name, 0)
            for name, share in zip(DAMAGES, shares, strict=True)
        }
    if mixing == "one at random":
        used = [name for name in DAMAGES if strengths.get(name, 0) > 0]
        chosen = used[int(generator.integers(len(used)))] if used else None
        return {name: strengths[name] for name in used if name == chosen}
    return dict(strengths)


def scratch_mask(
    image: Tensor, sensitivity: float, width_px: int, shade: Shade, specks: bool, grow_px: int
) -> Tensor:
    """Return a MASK of the scratches and the dust of the pictures of an IMAGE.

    Args:
        image: `(B, H, W, C)` IMAGE.
        sensitivity: See `find_scratches`, as the next three.
        width_px: Widest line and largest speck.
        shade: Light ones, dark ones or both.
        specks: Whether specks are looked for.
        grow_px: Pixels by which what was found grows in every direction.
    Returns:
        `(B, H, W)` float32 on the device of `image`, 1 on a scratch.
    """
    found = []
    for picture in visible_planes(image).clamp(0, 1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        mask = find_scratches(picture[None], sensitivity, width_px, shade, specks)
        found.append(grow(mask, grow_px)[0, 0])
    return torch.stack(found)


def correct_levels(
    image: Tensor, strength: float, stretching: Stretching, clipped_percent: float
) -> Tensor:
    """Return an IMAGE with stretched levels, each picture by its own, alpha kept.

    Args:
        image: `(B, H, W, C)` IMAGE.
        strength: See `stretch_levels`, as the next one.
        stretching: Each channel by itself, or all by the brightness.
        clipped_percent: Percentage of the pixels at each end that may become black or white.
    """
    check_image(image)

    def corrected(k: int) -> Tensor:
        planes, alpha = image_to_planes(image[k : k + 1])
        seen = visible_planes(image[k : k + 1]).clamp(0, 1)  # what is hidden may be any colour
        made = stretch_levels(
            planes.clamp(0, 1), strength, stretching, clipped_percent / 100, seen=seen
        )
        return planes_to_image(made, alpha)

    return collect_pictures(map(corrected, range(len(image))), len(image))
