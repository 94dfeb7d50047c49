"""Layers of one weight that ComfyUI has none of, in its care like its own."""

from __future__ import annotations

from collections.abc import Callable

import comfy.ops
import torch
from torch import Tensor, nn


class OwnWeight(nn.Module, comfy.ops.CastWeightBiasOp):
    """A layer whose only weight ComfyUI moves, casts and patches as it does those of its own.

    It does so to weights named `weight` of modules that hold no others and have the marks of its
    layers: merges, LoRAs and memory that is short pass over everything else.

    Args:
        shape: Of the weight, which is not initialised.
        dtype: Dtype of the weight.
        device: Device of the weight.
    """

    bias: None

    def __init__(
        self, *shape: int, dtype: torch.dtype | None = None, device: torch.device | None = None
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        self.bias = None

    def apply_weight(self, like: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what a function makes of the weight as it is to be used.

        Args:
            like: Decides the device and the dtype of the weight.
            function: Must return no part of the weight, whose memory may serve the next layer.
        """
        if not self.comfy_cast_weights and not self.weight_function:
            return function(comfy.ops.cast_to_input(self.weight, like))
        weight, bias, stream = comfy.ops.cast_bias_weight(self, like, offloadable=True)
        made = function(weight)
        comfy.ops.uncast_bias_weight(self, weight, bias, stream)
        return made
