"""Low-quality test inputs made from sharp pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import comfy.model_management
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..images.conversion import image_to_planes, planes_to_image
from ..images.degradation import PRESETS, Degradation, Range, Stage, degrade
from ..images.resize import quantize_8bit
from .noise import SEED_COUNT

METHODS: dict[str, Degradation] = {
    "second order (ResShift)": PRESETS["real-esrgan"],
    "second order (DiffBIR v2.1)": PRESETS["diffbir v2.1"],
    "first order (DiffBIR)": PRESETS["first order"],
    "first order, faces (DiffBIR)": PRESETS["first order, faces"],
    "one round, light": PRESETS["light"],
    "one round, medium": PRESETS["medium"],
    "one round, heavy": PRESETS["heavy"],
}
RANGES = ("blur", "reduction", "noise", "poisson", "jpeg")
SECOND_RANGES = tuple(f"second_{name}" for name in RANGES)
OF_THE_METHOD = -1
# Below it, and it is positive: a Gaussian kernel of this width is one pixel.
SHARPEST_SIGMA = 0.01
# Ends of ranges: the least that means something, and the largest.
LIMITS: dict[str, Range] = {
    "blur": (0, 40),
    "reduction": (0.5, 32),
    "noise": (0, 255),
    "poisson": (0, 20),
    "jpeg": (1, 100),
}


def degrade_image(
    image: Tensor,
    method: str,
    seed: int,
    scale: int,
    keep_size: bool = False,
    ranges: Mapping[str, Range] | None = None,
) -> Tensor:
    """Return low-quality versions of the pictures of an IMAGE.

    Args:
        image: `(B, H, W, C)` IMAGE; alpha is dropped.
        method: One of `METHODS`.
        seed: Picture k draws from `seed + k`.
        scale: How many times smaller the result is, at least 1.
        keep_size: Whether it is enlarged to the image's size again, bicubic.
        ranges: Smallest and largest value by name, of `RANGES` and `SECOND_RANGES`; an end that is
            -1 and a name left out are those of the method.
    Returns:
        IMAGE `(B, H // scale, W // scale, 3)`, or of the image's size, on the CPU, on 256 levels.
    Raises:
        ValueError: If the method or a range is not possible, or the picture is smaller than
            `scale`.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    planes, _ = image_to_planes(image)
    height, width = planes.shape[-2:]
    if min(height, width) < scale:
        raise ValueError(
            f"'image' is {width}x{height}, which leaves nothing at a 'scale' of {scale}; choose a"
            " smaller scale or a larger image."
        )
    settings = set_ranges(METHODS[method], scale, ranges or {})
    degraded = []
    for k, picture in enumerate(planes):
        comfy.model_management.throw_exception_if_processing_interrupted()
        generator = np.random.default_rng((seed + k) % SEED_COUNT)
        degraded.append(degrade(picture.clamp(0, 1), settings, generator))
    result = torch.stack(degraded)
    if keep_size:
        result = quantize_8bit(
            F.interpolate(result, size=(height, width), mode="bicubic", align_corners=False)
        )
    return planes_to_image(result)


def set_ranges(settings: Degradation, scale: int, ranges: Mapping[str, Range]) -> Degradation:
    """Return `settings` at another scale and with other ranges.

    A method of one round reduces its pictures by the scale, whatever the scale is, and its one JPEG
    comes last. A reduction that is set is drawn evenly and always applies.

    Args:
        settings: One of `METHODS`.
        scale: New scale.
        ranges: See `degrade_image`.
    Raises:
        ValueError: If a range is empty, outside its limits, or of something the method lacks.
    """
    nothing = (OF_THE_METHOD, OF_THE_METHOD)
    asked = {name: pair for name, pair in ranges.items() if pair != nothing}
    has_second = settings.second_probability > 0
    for name in asked:
        if name in SECOND_RANGES and not has_second:
            raise ValueError(
                f"this method has no second stage, so '{name}' cannot be set; leave it at -1 or"
                " choose a method of second order"
            )
        if name == "poisson" and settings.first.gaussian_probability == 1:
            raise ValueError(
                "this method has no Poisson noise, so 'poisson' cannot be set; leave it at -1 or"
                " choose another method"
            )
    first, final_jpeg = settings.first, settings.final_jpeg_quality
    if first.resize == (1 / settings.scale, 1 / settings.scale):
        first = replace(first, resize=(1 / scale, 1 / scale))
    if final_jpeg is not None:
        final_jpeg = _merge("second_jpeg" if has_second else "jpeg", final_jpeg, asked)
    return replace(
        settings,
        scale=scale,
        first=_set_stage(first, "", asked),
        second=_set_stage(settings.second, "second_", asked),
        final_jpeg_quality=final_jpeg,
    )


def _set_stage(stage: Stage, prefix: str, asked: Mapping[str, Range]) -> Stage:
    low, high = _merge(f"{prefix}blur", stage.sigma, asked)
    reduction = stage.reduction
    if f"{prefix}reduction" in asked:
        published = reduction or (1 / stage.resize[1], 1 / stage.resize[0])
        reduction = _merge(f"{prefix}reduction", published, asked)
    jpeg = stage.jpeg_quality
    if stage.jpeg_probability > 0:
        jpeg = _merge(f"{prefix}jpeg", jpeg, asked)
    return replace(
        stage,
        blur_probability=stage.blur_probability if high > 0 else 0.0,
        sigma=(max(low, SHARPEST_SIGMA), max(high, SHARPEST_SIGMA)),
        reduction=reduction,
        gaussian_sigma=_merge(f"{prefix}noise", stage.gaussian_sigma, asked),
        poisson_scale=_merge(f"{prefix}poisson", stage.poisson_scale, asked),
        jpeg_quality=jpeg,
    )


def _merge(name: str, published: Range, asked: Mapping[str, Range]) -> Range:
    """Return the range asked for, its ends of -1 filled from the published one."""
    if name not in asked:
        return published
    low, high = (
        own if end == OF_THE_METHOD else end
        for end, own in zip(asked[name], published, strict=True)
    )
    least, most = LIMITS[name.removeprefix("second_")]
    if not (least <= low <= most and least <= high <= most):
        raise ValueError(
            f"'{name}' is {low:g} to {high:g} and has to lie within {least:g} to {most:g}; -1"
            " takes the range of the method"
        )
    if low > high:
        raise ValueError(
            f"'{name}_min' is {low:g}, which is more than '{name}_max', {high:g}; exchange them, or"
            " set both."
        )
    return low, high
