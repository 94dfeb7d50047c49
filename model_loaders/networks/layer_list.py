"""A network whose layers its file lists: small published networks that come as a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """One step of the graph.

    Attributes:
        kind: One of `KINDS`.
        inputs: Numbers of the maps it takes; 0 is the picture.
        output: Number of the map it makes.
        weights: Names of its tensors, weight and bias or slope.
        options: What the kind needs: `stride`, `groups`, `same`, `relu`, `size`, `padding`, `block`.
    """

    kind: str
    inputs: tuple[int, ...]
    output: int
    weights: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


class LayerListNetwork(nn.Module):
    """Runs layers one after the other; every map is `(B, C, H, W)`, or `(B, N, C)` after `rows`."""

    def __init__(
        self, layers: Sequence[Layer], outputs: Sequence[int], state_dict: dict[str, Tensor]
    ):
        super().__init__()
        self.layers = tuple(layers)
        self.outputs = tuple(outputs)
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(tensor, requires_grad=False) for name, tensor in state_dict.items()}
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the output maps of pictures `(B, 3, H, W)`, in the order of `outputs`."""
        maps = {0: x}
        for layer in self.layers:
            weights = [self.weights[name] for name in layer.weights]
            taken = [maps[number] for number in layer.inputs]
            made = KINDS[layer.kind](*taken, *weights, **layer.options)
            maps[layer.output] = made
        return tuple(maps[number] for number in self.outputs)


def _conv(
    x: Tensor, weight: Tensor, bias: Tensor, *, stride: int, groups: int, same: bool, relu: bool
) -> Tensor:
    if same:
        x = _pad_like_tensorflow(x, weight.shape[-1], stride)
    made = F.conv2d(x, weight, bias, stride, groups=groups)
    return F.relu(made) if relu else made


def _pad_like_tensorflow(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Return `x` with zeros around it, the odd one on the right and at the bottom."""
    missing = [
        max(0, (math.ceil(side / stride) - 1) * stride + kernel - side)
        for side in (x.shape[-1], x.shape[-2])
    ]
    return F.pad(x, [part for lack in missing for part in (lack // 2, lack - lack // 2)])


def _add(a: Tensor, b: Tensor, *, relu: bool) -> Tensor:
    return F.relu(a + b) if relu else a + b


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return F.prelu(x, slope)


def _max_pool(x: Tensor, *, size: int) -> Tensor:
    return F.max_pool2d(x, size)


def _pad(x: Tensor, *, padding: list[int]) -> Tensor:
    return F.pad(x, padding)


def _double(x: Tensor) -> Tensor:
    """Return maps of twice the size: each pixel, and the mean of it and the next one."""
    height, width = x.shape[-2:]
    grown = F.pad(x, (0, 1, 0, 1), mode="replicate")
    size = 2 * height + 1, 2 * width + 1
    made = F.interpolate(grown, size, mode="bilinear", align_corners=True)
    return made[..., : 2 * height, : 2 * width]


def _depth_to_space(x: Tensor, *, block: int) -> Tensor:
    """Return maps of `block` times the size; channels hold a block's pixels one after the other."""
    batch, channels, height, width = x.shape
    kept = channels // block**2
    parts = x.reshape(batch, block, block, kept, height, width)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, kept, height * block, width * block)


def _rows(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # (B, H W, C)


KINDS: dict[str, Callable[..., Tensor]] = {
    "conv": _conv,
    "add": _add,
    "prelu": _prelu,
    "max_pool": _max_pool,
    "pad": _pad,
    "double": _double,
    "depth_to_space": _depth_to_space,
    "rows": _rows,
    "sigmoid": torch.sigmoid,
}
