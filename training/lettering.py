"""Lettering on crops of photographs: there is hardly any in the wallpapers."""

from __future__ import annotations

import string
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZES_PX = (9, 64)
WORD_LENGTHS = (2, 10)
MOST_LINES = 6
LETTERS = string.ascii_letters + string.digits


def draw_lettering(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a crop with lines of random letters on it, turned a little.

    Args:
        pixels: `(H, W, 3)` uint8.
        generator: Source of every choice.
    Returns:
        The same shape and dtype.
    """
    fonts = sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVu*.ttf"))
    size = int(np.exp(generator.uniform(*np.log(SIZES_PX))))
    font = ImageFont.truetype(str(fonts[generator.integers(len(fonts))]), size)
    lines = [_random_line(generator) for _ in range(generator.integers(1, MOST_LINES + 1))]
    height, width = pixels.shape[:2]
    place = (int(generator.uniform(0, width / 2)), int(generator.uniform(0, height / 2)))
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).multiline_text(place, "\n".join(lines), fill=255, font=font)
    mask = mask.rotate(generator.uniform(-20, 20), Image.Resampling.BICUBIC)
    background = pixels.mean()
    ink = generator.integers(0, 80, 3) if background > 110 else generator.integers(160, 256, 3)
    share = np.asarray(mask, dtype=np.float32)[..., None] / 255
    return np.round(pixels * (1 - share) + ink * share).astype(np.uint8)


def _random_line(generator: np.random.Generator) -> str:
    words = [
        "".join(LETTERS[k] for k in generator.integers(0, len(LETTERS), length))
        for length in generator.integers(*WORD_LENGTHS, generator.integers(1, 5))
    ]
    return " ".join(words)
