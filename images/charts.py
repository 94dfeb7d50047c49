"""Curves over the steps of a training, drawn below each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 70, 20, 30, 28
CURVE, GRID, TEXT = "#2a6fb0", "#dddddd", "black"
MOST_DOTS = 60


@dataclass(frozen=True)
class Panel:
    """One curve.

    Attributes:
        title: What its values are.
        steps: Where it has values, increasing.
        values: One for each; those that are not finite are left out.
    """

    title: str
    steps: Sequence[float]
    values: Sequence[float]


def draw_panels(panels: Sequence[Panel], width: int, height: int) -> Tensor:
    """Return curves below each other over one range of steps.

    Args:
        panels: The curves, at least one.
        width: Width of the picture.
        height: Height of each panel.
    Returns:
        `(3, len(panels) * height, width)` float32 in [0, 1] on the CPU.
    """
    picture = Image.new("RGB", (width, height * len(panels)), "white")
    draw = ImageDraw.Draw(picture)
    last = max((max(panel.steps, default=1) for panel in panels), default=1)
    for place, panel in enumerate(panels):
        _draw_panel(draw, panel, (0, place * height, width, height), max(1, last))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _draw_panel(
    draw: ImageDraw.ImageDraw, panel: Panel, box: tuple[int, int, int, int], last: float
) -> None:
    left, top = box[0] + MARGIN_LEFT, box[1] + MARGIN_TOP
    right, bottom = box[0] + box[2] - MARGIN_RIGHT, box[1] + box[3] - MARGIN_BOTTOM
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    draw.text((left, box[1] + 6), panel.title, fill=TEXT, font=font)
    known = [
        (step, value)
        for step, value in zip(panel.steps, panel.values, strict=True)
        if math.isfinite(value)
    ]
    low, high = _range([value for _, value in known])
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        draw.line([(left, y), (right, y)], fill=GRID)
        value = f"{low + share * (high - low):.4g}"
        draw.text((left - 8, y), value, fill=TEXT, font=small, anchor="rm")
        x = left + share * (right - left)
        draw.text((x, bottom + 6), f"{share * last:.0f}", fill=TEXT, font=small, anchor="ma")
    points = [
        (
            left + step / last * (right - left),
            bottom - (value - low) / (high - low) * (bottom - top),
        )
        for step, value in known
    ]
    if len(points) > 1:
        draw.line(points, fill=CURVE, width=2)
    if len(points) <= MOST_DOTS:
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=CURVE)


def _range(values: list[float]) -> tuple[float, float]:
    """Return ends of an axis that hold all values and are apart."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room
