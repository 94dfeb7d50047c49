"""Writes pictures as ComfyUI's Save Image does, and in two formats more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from .job import Encoding
from .workflow import Prompt

PNG_LEVEL = 4  # Save Image's
WEBP_PROMPT_TAG = 0x0110  # where ComfyUI's nodes for WEBP put the workflow


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Return a picture in [0, 1] as 8 bits, rounded as ComfyUI's Save Image does.

    Args:
        image: `(..., H, W, C)` floats.
    """
    return np.clip(255.0 * image, 0, 255).astype(np.uint8)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return EXIF, without the orientation that loading has applied, and ICC profile of a file."""
    kept: dict[str, Any] = {}
    with Image.open(path) as picture:
        if profile := picture.info.get("icc_profile"):
            kept["icc_profile"] = profile
        exif = picture.getexif()
        exif.pop(ExifTags.Base.Orientation, None)
        if exif:
            kept["exif"] = exif
    return kept


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
    if encoding.format == "png":
        text = PngImagePlugin.PngInfo()
        if prompt is not None:
            text.add_text("prompt", json.dumps(prompt))
        picture.save(path, "PNG", pnginfo=text, compress_level=PNG_LEVEL, **kept)
        return
    if encoding.format == "jpg":
        if picture.mode == "RGBA":
            raise ValueError("The result is transparent and JPEG is not: use --format png or webp.")
        picture.save(path, "JPEG", quality=encoding.quality, subsampling=0, **kept)
        return
    exif = kept.get("exif") or picture.getexif()
    if prompt is not None:
        exif[WEBP_PROMPT_TAG] = f"prompt:{json.dumps(prompt)}"
    picture.save(path, "WEBP", quality=encoding.quality, **{**kept, "exif": exif})
