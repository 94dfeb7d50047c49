"""Padding of images and latents to the sizes that networks need."""

from __future__ import annotations

import torch
from torch import Tensor


def multiple_above(length: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least `length`."""
    return -(-length // multiple) * multiple


def reflect_pad_to(x: Tensor, height: int, width: int) -> Tensor:
    """Return `x` grown on the right and at the bottom by reflection.

    The reflection goes back and forth as often as needed, so any side from one element up can be
    padded to any size; where one reflection is enough the result is that of
    `torch.nn.functional.pad(mode="reflect")`.

    Args:
        x: `(..., H, W)`, any dtype and device.
        height: New height, at least H.
        width: New width, at least W.
    Returns:
        `(..., height, width)`, `x` itself where the size already fits.
    """
    if x.shape[-2] != height:
        x = x.index_select(-2, _reflected_indices(x.shape[-2], height, x.device))
    if x.shape[-1] != width:
        x = x.index_select(-1, _reflected_indices(x.shape[-1], width, x.device))
    return x


def reflect_pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Return `x` padded by `reflect_pad_to` to multiples of `multiple` along both sides."""
    height, width = x.shape[-2:]
    return reflect_pad_to(x, multiple_above(height, multiple), multiple_above(width, multiple))


def _reflected_indices(length: int, size: int, device: torch.device) -> Tensor:
    positions = torch.arange(size, device=device)
    if length == 1:
        return torch.zeros_like(positions)
    period = 2 * (length - 1)
    positions = positions % period
    return torch.minimum(positions, period - positions)
