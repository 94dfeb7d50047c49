"""The last steps of a restoration: crop, colours, known pixels, size."""

from __future__ import annotations

import torch
from torch import Tensor

from ..images.color import ColorFix, fix_color
from ..images.conversion import image_to_planes, mask_to_plane, planes_to_image
from ..images.resize import resize_bicubic


def correct_color(image: Tensor, reference: Tensor, method: ColorFix) -> Tensor:
    """Return an IMAGE with colours taken from another of the same size.

    Args:
        image: `(B, H, W, C)` IMAGE.
        reference: IMAGE of the same size; one picture serves a whole batch.
        method: See `fix_color`.
    Raises:
        ValueError: If the sizes differ.
    """
    planes, alpha = image_to_planes(image)
    target, _ = image_to_planes(reference)
    fixed = fix_color(planes, _spread(target, planes, "reference"), method)
    return planes_to_image(fixed.clamp(0, 1), alpha)


def finish_restoration(
    image: Tensor,
    width: int,
    height: int,
    *,
    reference: Tensor | None = None,
    color_fix: ColorFix = "none",
    original: Tensor | None = None,
    mask: Tensor | None = None,
    output_width: int = 0,
    output_height: int = 0,
) -> Tensor:
    """Return the finished picture.

    Args:
        image: `(B, H, W, C)` IMAGE as decoded, padding included.
        width: Width without padding; 0 keeps the image's.
        height: Height without padding; 0 keeps the image's.
        reference: IMAGE whose colours are wanted; resized to the picture.
        color_fix: See `fix_color`.
        original: IMAGE of the size without padding, whose pixels outside the mask are put back.
        mask: MASK of that size, 1 where the restored pixels stay; soft edges blend.
        output_width: Width to resize to at the end; 0 keeps it, or follows the height.
        output_height: Height to resize to at the end; 0 keeps it, or follows the width.
    Raises:
        ValueError: If sizes do not fit or only one of `original` and `mask` is given.
    """
    planes, _ = image_to_planes(image)
    width, height = width or planes.shape[-1], height or planes.shape[-2]
    if width > planes.shape[-1] or height > planes.shape[-2]:
        raise ValueError(
            f"the image is {planes.shape[-1]}x{planes.shape[-2]}, smaller than the width and height"
            f" to crop to, {width}x{height}. Connect the width and height of the conditioning node."
        )
    planes = planes[..., :height, :width]
    if color_fix != "none":
        if reference is None:
            raise ValueError(
                f"the colour fix '{color_fix}' needs a picture at 'reference'; connect the image"
                " before its restoration, or choose 'none'."
            )
        target, _ = image_to_planes(reference)
        target = resize_bicubic(_spread(target, planes, "reference"), height, width)
        planes = fix_color(planes, target, color_fix)
    planes = _put_back(planes, original, mask)
    if output_width or output_height:
        new_width = output_width or max(1, round(width * output_height / height))
        new_height = output_height or max(1, round(height * output_width / width))
        planes = resize_bicubic(planes, new_height, new_width)
    return planes_to_image(planes.clamp(0, 1))


def _put_back(planes: Tensor, original: Tensor | None, mask: Tensor | None) -> Tensor:
    if original is None and mask is None:
        return planes
    if original is None or mask is None:
        raise ValueError("'original' and 'mask' belong together: connect both or neither.")
    known, _ = image_to_planes(original)
    known = _spread(known, planes, "original")
    if known.shape[-2:] != planes.shape[-2:]:
        raise ValueError(
            f"'original' is {known.shape[-1]}x{known.shape[-2]} and the picture"
            f" {planes.shape[-1]}x{planes.shape[-2]}; they must be of one size."
        )
    hole = mask_to_plane(mask, planes.shape[0], *planes.shape[-2:])
    return planes * hole + known * (1 - hole)


def _spread(planes: Tensor, like: Tensor, name: str) -> Tensor:
    if planes.shape[0] not in (1, like.shape[0]):
        raise ValueError(
            f"'{name}' has {planes.shape[0]} pictures for {like.shape[0]} images; give one or as"
            " many."
        )
    return planes.to(like).expand(like.shape[0], -1, -1, -1)


def enlarge_alpha(alpha: Tensor, height: int, width: int) -> Tensor:
    """Return alpha `(B, 1, H, W)` at the size of the restored picture, within [0, 1]."""
    return torch.clamp(resize_bicubic(alpha, height, width), 0, 1)
