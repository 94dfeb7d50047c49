"""Pictures beside each other with their names over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP = 8
SMALLEST_TEXT = 6
TEXT_SHARE = 0.6  # of the strip's height; the rest is room above and below


def draw_label(text: str, width: int, height: int) -> Tensor:
    """Return a line of black text in the middle of a white strip.

    The text gets smaller until it fits; what is too long even at 6 pixels is cut at the right. The
    font is Pillow's own, which has Latin letters.

    Args:
        text: One line.
        width: Width of the strip, at least 1.
        height: Height of the strip, at least 1.
    Returns:
        `(3, height, width)` float32 in [0, 1] on the CPU.
    """
    strip = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(strip)
    size = max(SMALLEST_TEXT, round(height * TEXT_SHARE))
    font = ImageFont.load_default(size)
    while size > SMALLEST_TEXT and draw.textlength(text, font=font) > width - GAP:
        size -= 1
        font = ImageFont.load_default(size)
    left = max(0.0, (width - draw.textlength(text, font=font)) / 2)
    draw.text((left, height / 2), text, fill="black", font=font, anchor="lm")
    return torch.from_numpy(np.array(strip)).permute(2, 0, 1).float() / 255


def label_grid(
    pictures: Sequence[Tensor], labels: Sequence[str], columns: int, label_height: int
) -> Tensor:
    """Return pictures in rows from left to right, each under its label, on white.

    Args:
        pictures: `(3, H, W)` each, in [0, 1], all of one size; at least one.
        labels: One for each picture; an empty one leaves its strip white.
        columns: Pictures in a row, at least 1.
        label_height: Height of the strips over the pictures; 0 leaves them out.
    Returns:
        `(3, rows * (H + label_height) + gaps, columns * W + gaps)`, float32 on the CPU, the gaps 8
        pixels between neighbours. There are no more columns than pictures.
    """
    height, width = pictures[0].shape[-2:]
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    cell_height = label_height + height
    grid = torch.ones(
        3, rows * (cell_height + GAP) - GAP, columns * (width + GAP) - GAP, dtype=torch.float32
    )
    for place, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        top = place // columns * (cell_height + GAP)
        left = place % columns * (width + GAP)
        if label_height:
            grid[:, top : top + label_height, left : left + width] = draw_label(
                label, width, label_height
            )
        grid[:, top + label_height : top + cell_height, left : left + width] = picture.cpu()
    return grid
