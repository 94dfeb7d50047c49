"""A small restoration network: convolutions at the low-quality size, one pixel shuffle at the end.

Source: SRVGGNetCompact of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833, BSD-3-Clause), whose
released weights keep their keys here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .own_weight import OwnWeight


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of the network.

    Attributes:
        features: Channels between the convolutions.
        convolutions: Convolutions between the first and the last.
        scale: Side of the result over that of the image.
    """

    features: int = 64
    convolutions: int = 32
    scale: int = 4

    @property
    def margin(self) -> int:
        """Low-quality pixels that a pixel of the result sees in each direction."""
        return self.convolutions + 2

    def values_held(self, height: int, width: int) -> int:
        """Return how many values the network holds at once, besides weights and without gradients.

        Args:
            height: Of the image, in pixels.
            width: Of the image, in pixels.
        """
        return 4 * max(self.features, 3 * self.scale**2) * height * width


class ParametricReLU(OwnWeight):
    """Identity above 0, a learned slope for each channel below it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, C, H, W) with its values below 0 times the slopes, `weight` (C,)."""
        return self.apply_weight(x, lambda slopes: F.prelu(x, slopes))


class CompactNet(nn.Module):
    """Restores and enlarges an image.

    Args:
        config: Sizes of the network.
        dtype: Dtype of the weights.
        device: Device of the weights.
        operations: Layer classes of `comfy.ops`.
    """

    def __init__(
        self,
        config: CompactConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        operations: Any,
    ):
        super().__init__()
        self.config = config
        plain: dict[str, Any] = {"dtype": dtype, "device": device}
        widths = [3, *[config.features] * (config.convolutions + 1)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers.append(operations.Conv2d(before, after, 3, padding=1, **plain))
            layers.append(ParametricReLU(after, **plain))
        folded = 3 * config.scale**2
        layers.append(operations.Conv2d(config.features, folded, 3, padding=1, **plain))
        self.body = nn.ModuleList(layers)

    def forward(self, image: Tensor) -> Tensor:
        """Return the restored image.

        Args:
            image: `(B, 3, H, W)` in [0, 1], in the dtype the network computes in.
        Returns:
            `(B, 3, scale H, scale W)`, about [0, 1], not clamped.
        """
        x = image
        for layer in self.body:
            x = layer(x)  # (B, features, H, W), the last (B, 3 scale scale, H, W)
        nearest = F.interpolate(image, scale_factor=self.config.scale, mode="nearest")
        return F.pixel_shuffle(x, self.config.scale) + nearest  # (B, 3, scale H, scale W)
