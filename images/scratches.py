"""Where a picture has scratches, hairs and dust: a detector of thin lines and small specks.

A line is lighter, or darker, than what lies on both sides of it; an edge is so on one side only. For
each of several directions the mean along a short stroke is compared with those of the strokes beside
it, the nearer of the two counting, and the best direction wins. Places that stand out clearly are
kept, and so is what continues them more faintly.

Source: the comparison on both sides: Kokaram 1998, "Motion Picture Restoration", chapter 10 (line
scratches); keeping faint continuations of clear places (hysteresis): Canny 1986.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .color import luminance

Shade = Literal["light and dark", "light", "dark"]
SHADES: tuple[str, ...] = get_args(Shade)

DIRECTIONS = 24
STROKE_PX = 25
UNEVEN_SHARE = 1.0
CHANGE_SHARE = 0.7
# Differences of brightness that count as clear, at the least and the greatest sensitivity.
CLEAR = (0.30, 0.03)
FAINT_SHARE = 0.5  # of a clear difference; what continues a clear place
# A clear place answers so many times as strongly as its surroundings do in the mean: texture, such
# as fur, answers everywhere.
OVER_TEXTURE = 8.0
SURROUNDINGS_PX = 65


def find_scratches(
    image: Tensor, sensitivity: float, width_px: int, shade: Shade, specks: bool
) -> Tensor:
    """Return where thin lines and small specks are.

    Args:
        image: `(B, 3, H, W)` in [0, 1], any size.
        sensitivity: From 0, only what stands out strongly, to 1, also faint ones.
        width_px: Widest line and largest speck that is found, at least 1.
        shade: Whether light ones, dark ones or both are looked for.
        specks: Whether small specks are looked for besides lines.
    Returns:
        `(B, 1, H, W)` float32 on the device of `image`, 1 on a scratch and 0 elsewhere.
    """
    luma = luminance(image.float())
    found = torch.zeros_like(luma)
    for sign in {"light": (1,), "dark": (-1,), "light and dark": (1, -1)}[shade]:
        found = torch.maximum(found, _stands_out(_lines(sign * luma, width_px), sensitivity))
        if specks:
            small = _specks(sign * luma, width_px)
            found = torch.maximum(found, _stands_out(small, sensitivity))
    return found


def grow(mask: Tensor, pixels: int) -> Tensor:
    """Return `mask` (B, 1, H, W) grown by so many pixels in every direction."""
    return _largest_around(mask, 2 * pixels + 1)


def _largest_around(x: Tensor, side: int) -> Tensor:
    """Return the largest value in the square of an odd side around each pixel."""
    down = F.max_pool2d(x, (side, 1), stride=1, padding=(side // 2, 0))
    return F.max_pool2d(down, (1, side), stride=1, padding=(0, side // 2))


def _lines(luma: Tensor, width_px: int) -> Tensor:
    """Return how much lighter a line through each pixel is than both of its sides."""
    reach = width_px + 1  # from the middle of a line to its sides, clear of the line itself
    best = torch.zeros_like(luma)
    for k in range(DIRECTIONS):
        angle = math.pi * k / DIRECTIONS
        strokes = _along(torch.cat([luma, luma.square()], dim=1), angle, reach)
        right, down = round(-reach * math.sin(angle)), round(reach * math.cos(angle))
        middle, one, other = (
            _shifted(strokes, luma, reach, side * right, side * down) for side in (0, 1, -1)
        )
        middle, square = middle.split(1, dim=1)
        one, other = one[:, :1], other[:, :1]
        # A scratch hides what lies below it; lines of texture change along the way. And where both
        # sides differ as much as the line does from them, it is an edge or shading.
        spread = (square - middle.square()).clamp(min=0).sqrt()
        doubt = CHANGE_SHARE * spread + UNEVEN_SHARE * (one - other).abs()
        best = torch.maximum(best, middle - torch.maximum(one, other) - doubt)
    return _on_the_line(best, luma, width_px)


def _along(x: Tensor, angle: float, margin: int) -> Tensor:
    """Return means along strokes of one direction, `(B, C, H + 2 margin, W + 2 margin)`."""
    half = STROKE_PX // 2
    padded = F.pad(x, (half + margin,) * 4, mode="replicate")
    total = torch.zeros_like(F.pad(x, (margin,) * 4))
    for step in range(-half, half + 1):
        right, down = round(step * math.cos(angle)), round(step * math.sin(angle))
        total += _shifted(padded, total, half, right, down)
    return total / STROKE_PX


def _shifted(padded: Tensor, like: Tensor, margin: int, right: int, down: int) -> Tensor:
    """Return the part of a padded map that lies so far off its middle, of the size of `like`."""
    height, width = like.shape[-2:]
    top, left = margin + down, margin + right
    return padded[..., top : top + height, left : left + width]


def _on_the_line(response: Tensor, luma: Tensor, width_px: int) -> Tensor:
    """Return `response` where the pixel itself is as light as the line, so that it stays thin."""
    around = _mean_around(luma, 2 * width_px + 3)
    return response * (luma - around > 0.3 * response)


def _mean_around(x: Tensor, side: int) -> Tensor:
    """Return means over squares of an odd side, borders repeated."""
    x = F.pad(x, (side // 2,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(x, (side, 1), stride=1), (1, side), stride=1)


def _specks(luma: Tensor, width_px: int) -> Tensor:
    """Return how much lighter each pixel is than all that could hold a larger light thing."""
    side = width_px + 2 - (width_px + 1) % 2  # odd, and larger than a speck
    side += 2 * (side <= width_px)
    lowest = -_largest_around(-luma, side)
    opened = _largest_around(lowest, side)
    # A speck is small in every direction: what is light along a line is a line's matter.
    return torch.minimum(luma - opened, (luma - _mean_around(luma, 2 * side + 1)).clamp(min=0))


def _stands_out(response: Tensor, sensitivity: float) -> Tensor:
    """Return 1 where a response is clear, or continues a clear one."""
    least, most = CLEAR
    clear = least * (most / least) ** sensitivity
    around = _mean_around(response, SURROUNDINGS_PX)
    clear = torch.clamp(OVER_TEXTURE * around, min=clear)
    seeds, faint = (response > clear).float(), (response > FAINT_SHARE * clear).float()
    while True:
        grown = grow(seeds, 1) * faint
        if torch.equal(grown, seeds):
            return grown
        seeds = grown
