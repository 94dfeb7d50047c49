"""Pairs of clean and degraded pictures that ComfyUI's own training takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management
import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from ..images.conversion import check_image, image_to_planes, planes_to_image
from ..images.crops import random_crops
from ..images.padding import reflect_pad_to
from ..model_loaders.resshift_model import LATENT_KEY, LQ_KEY, MASK_KEY
from .noise import SEED_COUNT
from .resshift_conditioning import prepare_resshift, resshift_model

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
ON_ITS_SIDE = (5, 6, 7, 8)  # orientations of Exif whose rows are columns


def crops_of_folders(
    clean: Path, degraded: Path | None, count: int, side: int, scale: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return random pieces of the pictures of a folder, and of their degraded versions.

    One picture at a time is in memory, beside the pieces.

    Args:
        clean: Folder of clean pictures; what is in folders inside it is left out.
        degraded: Folder of their degraded versions under the same names, whatever the suffixes;
            None reduces the clean pieces.
        count: Number of pieces.
        side: Side of a clean piece in pixels.
        scale: Side of a clean picture over that of its degraded version.
        seed: Decides which pieces.
    Returns:
        IMAGE `(count, side, side, 3)` and IMAGE `(count, side / scale, side / scale, 3)`.
    Raises:
        ValueError: If the sizes do not fit, or a folder has no pictures or not the same ones.
    """
    if side % scale:
        raise ValueError(
            f"'crop' is {side} and no multiple of 'scale', {scale}; take {side // scale * scale} or"
            f" {(side // scale + 1) * scale}."
        )
    files = _pictures(clean)
    lows = None if degraded is None else _same_names(files, degraded)
    sizes = [_size(file) for file in files.values()]
    for k, (name, (height, width)) in enumerate(zip(files, sizes, strict=True)):
        if lows is not None:
            _check_pair(name, (height, width), _size(lows[k]), scale)
        if min(height, width) < side:
            raise ValueError(
                f"'{name}' is {width}x{height}, smaller than a piece of {side}x{side}; choose a"
                " smaller 'crop' or take the picture out of the folder."
            )
    paths = list(files.values())

    def read(index: int) -> tuple[Tensor, Tensor | None]:
        return _read(paths[index]), None if lows is None else _read(lows[index])

    generator = np.random.default_rng(seed % SEED_COUNT)
    pieces, low = random_crops(sizes, read, count, side, scale, generator)
    return planes_to_image(pieces), planes_to_image(low)


def _pictures(folder: Path) -> dict[str, Path]:
    """Return the pictures of a folder by their names without suffix, sorted."""
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in PICTURE_SUFFIXES]
    if not files:
        raise ValueError(
            f"the folder '{folder.name}' holds no pictures; put some into it"
            f" ({', '.join(PICTURE_SUFFIXES)})."
        )
    by_name: dict[str, Path] = {}
    for file in files:
        if (other := by_name.setdefault(file.stem, file)) != file:
            raise ValueError(
                f"the folder '{folder.name}' holds '{other.name}' and '{file.name}'; pictures are told"
                " apart by their names without the suffix, so rename one or take it out."
            )
    return by_name


def _same_names(clean: dict[str, Path], folder: Path) -> list[Path]:
    degraded = _pictures(folder)
    alone = sorted(clean.keys() ^ degraded.keys())
    if alone:
        raise ValueError(
            f"{len(alone)} pictures are in one of the two folders only, such as '{alone[0]}'; give"
            " both versions of a picture the same name."
        )
    return [degraded[name] for name in clean]


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as opened:
            yield opened
    except OSError as error:
        raise ValueError(
            f"'{file.name}' cannot be read ({error}); save it anew or take it out of the folder."
        ) from error


