"""An autoencoder without weights: pixels folded into channels."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class PixelLatent(nn.Module):
    """Folds an image into a latent and back, exactly.

    Args:
        ratio: Side of the image over the side of the latent.
    """

    def __init__(self, ratio: int):
        super().__init__()
        self.ratio = ratio

    def encode(self, image: Tensor) -> Tensor:
        """Return `(B, 3 ratio ratio, H / ratio, W / ratio)` for `image` (B, 3, H, W)."""
        return F.pixel_unshuffle(image, self.ratio)

    def decode(self, latent: Tensor, **_: Any) -> Tensor:
        """Return `(B, 3, H, W)` for a latent of `encode`."""
        return F.pixel_shuffle(latent, self.ratio)
