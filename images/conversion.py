"""Between ComfyUI's IMAGE and MASK and the tensors that networks take."""

from __future__ import annotations

import torch
from torch import Tensor


def image_to_planes(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the colour planes of an IMAGE and its alpha.

    Args:
        image: `(B, H, W, C)` in [0, 1], C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
    Returns:
        `(B, 3, H, W)` float32, grey repeated, and `(B, 1, H, W)` alpha or None.
    Raises:
        ValueError: If the shape is another, a side or the batch is 0, or a pixel is not finite.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 2, 3, 4):
        raise ValueError(
            f"expected an image of shape (batch, height, width, 1 to 4 channels),"
            f" got {tuple(image.shape)}"
        )
    if 0 in image.shape:
        raise ValueError(f"the image is empty: its shape is {tuple(image.shape)}")
    planes = image.movedim(-1, 1).float()
    if not torch.isfinite(planes).all():
        raise ValueError(
            "the image has NaN or infinite pixels; the node that made it failed, often for lack of"
            " precision: run that model in float32"
        )
    channels = planes.shape[1]
    has_alpha = channels in (2, 4)
    alpha = planes[:, -1:] if has_alpha else None
    color = planes[:, :-1] if has_alpha else planes
    return color.expand(-1, 3, -1, -1), alpha


def planes_to_image(planes: Tensor, alpha: Tensor | None = None) -> Tensor:
    """Return `(B, H, W, 3)`, or with alpha `(B, H, W, 4)`, for planes in [0, 1]; contiguous."""
    if alpha is not None:
        planes = torch.cat([planes, alpha.to(planes)], dim=1)
    return planes.movedim(1, -1).contiguous()


def mask_to_plane(mask: Tensor, batch: int, height: int, width: int) -> Tensor:
    """Return a MASK as `(batch, 1, height, width)` float32 in [0, 1].

    Args:
        mask: `(H, W)`, `(B, H, W)` or `(B, 1, H, W)`, 1 where pixels are to be replaced.
        batch: Number of pictures; one mask serves all.
        height: Height of the pictures.
        width: Width of the pictures.
    Raises:
        ValueError: If the mask has another size or neither 1 nor `batch` pictures.
    """
    plane = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    if plane.shape[-2:] != (height, width):
        raise ValueError(
            f"the mask is {plane.shape[-1]}x{plane.shape[-2]} and the image {width}x{height};"
            " resize the mask to the size of the image"
        )
    if plane.shape[0] not in (1, batch):
        raise ValueError(
            f"there are {plane.shape[0]} masks for {batch} images; give one mask or one for each"
        )
    return plane.clamp(0, 1).expand(batch, -1, -1, -1)
