"""ComfyUI's model patchers around our networks, and how ComfyUI makes fresh ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import torch


def wrap_network(
    network: torch.nn.Module,
    load_device: torch.device,
    offload_device: torch.device,
    *,
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """Return a network in ComfyUI's care.

    Args:
        network: The network.
        load_device: Where it runs.
        offload_device: Where it waits.
        disable_dynamic: Whether its weights must stay once loaded, also where ComfyUI's memory is
            dynamic: to compile it, to train it, and for hooks.
    """
    # Looked up here and not imported: ComfyUI replaces the class where memory is dynamic.
    dynamic, plain = comfy.model_patcher.CoreModelPatcher, comfy.model_patcher.ModelPatcher
    return (plain if disable_dynamic else dynamic)(
        network, load_device=load_device, offload_device=offload_device
    )


def remember_loader(
    patcher: Any, loader: Callable[..., comfy.model_patcher.ModelPatcher], *arguments: Any
) -> None:
    """Let ComfyUI load the same network anew: for another device, for training, to compile it.

    Args:
        patcher: The patcher that ComfyUI will make clones of.
        loader: Returns a fresh one; also takes `disable_dynamic` by name.
        arguments: What it is called with.
    """
    patcher.cached_patcher_init = (loader, arguments)
