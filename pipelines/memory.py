"""How much memory is free, what fits into it, and whether it has run out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management

# ComfyUI joins the branches of a step where so many times the estimate is free.
MARGIN = 1.5


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch says that memory has run out."""
    if hasattr(comfy.model_management, "is_oom"):  # newer ComfyUI knows more signs of it
        return comfy.model_management.is_oom(error)
    return isinstance(error, comfy.model_management.OOM_EXCEPTION)


def room_beside(patcher: Any) -> float:
    """Return the bytes that are free on a network's device once its weights are there."""
    free: Any = comfy.model_management.get_free_memory(patcher.load_device)
    if comfy.model_management.is_device_cpu(patcher.load_device):
        return free  # the weights are in the memory that is counted
    return free - max(0, patcher.model_size() - patcher.loaded_size())


def largest_side(needed: Callable[[int], float], room: float, longest: int, multiple: int) -> int:
    """Return the side of the largest tile that fits into memory.

    Args:
        needed: Estimated bytes of a tile of a side.
        room: Free bytes.
        longest: Longer side of the picture; no tile is larger than what covers it.
        multiple: What sides are multiples of, and the least side, whether or not it fits.
    """
    side = -(-longest // multiple) * multiple
    while side > multiple and MARGIN * needed(side) > room:
        side -= multiple
    return side
