"""Watches over tensor operations: what a device would have to wait for, and what it cannot hold."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PACK_ROOT = Path(__file__).resolve().parents[2]
# What reads a tensor's values on the host, and so waits for the device.
HOST_READS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.is_nonzero.default,
)


class HostReads(TorchDispatchMode):
    """Counts by line of the pack how often the host looks into a tensor.

    A look from ComfyUI's own code, or a test's, is not counted.

    Attributes:
        lines: Looks by "file:line" inside the pack.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in HOST_READS:
            place = _place_in_pack(sys._getframe(1))
            if place is not None:
                self.lines[place] = self.lines.get(place, 0) + 1
        return func(*args, **(kwargs or {}))


class NoFloat64OnDevice(TorchDispatchMode):
    """Fails where float64 meets a shorter type, as on a device it would.

    Apple's GPUs have no float64, so what is computed in it on the CPU must be rounded before it
    meets a latent. Tests run on the CPU, where the two may be mixed: this forbids it.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
        if torch.float64 in dtypes and len(dtypes) > 1 and func is not torch.ops.aten.copy_.default:
            place = _place_in_pack(sys._getframe(1)) or "outside of the pack"
            raise AssertionError(f"{func} mixes {dtypes} at {place}")
        return func(*args, **(kwargs or {}))


def _place_in_pack(frame: FrameType | None) -> str | None:
    """Return the innermost line that is the pack's or ComfyUI's, or None if it is ComfyUI's."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACK_ROOT):
            relative = path.relative_to(PACK_ROOT)
            if relative.parts[0] == "tests":
                if path != Path(__file__):
                    return None
            elif relative.parts[0] not in (".venv", ".comfyui"):
                return f"{relative}:{frame.f_lineno}"
        # ComfyUI may lie within the pack's folder, where dev.py puts it.
        if "comfy" in path.parts or "comfy_extras" in path.parts:
            return None
        frame = frame.f_back
    return None
