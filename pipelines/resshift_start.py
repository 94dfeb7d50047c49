"""The picture that a ResShift chain starts around, where the model's file has a network for it."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from torch import Tensor

# Side of the pieces of a large picture, in low-quality pixels, without the margin that a call sees
# around them, so that pieces equal the whole.
CORE_PX = 1024


def start_picture(model: Any, planes: Tensor) -> Tensor:
    """Return the picture that the network in a ResShift MODEL makes of an image.

    Args:
        model: A ResShift MODEL whose network has a `start`.
        planes: `(B, 3, H, W)` in [0, 1], on any device.
    Returns:
        `(B, 3, scale H, scale W)` float32 in [0, 1], on the device and in pieces that do not show.
    """
    network = model.model.diffusion_model.start
    dtype = model.model.get_dtype_inference()
    config = network.config
    margin = config.margin
    height, width = planes.shape[-2:]
    held = config.values_held(*(min(CORE_PX + 2 * margin, side) for side in (height, width)))
    needed = held * comfy.model_management.dtype_size(dtype)
    comfy.model_management.load_models_gpu([model], memory_required=needed)
    device = comfy.model_management.intermediate_device()
    made = torch.empty(len(planes), 3, config.scale * height, config.scale * width, device=device)
    for index in range(len(planes)):
        for top in range(0, height, CORE_PX):
            comfy.model_management.throw_exception_if_processing_interrupted()
            for left in range(0, width, CORE_PX):
                rows = slice(max(0, top - margin), top + CORE_PX + margin)
                columns = slice(max(0, left - margin), left + CORE_PX + margin)
                piece = planes[index : index + 1, :, rows, columns]
                restored = network(piece.to(model.load_device, dtype))
                core = restored[
                    ...,
                    config.scale * (top - rows.start) :,
                    config.scale * (left - columns.start) :,
                ]
                bottom, right = min(height, top + CORE_PX), min(width, left + CORE_PX)
                target = made[
                    index : index + 1,
                    :,
                    config.scale * top : config.scale * bottom,
                    config.scale * left : config.scale * right,
                ]
                target.copy_(core[..., : target.shape[-2], : target.shape[-1]])
    return made.clamp_(0, 1)
