"""The precision that a device computes fastest in."""

from __future__ import annotations

import torch

from ..model_loaders.resshift import cpu_has_bf16_units


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where `device` is fast in it, else float32."""
    has_units = device.type != "cpu" or cpu_has_bf16_units()
    return torch.bfloat16 if has_units else torch.float32


def mixed_precision(device: torch.device) -> torch.autocast:
    """Return the context in which networks compute in `fast_dtype`."""
    dtype = fast_dtype(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype != torch.float32)
