"""The last steps of a restoration: crop, colours, known pixels, size."""

from __future__ import annotations

import torch
from torch import Tensor

from ..images.color import ColorFix, fix_color, is_grey, without_color
from ..images.conversion import (
    check_count,
    check_image,
    collect_pictures,
    image_to_planes,
    is_stand_in,
    mask_to_plane,
    planes_to_image,
    ready_to_truncate,
)
from ..images.resize import resize_bicubic


def correct_color(image: Tensor, reference: Tensor, method: ColorFix) -> Tensor:
    """Return an IMAGE with colours taken from another of the same size, none from a grey one.

    Args:
        image: `(B, H, W, C)` IMAGE.
        reference: IMAGE of the same size; one picture serves a whole batch.
        method: See `fix_color`.
    Raises:
        ValueError: If the sizes differ.
    """
    check_image(image)
    check_image(reference, "'reference'")
    check_count(len(reference), len(image), "'reference'")

    def corrected(k: int) -> Tensor:
        planes, alpha = image_to_planes(image[k : k + 1])
        target, _ = image_to_planes(_picture(reference, k))
        fixed = fix_color(planes, target.to(planes), method)
        if method != "none" and is_grey(target):
            fixed = without_color(fixed)
        return planes_to_image(fixed.clamp(0, 1), alpha)

    return collect_pictures(map(corrected, range(len(image))), len(image))


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
    grey_like: Tensor | None = None,
    for_saving: bool = False,
    name: str = "'image'",
) -> Tensor:
    """Return the finished pictures, made one after the other.

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
        grey_like: IMAGE of any size; where it is black and white, so is the result.
        for_saving: Whether truncating the result to 8 bits, as ComfyUI's Save Image does, must take
            the nearest levels.
        name: What messages call `image`.
    Raises:
        ValueError: If sizes do not fit or only one of `original` and `mask` is given.
    """
    check_image(image, name)
    width, height = width or image.shape[2], height or image.shape[1]
    if width > image.shape[2] or height > image.shape[1]:
        raise ValueError(
            f"the image is {image.shape[2]}x{image.shape[1]}, smaller than the width and height"
            f" to crop to, {width}x{height}. Connect the width and height of the conditioning node."
        )
    if color_fix == "none":
        reference = None
    elif reference is None:
        raise ValueError(
            f"the colour fix '{color_fix}' needs a picture at 'reference'; connect the image"
            " before its restoration, or choose 'none'."
        )
    if (original is None) != (mask is None):
        raise ValueError("'original' and 'mask' belong together: connect both or neither.")
    others = {"reference": reference, "original": original, "grey_like": grey_like}
    for given, other in others.items():
        if other is not None:
            check_image(other, f"'{given}'")
            check_count(len(other), len(image), f"'{given}'")
    if mask is not None and is_stand_in(mask, height, width):
        raise ValueError(
            "'mask' is the empty one that Load Image gives with a picture without transparency."
            " Connect the mask of what was restored, 1 where the restored pixels stay, or"
            " disconnect 'original' and 'mask'."
        )
    masks = None if mask is None else mask.reshape(-1, *mask.shape[-2:])
    if masks is not None:
        check_count(len(masks), len(image), "'mask'", "masks")
    new_width, new_height = output_width or width, output_height or height
    if output_height and not output_width:
        new_width = max(1, round(width * output_height / height))
    if output_width and not output_height:
        new_height = max(1, round(height * output_width / width))

    def finished(k: int) -> Tensor:
        planes, _ = image_to_planes(image[k : k + 1, :height, :width])
        if reference is not None:
            target, _ = image_to_planes(_picture(reference, k))
            target = resize_bicubic(target.to(planes), height, width)
            planes = fix_color(planes, target, color_fix)
        if grey_like is not None and is_grey(image_to_planes(_picture(grey_like, k))[0]):
            planes = without_color(planes)
        if original is not None and masks is not None:
            planes = _put_back(planes, _picture(original, k), _picture(masks, k))
        sized = resize_bicubic(planes, new_height, new_width).clamp(0, 1)
        return planes_to_image(ready_to_truncate(sized) if for_saving else sized)

    return collect_pictures(map(finished, range(len(image))), len(image))


def _put_back(planes: Tensor, original: Tensor, mask: Tensor) -> Tensor:
    known, _ = image_to_planes(original)
    if known.shape[-2:] != planes.shape[-2:]:
        raise ValueError(
            f"'original' is {known.shape[-1]}x{known.shape[-2]} and the picture"
            f" {planes.shape[-1]}x{planes.shape[-2]}; they must be of one size."
        )
    hole = mask_to_plane(mask, 1, *planes.shape[-2:]).to(planes)
    return planes * hole + known.to(planes) * (1 - hole)


def _picture(images: Tensor, k: int) -> Tensor:
    """Return picture k of a batch, or the only one, as a batch of one."""
    return images if len(images) == 1 else images[k : k + 1]


def with_alpha_of(pictures: Tensor, restored: Tensor) -> Tensor:
    """Return restored pictures with the alpha of the ones they came from, enlarged, if any."""
    _, alpha = image_to_planes(pictures)
    if alpha is None:
        return restored
    plane = enlarge_alpha(alpha, *restored.shape[1:3]).movedim(1, -1)
    return torch.cat([restored, plane.to(restored)], dim=-1)


def enlarge_alpha(alpha: Tensor, height: int, width: int) -> Tensor:
    """Return alpha `(B, 1, H, W)` at the size of the restored picture, within [0, 1]."""
    return torch.clamp(resize_bicubic(alpha, height, width), 0, 1)
