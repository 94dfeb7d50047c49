"""Sheets of pictures side by side: whole ones reduced, and pieces twice as large."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MOST_BYTES = 1_050_000
QUALITY = 90  # of sheets that are not lossless
SIDES = (224, 208, 192, 176, 160, 144, 128, 112, 96, 80, 64)
TITLE_HEIGHT = 20
NAME_WIDTH = 84
GAP = 4
ENLARGED = 2


@dataclass(frozen=True)
class Piece:
    """A place that is looked at closely.

    Attributes:
        picture: Name of the picture.
        shows: What is there.
        x: Its middle, as a share of the width.
        y: Its middle, as a share of the height.
    """

    picture: str
    shows: str
    x: float
    y: float


PIECES = (
    Piece("astronaut", "face", 0.43, 0.22),
    Piece("astronaut", "wall", 0.64, 0.3),
    Piece("astronaut", "lettering", 0.33, 0.75),
    Piece("coffee", "rim", 0.36, 0.25),
    Piece("coffee", "wood", 0.88, 0.55),
    Piece("chelsea", "eye", 0.38, 0.39),
    Piece("chelsea", "fur", 0.5, 0.15),
    Piece("motorcycle", "lettering", 0.57, 0.42),
    Piece("camera", "face", 0.45, 0.3),
    Piece("room", "wall", 0.42, 0.4),
    Piece("tulips", "petals", 0.7, 0.42),
)


def save_contact_sheet(path: Path, names: list[str], columns: dict[str, list[Tensor]]) -> int:
    """Write a WebP with a row for each picture and a cell for each column.

    Args:
        path: The file.
        names: Name of each row.
        columns: Pictures `(1, 3, H, W)` in [0, 1] by title, one for each row.
    Returns:
        The side of a cell, as large as a file of `MOST_BYTES` allows.
    Raises:
        ValueError: If there are so many pictures that the smallest cells do not fit.
    """

    def reduce(picture: Tensor, side: int) -> Image.Image:
        image = to_image(picture)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return image

    rows = list(zip(*columns.values(), strict=True))
    for side in SIDES:
        cells = [[reduce(picture, side) for picture in row] for row in rows]
        if _save(draw_sheet(names, list(columns), cells, side), path, lossless=False):
            return side
    raise ValueError(f"{len(names)} rows do not fit into {MOST_BYTES} bytes; give fewer pictures")


def save_pieces(
    path: Path,
    names: list[str],
    columns: dict[str, list[Tensor]],
    pieces: Sequence[Piece] = PIECES,
) -> int:
    """Write a lossless WebP of the places of the pictures, each pixel as a square of `ENLARGED` pixels.

    Args:
        path: The file.
        names: Name of each picture, the picture's own first, as in `Piece.picture`.
        columns: Pictures `(1, 3, H, W)` in [0, 1] by title, one for each name.
        pieces: The places; those of other pictures are left out.
    Returns:
        The side of a cell, as large as a file of `MOST_BYTES` allows.
    Raises:
        ValueError: If the smallest cells do not fit.
    """
    numbers = {name.split()[0]: number for number, name in enumerate(names)}
    shown = [piece for piece in pieces if piece.picture in numbers]
    for side in SIDES:
        cells = []
        for piece in shown:
            row = [to_image(pictures[numbers[piece.picture]]) for pictures in columns.values()]
            cells.append([cut_piece(image, piece, side) for image in row])
        titles = [f"{piece.picture} {piece.shows}" for piece in shown]
        if _save(draw_sheet(titles, list(columns), cells, side), path, lossless=True):
            return side
    raise ValueError(f"{len(shown)} rows do not fit into {MOST_BYTES} bytes; give fewer pieces")


def draw_sheet(
    names: list[str], titles: list[str], cells: list[list[Image.Image]], side: int
) -> Image.Image:
    """Return the sheet of rows of pictures, each at most `side` wide and high."""
    pitch = side + GAP
    heights = [max(image.height for image in row) + GAP for row in cells]
    sheet = Image.new(
        "RGB", (NAME_WIDTH + len(titles) * pitch, TITLE_HEIGHT + sum(heights)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for column, title in enumerate(titles):
        draw.text((NAME_WIDTH + column * pitch, 2), title, "black", font)
    y = TITLE_HEIGHT
    for name, row, height in zip(names, cells, heights, strict=True):
        draw.multiline_text((2, y), name.replace(" ", "\n"), "black", font)
        for column, image in enumerate(row):
            sheet.paste(image, (NAME_WIDTH + column * pitch, y))
        y += height
    return sheet


def cut_piece(image: Image.Image, piece: Piece, side: int) -> Image.Image:
    """Return the piece, `side` pixels wide and high where the picture is large enough."""
    width, height = (min(side // ENLARGED, length) for length in image.size)
    left = min(max(0, round(piece.x * image.width) - width // 2), image.width - width)
    top = min(max(0, round(piece.y * image.height) - height // 2), image.height - height)
    cut = image.crop((left, top, left + width, top + height))
    return cut.resize((ENLARGED * width, ENLARGED * height), Image.Resampling.NEAREST)


def to_image(picture: Tensor) -> Image.Image:
    """Return `(1, 3, H, W)` in [0, 1] as a picture of Pillow."""
    pixels = (picture[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels.numpy()))


def _save(sheet: Image.Image, path: Path, *, lossless: bool) -> bool:
    """Write the sheet if it is small enough, and return whether it was."""
    encoded = io.BytesIO()
    sheet.save(encoded, "WEBP", lossless=lossless, quality=QUALITY, method=6)
    if encoded.tell() > MOST_BYTES:
        return False
    path.write_bytes(encoded.getvalue())
    return True
