"""Writes pictures as ComfyUI's Save Image does, and in two formats more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from .job import Encoding
from .workflow import Prompt

PNG_LEVEL = 4  # Save Image's
Tag = ExifTags.Base
# What tells of the picture. A TIFF's EXIF is its whole directory, with where its own strips lie.
TOLD = frozenset([
    Tag.ImageDescription, Tag.Make, Tag.Model, Tag.XResolution, Tag.YResolution, Tag.ResolutionUnit,
    Tag.Software, Tag.DateTime, Tag.Artist, Tag.HostComputer, Tag.Copyright, Tag.XPTitle,
    Tag.XPComment, Tag.XPAuthor, Tag.XPKeywords, Tag.XPSubject, ExifTags.IFD.Exif,
    ExifTags.IFD.GPSInfo,
])  # fmt: skip
LONGEST_EXIF = 65_527  # of JPEG, in bytes
LONGEST_VALUE = 2048  # where that is exceeded
SIZES = (Tag.ExifImageWidth, Tag.ExifImageHeight)  # of the file, not of its result
# The colours a profile is for, by the mode of the picture that is written.
PROFILE_COLORS = {"L": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB "}
WEBP_PROMPT_TAG = 0x0110  # where ComfyUI's nodes for WEBP put the workflow


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Return a picture in [0, 1] as 8 bits, rounded as ComfyUI's Save Image does.

    Args:
        image: `(..., H, W, C)` floats.
    """
    return np.clip(255.0 * image, 0, 255).astype(np.uint8)


def check_whole(path: Path) -> None:
    """Raise what Pillow says of a picture that is cut short or damaged.

    ComfyUI fills what is missing with black. Files that Pillow does not know, or finds too large
    to open, are left to the node that loads them.
    """
    if picture := _open(path):
        with picture:
            picture.load()


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what a file tells of its picture: EXIF and ICC profile.

    The orientation, which loading has applied, is left out, and so is the file's size. Of a file
    that Pillow does not know nothing is told.
    """
    kept: dict[str, Any] = {}
    picture = _open(path)
    if picture is None:
        return kept
    with picture:
        if profile := picture.info.get("icc_profile"):
            kept["icc_profile"] = profile
        exif = picture.getexif()
        for tag in set(exif) - TOLD:
            del exif[tag]
        # Read while the file is open, where a TIFF's lie.
        if ExifTags.IFD.GPSInfo in exif:
            exif.get_ifd(ExifTags.IFD.GPSInfo)
        if ExifTags.IFD.Exif in exif:
            told = exif.get_ifd(ExifTags.IFD.Exif)
            for tag in (*SIZES, ExifTags.IFD.Interop):
                told.pop(tag, None)
        if exif:
            kept["exif"] = exif
    return kept


def _open(path: Path) -> Image.Image | None:
    """Return a file as Pillow opens it; None if it does not know it, or finds it too large."""
    try:
        return Image.open(path)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return None


def write_picture(
    image: np.ndarray, path: Path, encoding: Encoding, prompt: Prompt | None, kept: dict[str, Any]
) -> None:
    """Write one picture.

    Args:
        image: `(H, W, C)` in [0, 1], C 1, 3 or 4.
        path: The file.
        encoding: Format and quality.
        prompt: The workflow to put in where the format has a place that the page reads; or None.
        kept: What `read_metadata` returned, or nothing.
    Raises:
        ValueError: The format has no transparency and the picture has.
    """
    pixels = to_bytes(image)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if kept.get("icc_profile", b"")[16:20] != PROFILE_COLORS[picture.mode]:
        kept = {name: value for name, value in kept.items() if name != "icc_profile"}
    if encoding.format == "png":
        text = PngImagePlugin.PngInfo()
        if prompt is not None:
            text.add_text("prompt", json.dumps(prompt))
        picture.save(path, "PNG", pnginfo=text, compress_level=PNG_LEVEL, **kept)
        return
    if encoding.format == "jpg":
        if picture.mode == "RGBA":
            raise ValueError("The result is transparent and JPEG is not: use --format png or webp.")
        if "exif" in kept:
            _shorten(kept["exif"])
        picture.save(path, "JPEG", quality=encoding.quality, subsampling=0, **kept)
        return
    exif = kept.get("exif") or picture.getexif()
    if prompt is not None:
        exif[WEBP_PROMPT_TAG] = f"prompt:{json.dumps(prompt)}"
    picture.save(path, "WEBP", quality=encoding.quality, **{**kept, "exif": exif})


def _shorten(exif: Image.Exif) -> None:
    """Leave out of EXIF that is too long for a JPEG what is long."""
    if len(exif.tobytes()) <= LONGEST_EXIF:
        return
    directories: list[Any] = [exif]
    if ExifTags.IFD.Exif in exif:
        directories.append(exif.get_ifd(ExifTags.IFD.Exif))
    for directory in directories:
        for tag, value in list(directory.items()):
            if isinstance(value, (str, bytes)) and len(value) > LONGEST_VALUE:
                del directory[tag]
