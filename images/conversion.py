"""Between ComfyUI's IMAGE and MASK and the tensors that networks take."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Side of the empty mask that ComfyUI's Load Image gives with a picture without transparency.
STAND_IN_PX = 64
# Load Image reads white and black of some grey files one level away from 1 and 0.
MASK_SLACK = 1.01 / 255


def check_image(image: Tensor, name: str = "'image'") -> None:
    """Make sure that a tensor is an IMAGE; no copy of the batch is made.

    Args:
        image: `(B, H, W, C)`, C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
        name: What messages call it; an input in quotes.
    Raises:
        ValueError: If the shape is another, a side or the batch is 0, or a pixel is not finite.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 2, 3, 4):
        raise ValueError(
            f"{name} has the shape {tuple(image.shape)}; give it pictures of shape (batch, height,"
            " width, 1 to 4 channels)."
        )
    if 0 in image.shape:
        raise ValueError(
            f"{name} is empty, its shape is {tuple(image.shape)}; give it at least one picture."
        )
    for picture in image:
        # Least and largest are NaN where any pixel is.
        if not torch.isfinite(torch.stack(picture.float().aminmax())).all():
            raise ValueError(
                f"{name} has NaN or infinite pixels; the model that made it failed, often for lack of"
                " precision: run that model in float32 (fp32)."
            )


def check_count(found: int, count: int, name: str, kind: str = "pictures") -> None:
    """Make sure that there is one of something for a whole batch, or one for each picture.

    Args:
        found: How many there are.
        count: Number of pictures in the batch.
        name: What messages call what holds them; an input in quotes.
        kind: What they are.
    Raises:
        ValueError: If there are fewer or more.
    """
    if found not in (1, count):
        raise ValueError(
            f"{name} has {found} {kind} for {count} images; give one, or one for each."
        )


def image_to_planes(image: Tensor, name: str = "'image'") -> tuple[Tensor, Tensor | None]:
    """Return the colour planes of an IMAGE and its alpha.

    Args:
        image: `(B, H, W, C)` in [0, 1], C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
        name: See `check_image`.
    Returns:
        `(B, 3, H, W)` float32, grey repeated, and `(B, 1, H, W)` alpha or None.
    Raises:
        ValueError: If the shape is another, a side or the batch is 0, or a pixel is not finite.
    """
    check_image(image, name)
    planes = image.movedim(-1, 1).float()
    alpha = planes[:, -1:] if image.shape[-1] in (2, 4) else None
    color = planes if alpha is None else planes[:, :-1]
    return color.expand(-1, 3, -1, -1), alpha


def planes_to_image(planes: Tensor, alpha: Tensor | None = None) -> Tensor:
    """Return `(B, H, W, 3)`, or with alpha `(B, H, W, 4)`, for planes in [0, 1]; contiguous."""
    if alpha is not None:
        planes = torch.cat([planes, alpha.to(planes)], dim=1)
    return planes.movedim(1, -1).contiguous()


def ready_to_truncate(image: Tensor) -> Tensor:
    """Return pictures in [0, 1] of which truncating to 8 bits takes the nearest level.

    ComfyUI's Save Image truncates. What would fall to the level below the nearest one goes up to
    it; all else stays, so that rounding takes the same level.

    Args:
        image: Of any shape, float32.
    """
    levels = (image * 255).round()
    return torch.where(image * 255 < levels, levels / 255, image)


def collect_pictures(parts: Iterable[Tensor], count: int) -> Tensor:
    """Return pictures that are made one after the other as one batch.

    The batch is laid out once and filled, so that no second copy of it is held, as joining a list
    would.

    Args:
        parts: `(b, H, W, C)` each, on one device; read once.
        count: Number of pictures in all parts together.
    Returns:
        `(count, H, W, C)`; the part itself where it is the only one.
    """
    batch, filled = torch.empty(0), 0
    for part in parts:
        if filled == 0:
            if len(part) == count:
                return part
            batch = part.new_empty(count, *part.shape[1:])
        batch[filled : filled + len(part)] = part
        filled += len(part)
    return batch


def is_stand_in(mask: Tensor, height: int, width: int) -> bool:
    """Return whether a MASK is the empty one that ComfyUI gives with a picture that has none.

    Args:
        mask: MASK.
        height: Height of the picture.
        width: Width of the picture.
    """
    side = (STAND_IN_PX, STAND_IN_PX)
    return mask.shape[-2:] == side != (height, width) and not bool(mask.any())


def mask_to_plane(mask: Tensor, batch: int, height: int, width: int) -> Tensor:
    """Return a MASK as `(batch, 1, height, width)` float32 in [0, 1].

    Values within a level of 0 and 1 are taken for these.

    Args:
        mask: `(H, W)`, `(B, H, W)` or `(B, 1, H, W)`, 1 where pixels are to be replaced.
        batch: Number of pictures; one mask serves all.
        height: Height of the pictures.
        width: Width of the pictures.
    Raises:
        ValueError: If the mask has another size, neither 1 nor `batch` pictures, or a value that is
            not finite.
    """
    plane = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    if plane.shape[-2:] != (height, width):
        raise ValueError(
            f"'mask' is {plane.shape[-1]}x{plane.shape[-2]} and the image {width}x{height};"
            " resize the mask to the size of the image."
        )
    check_count(len(plane), batch, "'mask'", "masks")
    if not torch.isfinite(plane).all():
        raise ValueError(
            "'mask' has NaN or infinite values; mend or replace the node that made it."
        )
    plane = torch.where(plane < MASK_SLACK, 0, torch.where(plane > 1 - MASK_SLACK, 1, plane))
    return plane.expand(batch, -1, -1, -1)
