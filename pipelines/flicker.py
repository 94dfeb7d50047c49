"""How much a batch of frames flickers, in figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
import torch.nn.functional as F
from torch import Tensor

from ..images.conversion import image_to_planes
from ..images.flicker import warping_error
from ..images.flow import resized_flow, trusted
from ..images.resize import resize_bicubic
from .figures import figures_table
from .flow import FlowMethod, check_flow_method, find_flow


@dataclass(frozen=True)
class Flicker:
    """Figures of a clip.

    Attributes:
        report: A table with a row for each pair of frames, as text.
        warping_error: Mean over the pairs; NaN where no pair has a trusted pixel.
        reference_error: That of the reference at the clip's size; NaN without one.
        ratio: The first over the second; NaN without a reference, infinite over a perfect one.
        trusted: Mean share of pixels that count.
    """

    report: str
    warping_error: float
    reference_error: float
    ratio: float
    trusted: float


def measure_flicker(
    image: Tensor,
    reference: Tensor | None = None,
    method: FlowMethod = "Lucas-Kanade",
    optical_flow: Any = None,
) -> Flicker:
    """Return the warping errors of an IMAGE that holds the frames of a clip.

    Each frame is compared with the one before it, moved along the motion between them. The motion
    is found in the reference where there is one, at its own size, so that every restoration of a
    clip is measured along the same; else in the frames themselves. The reference's own error, once
    it is enlarged (bicubic) to the frames' size, is what the ratio is to.

    Args:
        image: `(B, H, W, C)` IMAGE, the frames in their order; values are limited to [0, 1].
        reference: IMAGE with as many frames, of any size: what was restored.
        method: See `find_flow`.
        optical_flow: See `find_flow`.
    Raises:
        ValueError: If there are fewer than two frames, the counts differ, or the flow cannot be
            found with what is given.
    """
    check_flow_method(method)
    frames = image_to_planes(image)[0]
    if len(frames) < 2:
        raise ValueError(
            "'image' has one frame; flicker is what changes between frames, so give it the frames"
            " of a clip as one batch."
        )
    seen = frames if reference is None else image_to_planes(reference, "'reference'")[0]
    if len(seen) != len(frames):
        raise ValueError(
            f"'reference' has {len(seen)} frames and 'image' {len(frames)}; give it the frames that"
            " were restored, one for each."
        )
    device = comfy.model_management.get_torch_device()
    size = (frames.shape[-2], frames.shape[-1])
    rows = []
    for k in range(1, len(frames)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        now, before, seen_now, seen_before = (
            clip[at : at + 1].to(device).clamp(0, 1)
            for clip, at in ((frames, k), (frames, k - 1), (seen, k), (seen, k - 1))
        )
        backward = find_flow(seen_now, seen_before, method, optical_flow)
        forward = find_flow(seen_before, seen_now, method, optical_flow)
        trust = F.interpolate(trusted(backward, forward), size, mode="nearest-exact")
        backward = resized_flow(backward, size)
        errors = [warping_error(now, before, backward, trust)]
        if reference is not None:
            enlarged_now, enlarged_before = (
                resize_bicubic(x, *size).clamp(0, 1) for x in (seen_now, seen_before)
            )
            errors.append(warping_error(enlarged_now, enlarged_before, backward, trust))
        rows.append([*(float(error) for error in errors), float(trust.mean())])
    return _with_report(rows, reference is not None, method, optical_flow)


def _with_report(
    rows: list[list[float]], has_reference: bool, method: FlowMethod, optical_flow: Any
) -> Flicker:
    means = torch.tensor(rows, dtype=torch.float64).nanmean(dim=0).tolist()
    names = ["error", *(["reference", "ratio"] if has_reference else []), "trusted"]

    def with_ratio(row: list[float]) -> list[float]:
        return [*row[:2], _ratio(row[0], row[1]), row[2]] if has_reference else row

    titled = [(f"{k} to {k + 1}", with_ratio(row)) for k, row in enumerate(rows, 1)]
    if len(rows) > 1:
        titled.append(("mean", with_ratio(means)))
    # Errors are small squares: a difference of 1 of 255 levels is 0.000015.
    table = figures_table(["frames", *names], titled, [6, *([6, 3] if has_reference else []), 3])
    way = "the model at 'optical_flow'" if optical_flow is not None else method
    notes = [
        "Error: mean squared difference to the frame before, moved along the motion; less is"
        " steadier.",
        f"Motion: of {'the reference' if has_reference else 'the frames themselves'}, by {way}.",
        "Trusted: share of pixels that the frame before shows; only these count. nan where none.",
    ]
    if has_reference:
        notes.append("Reference: its own error, enlarged (bicubic) to the size of the frames.")
    error, reference_error = means[0], means[1] if has_reference else math.nan
    ratio = _ratio(error, reference_error)
    return Flicker("\n".join([table, "", *notes]), error, reference_error, ratio, means[-1])


def _ratio(error: float, reference: float) -> float:
    if reference == 0:
        return math.nan if error == 0 else math.inf
    return error / reference
