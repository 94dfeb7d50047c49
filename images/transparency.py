"""The colours of pixels that transparency hides."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .conversion import image_to_planes


def visible_planes(image: Tensor) -> Tensor:
    """Return the colour planes of an IMAGE, those of hidden pixels taken from the visible around.

    What lies under alpha 0 is arbitrary, often black, and a network that sees it mixes it into the
    edge of what is visible.

    Args:
        image: `(B, H, W, C)` IMAGE.
    Returns:
        `(B, 3, H, W)` float32, grey repeated; a picture of which nothing is visible is left as it is.
    Raises:
        ValueError: See `image_to_planes`.
    """
    planes, alpha = image_to_planes(image)
    if alpha is None:
        return planes
    visible = alpha > 0
    seen = visible.flatten(1).any(dim=1).view(-1, 1, 1, 1)
    if bool((visible | ~seen).all()):
        return planes
    return _fill(planes, (visible | ~seen).to(planes))


def _fill(planes: Tensor, weight: Tensor) -> Tensor:
    """Return `planes` with pixels of weight 0 from the averages of ever larger surroundings."""
    if bool(weight.all()):
        return planes
    share = F.avg_pool2d(weight, 2, ceil_mode=True)
    mean = F.avg_pool2d(planes * weight, 2, ceil_mode=True) / share.clamp(min=1e-12)
    coarse = _fill(mean, (share > 0).to(weight))  # (B, 3, H / 2, W / 2), rounded up
    around = F.interpolate(coarse, planes.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(weight > 0, planes, around)
