"""Loading of DiffBIR's control branch as ComfyUI's own ControlNet."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.latent_formats
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import TimestepEmbedSequential
from torch import Tensor

from .checkpoint import (
    CONTROL_LOADER,
    Checkpoint,
    UnsupportedCheckpointError,
    check_weights,
    not_the_network,
    read_checkpoint,
    refuses_broken_weights,
)
from .la_control import LAControl
from .patcher import remember_loader, wrap_network

logger = logging.getLogger("resshift-diffbir")

FIRST = "input_blocks.0.0"
HINT = "input_hint_block.0"
LATENT_CHANNELS = 4
SD2_HEAD_CHANNELS = 64


def load_la_control_net(
    path: Path, *, head_channels: int = SD2_HEAD_CHANNELS, disable_dynamic: bool = False
) -> LAControl:
    """Return a LAControlNet (IRControlNet) of DiffBIR as a CONTROL_NET.

    The released first convolution sees the noisy latent and the condition latent next to each
    other. A convolution over concatenated channels is the sum of two convolutions, and ComfyUI's
    ControlNet adds its hint branch right after its first convolution, so the weight is split and
    ComfyUI's class computes the rest.

    Args:
        path: A LAControlNet by itself or a full v1 checkpoint, in any storage dtype.
        head_channels: Width of an attention head, which the weights do not tell; that of SD 2.
        disable_dynamic: See `wrap_network`.
    Returns:
        A CONTROL_NET for the latents of SD 2.1. Its hint is an image of 8 times the latent's size
        with the VAE given, or with `latent_format` None a latent in the network's scale.
    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged.
        UnsupportedCheckpointError: If it is another kind of network.

    Source: Lin et al. 2024 (arXiv 2308.15070), IRControlNet.
    """
    checkpoint = read_checkpoint(path, inner_prefix="control_model.")
    _check_kind(checkpoint)
    with refuses_broken_weights(checkpoint, "a LAControlNet"):
        weights = split_first_convolution(checkpoint.state_dict)
        config = detect_control(checkpoint, weights, head_channels)
        layout = build_control_network(
            config.unet_config,
            dtype=torch.float32,
            device=torch.device("meta"),  # before a wrong shape asks for memory
            operations=comfy.ops.disable_weight_init,
        )
        check_weights(layout, checkpoint, weights)

    management = comfy.model_management
    load_device = management.get_torch_device()
    dtype = management.unet_dtype(
        model_params=-1,  # as ComfyUI's loader: a control net has no share of the memory planned
        supported_dtypes=list(config.supported_inference_dtypes),
        weight_dtype=comfy.utils.weight_dtype(weights),
    )
    cast_dtype = management.unet_manual_cast(dtype, load_device)
    network = build_control_network(
        config.unet_config,
        dtype=dtype,
        device=management.unet_offload_device(),
        operations=comfy.ops.pick_operations(dtype, cast_dtype),
    )
    network.load_state_dict(weights)
    logger.info("'%s': LAControlNet", path.name)
    control_net = LAControl(
        None,  # set below: ComfyUI would wrap it without knowing its loader
        compression_ratio=1,
        latent_format=comfy.latent_formats.SD15(),
        load_device=load_device,
        manual_cast_dtype=cast_dtype,
        extra_conds=[],
    )
    patcher = wrap_network(
        network, load_device, management.unet_offload_device(), disable_dynamic=disable_dynamic
    )
    remember_loader(patcher, _control_patcher, path, head_channels)
    control_net.control_model = network
    control_net.control_model_wrapped = patcher
    return control_net


def _control_patcher(
    path: Path, head_channels: int, *, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    made = load_la_control_net(path, head_channels=head_channels, disable_dynamic=disable_dynamic)
    return made.control_model_wrapped


def is_la_control_net(control_net: Any) -> bool:
    """Return whether a CONTROL_NET takes a condition latent of SD, as `load_la_control_net` makes."""
    hint_block = getattr(getattr(control_net, "control_model", None), "input_hint_block", None)
    return (
        isinstance(control_net, comfy.controlnet.ControlNet)
        and hint_block is not None
        and len(hint_block) == 1
        and hint_block[0].in_channels == LATENT_CHANNELS
    )


def text_width(control_net: Any) -> int:
    """Return how many values a token's embedding has for a LAControlNet."""
    layers = control_net.control_model.named_modules()
    return next(layer.in_features for name, layer in layers if name.endswith("attn2.to_k"))


