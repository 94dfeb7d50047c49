"""Levels of faded pictures: black, white and colours stretched to the whole range again.

Source: percentile stretching of each channel as in Limare et al. 2011 (IPOL, "Simplest Color
Balance").
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from .color import luminance

Stretching = Literal["each channel", "brightness"]
STRETCHINGS: tuple[str, ...] = get_args(Stretching)

# A picture with less than this between its darkest and lightest pixels is flat, not faded.
LEAST_SPAN = 16 / 255


def stretch_levels(
    image: Tensor,
    strength: float,
    stretching: Stretching,
    clipped: float,
    *,
    seen: Tensor | None = None,
) -> Tensor:
    """Return pictures whose darkest pixels are black and whose lightest are white.

    Args:
        image: `(B, 3, H, W)` in [0, 1].
        strength: From 0, nothing, to 1, the whole range.
        stretching: `each channel` by itself, which takes a colour cast away with the fading, or all
            three by the range of the `brightness`, which keeps the hue of the picture.
        clipped: Share of the pixels at each end that may become black or white, in [0, 0.5).
        seen: Like `image`, what counts; None for all of `image`.
    Returns:
        Like `image`. A picture, or channel, that is flat stays as it is.
    """
    seen = image if seen is None else seen
    measured = seen if stretching == "each channel" else luminance(seen)
    ordered = measured.flatten(2).sort(dim=2).values
    place = round(clipped * (ordered.shape[2] - 1))
    low, high = ordered[..., place, None, None], ordered[..., -1 - place, None, None]
    span = high - low
    stretched = ((image - low) / span.clamp(min=LEAST_SPAN)).clamp(0, 1)
    stretched = torch.where(span < LEAST_SPAN, image, stretched)
    return image + strength * (stretched - image)
