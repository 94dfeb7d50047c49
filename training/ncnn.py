"""Reads the weights of plain chains of layers from ncnn's files.

The layers stand in the `.param` file in forward order. The `.bin` file holds for each convolution a
tag, the weights and the biases, and for each PReLU its slopes, and ends right there.
"""

from __future__ import annotations

import io
import struct

import numpy as np
import torch
from torch import Tensor

HALF_TAG = 0x01306B47
WEIGHTED = ("Convolution", "PReLU")


def read_ncnn_weights(param: str, weights: bytes, names: list[str]) -> dict[str, Tensor]:
    """Return the state dict of a network whose only weights are convolutions and PReLUs.

    Args:
        param: Text of the `.param` file.
        weights: Content of the `.bin` file.
        names: Name of each such layer in forward order.
    Raises:
        ValueError: If the count of layers or the length of `weights` is another.
    """
    layers = [line.split() for line in param.splitlines() if line.startswith(WEIGHTED)]
    if len(layers) != len(names):
        raise ValueError(f"expected {len(names)} layers in the .param file, got {len(layers)}")
    stream = io.BytesIO(weights)
    state_dict = {}
    for name, layer in zip(names, layers, strict=True):
        options = dict(item.split("=", 1) for item in layer if "=" in item)
        outputs = int(options["0"])
        if layer[0] == "PReLU":
            state_dict[f"{name}.weight"] = _read_single(stream, outputs)
            continue
        kernel, count = int(options["1"]), int(options["6"])
        (tag,) = struct.unpack("<I", stream.read(4))
        size = 2 if tag == HALF_TAG else 4
        values = np.frombuffer(stream.read(size * count), dtype=f"<f{size}").astype(np.float32)
        stream.read(-size * count % 4)
        shape = (outputs, count // (outputs * kernel * kernel), kernel, kernel)
        state_dict[f"{name}.weight"] = torch.from_numpy(values.reshape(shape).copy())
        state_dict[f"{name}.bias"] = _read_single(stream, outputs)
    if stream.read(1):
        raise ValueError("the .bin file is longer than its layers")
    return state_dict


def _read_single(stream: io.BytesIO, count: int) -> Tensor:
    values = np.frombuffer(stream.read(4 * count), dtype="<f4")
    return torch.from_numpy(values.astype(np.float32))
