"""How much memory is free, what fits into it, and whether it has run out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import torch

from ..images.padding import multiple_above

# ComfyUI joins the branches of a step where so many times the estimate is free.
MARGIN = 1.5


# What allocators say that have no exception of their own: Apple's, DirectML's, the CPU's.
OUT_OF_MEMORY_TEXTS = (
    "mps backend out of memory",
    "not enough gpu video memory",
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch says that memory has run out."""
    management = comfy.model_management
    if any(text in str(error).lower() for text in OUT_OF_MEMORY_TEXTS):
        return True
    if hasattr(management, "is_oom"):  # newer ComfyUI knows more signs of it
        return management.is_oom(error)
    return isinstance(error, management.OOM_EXCEPTION)


def room_beside(*patchers: Any) -> float:
    """Return the bytes on a device that networks leave to their maps once they are loaded.

    ComfyUI moves other networks away for them, so what those hold counts as free.

    Args:
        patchers: What a call needs at once; the first one's device is meant.
    """
    device = patchers[0].load_device
    needed = {id(patcher.model): patcher for patcher in patchers if patcher.load_device == device}
    weights = sum(
        patcher.model_size() - (0 if _can_leave(patcher, device) else patcher.loaded_size())
        for patcher in needed.values()
    )
    return room_for(weights, device)


def room_for(weights: float, device: torch.device) -> float:
    """Return the bytes on a device that weights of a size leave once ComfyUI has made room."""
    free: Any = comfy.model_management.get_free_memory(device)
    if comfy.model_management.is_device_cpu(device):
        return free  # the weights are in the memory that is counted
    loaded = [patcher for patcher in comfy.model_management.loaded_models() if patcher is not None]
    return (
        free
        - weights
        + sum(patcher.loaded_size() for patcher in loaded if _can_leave(patcher, device))
    )


def _can_leave(patcher: Any, device: torch.device) -> bool:
    """Return whether a network on a device gives its memory back when ComfyUI unloads it."""
    if comfy.model_management.is_device_mps(device):
        return False  # it shares its memory with the CPU
    return patcher.load_device == device != patcher.offload_device


def largest_side(needed: Callable[[int], float], room: float, longest: int, multiple: int) -> int:
    """Return the side of the largest tile that fits into memory.

    Args:
        needed: Estimated bytes of a tile of a side.
        room: Free bytes.
        longest: Longer side of the picture; no tile is larger than what covers it.
        multiple: What sides are multiples of, and the least side, whether or not it fits.
    """
    side = multiple_above(longest, multiple)
    while side > multiple and MARGIN * needed(side) > room:
        side -= multiple
    return side
