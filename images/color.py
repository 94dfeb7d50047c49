"""Colour correction: give a restored image the colours of its reference."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

ColorFix = Literal["none", "wavelet", "adain", "luminance"]
COLOR_FIXES: tuple[str, ...] = get_args(ColorFix)

WAVELET_LEVELS = 5

# Channels of a black and white picture are this much alike: JPEG decoders round them apart.
GREY_SPREAD = 2 / 255


def fix_color(image: Tensor, reference: Tensor, method: ColorFix) -> Tensor:
    """Return `image` with colours taken from `reference`.

    Args:
        image: `(B, 3, H, W)`.
        reference: Like `image`.
        method: `none`; `wavelet` takes the coarse colours; `adain` takes mean and spread of each
            channel; `luminance` keeps only the brightness of `image`.
    Returns:
        Like `image`, not clamped.
    Raises:
        ValueError: If the sizes differ or the method is unknown.
    """
    if method == "none":
        return image
    if image.shape != reference.shape:
        raise ValueError(
            f"'image' is {image.shape[-1]}x{image.shape[-2]} (batch {image.shape[0]}) and 'reference'"
            f" {reference.shape[-1]}x{reference.shape[-2]} (batch {reference.shape[0]}); resize the"
            " reference to the size of the image."
        )
    if method == "wavelet":
        return wavelet_color_fix(image, reference)
    if method == "adain":
        return adain_color_fix(image, reference)
    if method == "luminance":
        return luminance_color_fix(image, reference)
    raise ValueError(f"unknown colour fix {method!r}; choose one of {', '.join(COLOR_FIXES)}")


def wavelet_color_fix(image: Tensor, reference: Tensor) -> Tensor:
    """Return the fine detail of `image` over the coarse colours of `reference`.

    Source: Lin et al. 2023 (arXiv 2308.15070), post-processing; five levels of an a-trous wavelet.
    """
    return image - _low_band(image) + _low_band(reference)


def adain_color_fix(image: Tensor, reference: Tensor) -> Tensor:
    """Return `image` with the mean and the spread of each channel of `reference`.

    Source: Huang and Belongie 2017 (arXiv 1703.06868), eq. 8.
    """
    mean, std = _channel_statistics(image)
    reference_mean, reference_std = _channel_statistics(reference)
    return (image - mean) / std * reference_std + reference_mean


def luminance_color_fix(image: Tensor, reference: Tensor) -> Tensor:
    """Return the brightness of `image` with the colour of `reference` (BT.601 full-range YCbCr)."""
    return reference + (luminance(image) - luminance(reference))


def luminance(image: Tensor) -> Tensor:
    """Return the BT.601 full-range luma of `(B, 3, H, W)` as `(B, 1, H, W)`."""
    red, green, blue = image.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def is_grey(image: Tensor) -> Tensor:
    """Return which pictures of `(B, 3, H, W)` in [0, 1] are black and white, `(B,)` of booleans."""
    spread = image.amax(dim=1) - image.amin(dim=1)
    return spread.flatten(1).amax(dim=1) <= GREY_SPREAD + 1e-6


def without_color(image: Tensor) -> Tensor:
    """Return the brightness of `(B, 3, H, W)` in all three channels."""
    return luminance(image).expand(-1, 3, -1, -1)


def _low_band(x: Tensor) -> Tensor:
    row = x.new_tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(row, row).expand(x.shape[1], 1, 3, 3)
    for level in range(WAVELET_LEVELS):
        radius = 2**level
        padded = F.pad(x, (radius, radius, radius, radius), mode="replicate")
        x = F.conv2d(padded, kernel, groups=x.shape[1], dilation=radius)
    return x


def _channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    flat = x.flatten(2)
    variance = flat.var(dim=2, unbiased=flat.shape[2] > 1)
    std = (variance + 1e-5).sqrt()
    return flat.mean(dim=2)[..., None, None], std[..., None, None]
