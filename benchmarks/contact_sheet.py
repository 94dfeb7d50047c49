"""A sheet of pictures side by side: whole ones reduced, and pieces pixel for pixel."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MOST_BYTES = 1_500_000
SIDES = (192, 176, 160, 144, 128, 112, 96, 80, 64)
TITLE_HEIGHT = 20
NAME_WIDTH = 84
GAP = 4
# Where the piece is taken from, as shares of width and height; elsewhere the middle.
PLACES = {"astronaut": (0.42, 0.22), "coffee": (0.55, 0.45), "chelsea": (0.45, 0.35)}


def save_contact_sheet(path: Path, names: list[str], columns: dict[str, list[Tensor]]) -> int:
    """Write a PNG with a row for each picture and two cells for each column.

    The cells are as large as a file of `MOST_BYTES` allows.

    Args:
        path: The file.
        names: Name of each row; its first word finds the place of the piece.
        columns: Pictures `(1, 3, H, W)` in [0, 1] by title, one for each row.
    Returns:
        The side of a cell.
    Raises:
        ValueError: If there are so many pictures that the smallest cells do not fit.
    """
    for side in SIDES:
        encoded = io.BytesIO()
        draw_sheet(names, columns, side).save(encoded, "PNG", optimize=True)
        if encoded.tell() <= MOST_BYTES:
            path.write_bytes(encoded.getvalue())
            return side
    raise ValueError(f"{len(names)} rows do not fit into {MOST_BYTES} bytes; give fewer pictures")


def draw_sheet(names: list[str], columns: dict[str, list[Tensor]], side: int) -> Image.Image:
    """Return the sheet: of each column the whole pictures, then the pieces of all columns."""
    pitch = side + GAP
    size = (NAME_WIDTH + 2 * len(columns) * pitch, TITLE_HEIGHT + len(names) * pitch)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for row, name in enumerate(names):
        draw.multiline_text((2, TITLE_HEIGHT + row * pitch), name.replace(" ", "\n"), "black", font)
    for number, (title, pictures) in enumerate(columns.items()):
        whole_x = NAME_WIDTH + number * pitch
        piece_x = whole_x + len(columns) * pitch
        draw.text((whole_x, 2), title, "black", font)
        draw.text((piece_x, 2), f"{title} 1:1", "black", font)
        for row, (name, picture) in enumerate(zip(names, pictures, strict=True)):
            y = TITLE_HEIGHT + row * pitch
            image = to_image(picture)
            whole = image.copy()
            whole.thumbnail((side, side), Image.Resampling.LANCZOS)
            sheet.paste(whole, (whole_x, y))
            sheet.paste(image.crop(piece_box(image.size, name, side)), (piece_x, y))
    return sheet


def piece_box(size: tuple[int, int], name: str, side: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the piece, inside a picture of that size."""
    place = PLACES.get(name.split()[0], (0.5, 0.5))
    width, height = (min(side, length) for length in size)
    left = min(max(0, round(place[0] * size[0]) - width // 2), size[0] - width)
    top = min(max(0, round(place[1] * size[1]) - height // 2), size[1] - height)
    return left, top, left + width, top + height


def to_image(picture: Tensor) -> Image.Image:
    """Return `(1, 3, H, W)` in [0, 1] as a picture of Pillow."""
    pixels = (picture[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels.numpy()))