def split_first_convolution(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with the first convolution split into ComfyUI's input and hint blocks.

    Args:
        state_dict: Weights under the released keys; `input_blocks.0.0.weight` is `(C, 8, 3, 3)`,
            channels of the noisy latent first.
    """
    joint = state_dict[f"{FIRST}.weight"]
    return {
        **state_dict,
        f"{FIRST}.weight": joint[:, :LATENT_CHANNELS].contiguous(),
        f"{HINT}.weight": joint[:, LATENT_CHANNELS:].contiguous(),
        f"{HINT}.bias": torch.zeros(joint.shape[0], dtype=joint.dtype, device=joint.device),
    }


def build_control_network(
    unet_config: dict[str, Any], *, dtype: torch.dtype, device: torch.device, operations: Any
) -> comfy.cldm.cldm.ControlNet:
    """Return ComfyUI's ControlNet with a single convolution of the condition latent as hint block.

    Args:
        unet_config: Configuration of the UNet as ComfyUI detects it.
        dtype: Dtype of the weights.
        device: Device of the weights.
        operations: Layers that ComfyUI builds networks from.
    """
    network = comfy.cldm.cldm.ControlNet(
        **{key: value for key, value in unet_config.items() if key != "out_channels"},
        hint_channels=LATENT_CHANNELS,
        dtype=dtype,
        device=device,
        operations=operations,
    )
    network.input_hint_block = TimestepEmbedSequential(
        operations.Conv2d(
            LATENT_CHANNELS, network.model_channels, 3, padding=1, dtype=dtype, device=device
        )
    )
    return network


def detect_control(
    checkpoint: Checkpoint, weights: dict[str, Tensor], head_channels: int = SD2_HEAD_CHANNELS
) -> comfy.supported_models.SD20:
    """Return ComfyUI's configuration of the network, made for SD 2.

    Args:
        checkpoint: Where the weights come from, for the message.
        weights: They, as `split_first_convolution` returns them; only keys and shapes are read.
        head_channels: See `load_la_control_net`.
    Raises:
        UnsupportedCheckpointError: If it is not built like SD 2's UNet.
    """
    try:
        detected: Any = comfy.model_detection.detect_unet_config(weights, "")
    except (KeyError, IndexError) as error:
        raise UnsupportedCheckpointError(
            checkpoint.path,
            f"lacks tensors of its blocks ({error}); download it again or choose another file",
        ) from error
    config = comfy.supported_models.SD20(detected)
    config.unet_config["num_head_channels"] = head_channels
    widths = [detected["model_channels"] * mult for mult in detected["channel_mult"]]
    fits = all(width > 0 and width % head_channels == 0 for width in widths)
    fits = fits and detected["transformer_depth_middle"] != 0
    if not detected["use_linear_in_transformer"] or not fits:
        raise UnsupportedCheckpointError(
            checkpoint.path,
            "is not built like the UNet of SD 2.1, which DiffBIR restores with; choose a file of"
            " DiffBIR",
            [f"levels of {widths} channels"],
        )
    return config


def _check_kind(checkpoint: Checkpoint) -> None:
    weights, path = checkpoint.state_dict, checkpoint.path
    telling = ("zero_convs.0.0.weight", "middle_block_out.0.weight")
    missing = [key for key in telling if key not in weights]
    if missing:
        raise not_the_network(weights, path, "a LAControlNet", CONTROL_LOADER, missing)
    hints = [key for key in weights if key.startswith("input_hint_block.")]
    if hints:
        raise UnsupportedCheckpointError(
            path,
            "is not a LAControlNet but an ordinary ControlNet, which takes a picture; load it with"
            " Load ControlNet Model",
            hints,
        )
    first = tuple(weights[f"{FIRST}.weight"].shape) if f"{FIRST}.weight" in weights else ()
    if len(first) != 4 or first[1] != 2 * LATENT_CHANNELS:
        raise UnsupportedCheckpointError(
            path,
            "is a control network of another kind: a LAControlNet takes 8 channels, the noisy"
            " latent and the condition; choose a file of DiffBIR",
            [f"{FIRST}.weight: {first or 'missing'}"],
        )
