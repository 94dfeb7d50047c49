"""Tells restored crops from real ones by the features of a network that knows photographs.

Small heads look at frozen features of EfficientNet-Lite0, so they learn within a hundred steps what
a discriminator of its own layers, on crops of its own, takes many thousands for. A restored crop and
a real one of the same place are judged as a pair: which of both is the real one.

They look at the fine features alone: what the deeper ones ask for led away from the real picture
as often as towards it.

Source: Sauer et al. 2021 (arXiv 2111.01007), sections 3.1 and 3.2, without the random mixing of
features; the pairs of Jolicoeur-Martineau 2019 (arXiv 1807.00734).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .features import TAPPED_WIDTHS

# Channels of a head.
HIDDEN = 64
# Of `TAPPED_WIDTHS`, from the first on.
JUDGED_TAPS = 3


class FeatureDiscriminator(nn.Module):
    """Heads on features of a few depths, from single edges to shapes of some ten pixels."""

    def __init__(self) -> None:
        super().__init__()
        # Features of one depth differ in size a hundred times.
        widths = TAPPED_WIDTHS[:JUDGED_TAPS]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, affine=False) for width in widths)
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(width, HIDDEN, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(HIDDEN, 1, 1)),
            )
            for width in widths
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return scores of every place, larger for what looks real.

        Args:
            features: `(B, TAPPED_WIDTHS[k], H_k, W_k)`, of `FeatureDistance.taps`, at least the
                first `JUDGED_TAPS`.
        Returns:
            `(B, 1, H_k, W_k)` each.
        """
        layers = zip(self.heads, self.norms, features[:JUDGED_TAPS], strict=True)
        return [head(norm(found)) for head, norm, found in layers]


def doubt(higher: Sequence[Tensor], lower: Sequence[Tensor]) -> Tensor:
    """Return how far two crops' scores are from saying that the first is the more real one.

    Args:
        higher: Scores of the crops that are to be taken for the real ones.
        lower: Scores of the others of the same places.
    Returns:
        `(B,)` float32, the logistic loss, log 2 where both look alike.
    """
    parts = [
        F.softplus(b.float() - a.float()).mean(dim=(1, 2, 3))
        for a, b in zip(higher, lower, strict=True)
    ]
    return sum(parts) / len(parts)
