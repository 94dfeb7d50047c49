"""A restoration network of dense residual blocks, which enlarges by repeating pixels.

Source: RRDBNet of ESRGAN (Wang et al. 2018, arXiv 1809.00219) in the form of Real-ESRGAN (Wang et
al. 2021, arXiv 2107.10833, BSD-3-Clause), whose released weights keep their keys here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2
RESIDUAL = 0.2
CONVOLUTIONS_OF_DENSE = 5
DENSE_OF_BLOCK = 3
# Low-quality pixels that are enlarged at once, and that a pixel of the enlargement sees around it.
ENLARGED_AT_ONCE = 256 * 256
ENLARGED_MARGIN = 2


@dataclass(frozen=True)
class RRDBConfig:
    """Sizes of the network.

    Attributes:
        features: Channels of the maps.
        growth: Channels that each convolution of a dense block adds.
        blocks: Blocks of three dense blocks each.
        scale: Side of the result over that of the image, always 4.
    """

    features: int = 64
    growth: int = 32
    blocks: int = 23
    scale: int = 4

    @property
    def margin(self) -> int:
        """Low-quality pixels that a pixel of the result sees in each direction."""
        return DENSE_OF_BLOCK * CONVOLUTIONS_OF_DENSE * self.blocks + 2 + ENLARGED_MARGIN

    def values_held(self, height: int, width: int) -> int:
        """Return how many values the network holds at once, besides weights and without gradients.

        Args:
            height: Of the image, in pixels.
            width: Of the image, in pixels.
        """
        pixels = height * width
        # What is added to: in the end, by the block and by the dense block. What that has found,
        # once more where a library turns it for its convolution, and the convolution's result.
        joined = self.features + (CONVOLUTIONS_OF_DENSE - 1) * self.growth
        blocks = (4 * self.features + self.growth + 2 * joined) * pixels
        # A convolution's map turned, before and after it, and all bands before and after joining.
        enlarged = min(pixels, ENLARGED_AT_ONCE + 2 * ENLARGED_MARGIN * width)
        bands = 2 * 3 * self.scale**2 * pixels
        enlarging = 2 * self.features * pixels + 3 * self.scale**2 * self.features * enlarged
        return max(blocks, enlarging + bands)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it found."""

    def __init__(self, config: RRDBConfig, plain: dict[str, Any], operations: Any):
        super().__init__()
        width, growth = config.features, config.growth

        def conv(found: int, after: int) -> nn.Module:
            return operations.Conv2d(width + found * growth, after, 3, padding=1, **plain)

        self.conv1 = conv(0, growth)
        self.conv2 = conv(1, growth)
        self.conv3 = conv(2, growth)
        self.conv4 = conv(3, growth)
        self.conv5 = conv(4, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, features, H, W) and a fifth of what was found in it, same shape."""
        found = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            added = F.leaky_relu(conv(found), SLOPE, inplace=True)
            found = torch.cat([found, added], dim=1)  # (B, features + k growth, H, W)
        return torch.add(x, self.conv5(found), alpha=RESIDUAL)


class Block(nn.Module):
    """Three dense blocks, of whose result a fifth counts."""

    def __init__(self, config: RRDBConfig, plain: dict[str, Any], operations: Any):
        super().__init__()
        self.rdb1 = DenseBlock(config, plain, operations)
        self.rdb2 = DenseBlock(config, plain, operations)
        self.rdb3 = DenseBlock(config, plain, operations)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, features, H, W) with a fifth of the blocks' result, same shape."""
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=RESIDUAL)


class RRDBNet(nn.Module):
    """Restores an image and enlarges it four times.

    Args:
        config: Sizes of the network.
        dtype: Dtype of the weights.
        device: Device of the weights.
        operations: Layer classes of `comfy.ops`.
    """

    def __init__(
        self,
        config: RRDBConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        operations: Any,
    ):
        super().__init__()
        self.config = config
        plain: dict[str, Any] = {"dtype": dtype, "device": device}
        width = config.features

        def conv(before: int, after: int) -> nn.Module:
            return operations.Conv2d(before, after, 3, padding=1, **plain)

        self.conv_first = conv(3, width)
        self.body = nn.ModuleList(Block(config, plain, operations) for _ in range(config.blocks))
        self.conv_body = conv(width, width)
        self.conv_up1 = conv(width, width)
        self.conv_up2 = conv(width, width)
        self.conv_hr = conv(width, width)
        self.conv_last = conv(width, 3)

    def forward(self, image: Tensor) -> Tensor:
        """Return the restored image.

        Args:
            image: `(B, 3, H, W)` in [0, 1], in the dtype the network computes in.
        Returns:
            `(B, 3, 4 H, 4 W)`, about [0, 1], not clamped.
        """
        first = self.conv_first(image)  # (B, features, H, W)
        x = first
        for block in self.body:
            x = block(x)
        x = first + self.conv_body(x)
        height, width = x.shape[-2:]
        rows = max(1, ENLARGED_AT_ONCE // width)
        if height <= rows:
            return self._enlarge(x)
        bands = []
        for top in range(0, height, rows):
            above = max(0, top - ENLARGED_MARGIN)
            seen = x[..., above : top + rows + ENLARGED_MARGIN, :]
            first_row, count = top - above, min(rows, height - top)
            enlarged = self._enlarge(seen)  # (B, 3, 4 rows, 4 W)
            bands.append(enlarged[..., 4 * first_row : 4 * (first_row + count), :])
        return torch.cat(bands, dim=2)

    def _enlarge(self, x: Tensor) -> Tensor:
        for conv in (self.conv_up1, self.conv_up2):
            x = F.interpolate(x, scale_factor=2, mode="nearest")  # (B, features, 2 H, 2 W)
            x = F.leaky_relu(conv(x), SLOPE, inplace=True)
        x = F.leaky_relu(self.conv_hr(x), SLOPE, inplace=True)
        return self.conv_last(x)  # (B, 3, 4 H, 4 W)
