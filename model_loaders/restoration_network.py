"""Loading of the networks that clean an image before diffusion, through spandrel."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import spandrel
import torch
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel
from torch import Tensor

from .checkpoint import (
    RESTORATION_LOADER,
    UPSCALE_LOADER,
    UnsupportedCheckpointError,
    describe_file,
    read_checkpoint,
    refuses_broken_weights,
    without_holders,
)
from .patcher import remember_loader, wrap_network

logger = logging.getLogger("resshift-diffbir")

# Nodes that load what this module loads.
OWN_LOADERS = (UPSCALE_LOADER, RESTORATION_LOADER)


def load_restoration_network(
    path: Path, *, disable_dynamic: bool = False
) -> spandrel.ImageModelDescriptor:
    """Return a network from images to images as an UPSCALE_MODEL.

    ComfyUI's own Upscale Image (using Model) takes it as well.

    Args:
        path: SwinIR, BSRNet, SCUNet or another network that spandrel knows, in any storage dtype;
            also a full DiffBIR v1 checkpoint, of which the SwinIR is taken.
        disable_dynamic: See `wrap_network`.
    Returns:
        The network in float32 and in evaluation mode, offloaded.
    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged.
        UnsupportedCheckpointError: If spandrel does not know it, or it is no network from RGB
            images to RGB images.
    """
    # Keys of some networks here begin like the prefixes that trainers add.
    checkpoint = read_checkpoint(path, inner_prefix="preprocess_model.", holder_prefixes=())
    try:
        with refuses_broken_weights(checkpoint, "a restoration network"):
            network = _build_network(checkpoint.state_dict)
    except spandrel.UnsupportedModelError as error:
        look = describe_file(checkpoint.state_dict)
        text = look.text
        if look.loader in OWN_LOADERS:
            text = "has layers of an upscale network of a kind that it does not know"
        raise UnsupportedCheckpointError(
            path,
            f"is not a network that spandrel {spandrel.__version__} knows; it {text}",
            look.keys,
        ) from error
    except UnsupportedCheckpointError as error:
        look = describe_file(checkpoint.state_dict)
        if look.loader in ("", *OWN_LOADERS):
            raise
        # spandrel takes the keys of some other files for those of its networks.
        raise UnsupportedCheckpointError(
            path, f"is not a restoration network; it {look.text}", look.keys
        ) from error
    if not isinstance(network, spandrel.ImageModelDescriptor):
        raise UnsupportedCheckpointError(
            path,
            f"is a network for inpainting ({network.architecture.name}), which needs a mask; choose"
            " one that takes an image alone",
        )
    if (network.input_channels, network.output_channels) != (3, 3):
        raise UnsupportedCheckpointError(
            path,
            f"takes {network.input_channels} channels and gives {network.output_channels}; choose a"
            " network for RGB images",
        )
    network.eval()
    network.model.requires_grad_(False)
    if stock_node_uses_patcher():
        patcher = wrap_network(
            network.model,
            comfy.model_management.get_torch_device(),
            comfy.model_management.unet_offload_device(),
            disable_dynamic=disable_dynamic,
        )
        remember_loader(patcher, _network_patcher, path)
        network.patcher = patcher  # pyright: ignore[reportAttributeAccessIssue]
    logger.info("'%s': %s x%d", path.name, network.architecture.name, network.scale)
    return network


def _network_patcher(
    path: Path, *, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    network = load_restoration_network(path, disable_dynamic=disable_dynamic)
    return network.patcher  # pyright: ignore[reportAttributeAccessIssue]


def _build_network(state_dict: dict[str, Tensor]) -> Any:
    try:
        return spandrel.ModelLoader().load_from_state_dict(state_dict)
    except spandrel.UnsupportedModelError:
        opened = without_holders(state_dict)
        if opened.keys() == state_dict.keys():
            raise
        return spandrel.ModelLoader().load_from_state_dict(opened)


def stock_node_uses_patcher() -> bool:
    """Return whether this ComfyUI moves an UPSCALE_MODEL to the device through its `patcher`.

    Older ones move the network themselves, which a patcher would not notice.
    """
    try:
        ImageUpscaleWithModel.execute(_Asked(), torch.zeros(1, 1, 1, 3))
    except _AskedForError as asked:
        return asked.name == "patcher"
    raise RuntimeError("ComfyUI's Upscale Image (using Model) asked nothing of the model")


class _AskedForError(Exception):
    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


class _Asked:
    """Stands for an UPSCALE_MODEL and tells what is asked of it first."""

    def __getattr__(self, name: str) -> Any:
        raise _AskedForError(name)