def _size(file: Path) -> tuple[int, int]:
    """Return height and width of a picture as it is seen, from its header."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    with _opened(file) as opened:
        turned = opened.getexif().get(ExifTags.Base.Orientation) in ON_ITS_SIDE
        return opened.size if turned else (opened.height, opened.width)


def _read(file: Path) -> Tensor:
    """Return a picture as `(3, H, W)` in [0, 1]."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    with _opened(file) as opened:
        upright = ImageOps.exif_transpose(opened)
        if upright.mode.startswith("I"):  # grey of 16 bits, which Pillow would clip to 255
            grey = torch.from_numpy(np.array(upright, np.float32)) / 65535
            return grey.clamp(0, 1).expand(3, -1, -1)
        pixels = np.array(upright.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _check_pair(name: str, clean: tuple[int, int], degraded: tuple[int, int], scale: int) -> None:
    height, width = (side // scale for side in clean)
    if degraded != (height, width):
        raise ValueError(
            f"the degraded '{name}' is {degraded[1]}x{degraded[0]} and must be"
            f" {width}x{height}: that is the clean one's size divided by 'scale', {scale}."
        )


def prepare_pairs(
    model: Any, vae: Any, clean: Tensor, degraded: Tensor, mask: Tensor | None = None
) -> tuple[dict[str, Any], list]:
    """Return latents and conditioning with which ComfyUI's Train LoRA trains a ResShift MODEL.

    The latents are x_0, the clean pictures'. Each entry of the conditioning belongs to one of them
    and holds what a restoration of its degraded version starts from: y, the picture and the mask.

    Args:
        model: The ResShift MODEL that will be trained.
        vae: Its VAE.
        clean: `(B, scale H, scale W, C)` IMAGE.
        degraded: `(B, H, W, C)` IMAGE.
        mask: MASK of what is missing, of the size of `degraded`; only for models that fill holes.
    Returns:
        LATENT of B pictures, and CONDITIONING of B entries.
    Raises:
        ValueError: If numbers or sizes of the pictures do not fit.
    """
    check_pairs(model, clean, degraded)
    scale = resshift_model(model).record.scale
    latents, conditioning = [], []
    for k in range(len(clean)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        own_mask = None if mask is None else _own(mask, k)
        inputs = prepare_resshift(model, vae, degraded[k : k + 1], own_mask)
        ((embedding, values),) = inputs.positive
        padded = [scale * side for side in values[LQ_KEY].shape[-2:]]
        planes, _ = image_to_planes(clean[k : k + 1], "'clean'")
        latents.append(vae.encode(planes_to_image(reflect_pad_to(planes.clamp(0, 1), *padded))))
        kept = {key: values[key] for key in (LATENT_KEY, LQ_KEY, MASK_KEY) if key in values}
        conditioning.append([embedding, kept])
    return {"samples": torch.cat(latents)}, conditioning


def _own(mask: Tensor, k: int) -> Tensor:
    masks = mask.reshape(-1, *mask.shape[-2:])
    return masks if len(masks) == 1 else masks[k : k + 1]


def check_pairs(model: Any, clean: Tensor, degraded: Tensor) -> None:
    """Make sure that pictures are pairs for a ResShift MODEL.

    Args:
        model: The MODEL.
        clean: `(B, scale H, scale W, C)` IMAGE.
        degraded: `(B, H, W, C)` IMAGE.
    Raises:
        ValueError: If the MODEL is another kind of model, or numbers or sizes do not fit.
    """
    scale = resshift_model(model).record.scale
    check_image(clean, "'clean'")
    check_image(degraded, "'degraded'")
    if len(clean) != len(degraded):
        raise ValueError(
            f"'clean' has {len(clean)} pictures and 'degraded' {len(degraded)}; each clean picture"
            " needs its own degraded version."
        )
    height, width = (scale * side for side in degraded.shape[1:3])
    if clean.shape[1:3] != (height, width):
        raise ValueError(
            f"'clean' is {clean.shape[2]}x{clean.shape[1]} and must be {width}x{height}: this model"
            f" enlarges {scale} times, so that is the size of 'degraded' times {scale}."
        )
