"""The precision that a device computes fastest in."""

from __future__ import annotations

import torch


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where `device` is fast in it, else float32.

    A processor without AVX-512 works out a convolution in bfloat16 a hundred times slower than in
    float32.
    """
    if device.type != "cpu":
        return torch.bfloat16
    has_it = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if has_it else torch.float32


def mixed_precision(device: torch.device) -> torch.autocast:
    """Return the context in which networks compute in `fast_dtype`."""
    dtype = fast_dtype(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype != torch.float32)
