"""Tells restored crops from photographs, patch by patch.

Source: Isola et al. 2017 (arXiv 1611.07004), section 2.2.2, with the spectral norms of Miyato et
al. 2018 (arXiv 1802.05957).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 64
# Layers as input channels, output channels, side of the kernel and stride. The first sees every
# pixel of a period of the shuffle, so a grid cannot hide between its strides.
FINE = ((3, WIDTH, 4, 2), (WIDTH, WIDTH, 3, 1), (WIDTH, 2 * WIDTH, 4, 2))
COARSE = (
    (2 * WIDTH, 4 * WIDTH, 4, 2),
    (4 * WIDTH, 4 * WIDTH, 3, 1),
    (4 * WIDTH, 4 * WIDTH, 4, 2),
)


class SpectralConv(nn.Module):
    """A convolution whose filters, as a matrix, are divided by their largest singular value.

    Power iterations run in float32 whatever the rest is computed in.
    """

    direction: Tensor

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding=1)
        self.register_buffer("direction", F.normalize(torch.randn(after), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved `x`."""
        weight = self.conv.weight
        with torch.autocast(x.device.type, enabled=False):
            matrix = weight.flatten(1)
            with torch.no_grad():
                right = F.normalize(matrix.mT @ self.direction, dim=0)
                left = F.normalize(matrix @ right, dim=0)
                if weight.requires_grad:
                    self.direction.copy_(left)
            weight = weight / (left @ (matrix @ right))
        return F.conv2d(x, weight, self.conv.bias, self.conv.stride, self.conv.padding)


class PatchDiscriminator(nn.Module):
    """Judges patches of two sizes: about 20 and about 90 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(*_layers(FINE))
        self.coarse = nn.Sequential(*_layers(COARSE))
        self.fine_head = SpectralConv(2 * WIDTH, 1, 3)
        self.coarse_head = SpectralConv(4 * WIDTH, 1, 3)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return scores of the patches of `image` (B, 3, H, W) in [0, 1], above 0 for photographs.

        Returns:
            `(B, 1, H / 4, W / 4)` and `(B, 1, H / 16, W / 16)`.
        """
        fine = self.fine(image * 2 - 1)
        return [self.fine_head(fine), self.coarse_head(self.coarse(fine))]


def _layers(sizes: tuple[tuple[int, int, int, int], ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after, kernel, stride in sizes:
        layers.append(SpectralConv(before, after, kernel, stride))
        layers.append(nn.LeakyReLU(0.2))
    return layers


def doubt(scores: list[Tensor], *, photographs: bool) -> Tensor:
    """Return how far scores are from saying that all crops are photographs, or that none is.

    Args:
        scores: Of `PatchDiscriminator`.
        photographs: What they should say.
    Returns:
        `(B,)` float32, the logistic loss.
    """
    sign = -1 if photographs else 1
    parts = [F.softplus(sign * score.float()).mean(dim=(1, 2, 3)) for score in scores]
    return sum(parts) / len(parts)
