"""What the keys and shapes of a checkpoint say about its network."""

from __future__ import annotations

import math
import re
from pathlib import Path

from torch import Tensor

from .checkpoint import (
    RESSHIFT_LOADER,
    VQ_LOADER,
    UnsupportedCheckpointError,
    not_the_network,
)
from .networks.compact import CompactConfig
from .networks.rrdb import RRDBConfig
from .networks.swin_unet import CONDITION_BASE_CHANNELS, SwinUNetConfig
from .networks.vq import VQConfig
from .weight_names import TABLE_IN_FILES, key_in_network

BUFFER_SUFFIXES = (".relative_position_index", ".attn_mask")


MIDDLE_SWIN = "middle_block.1."
BIAS_TABLE = f"{MIDDLE_SWIN}blocks.0.attn.{TABLE_IN_FILES}"
HIDDEN_LAYER = f"{MIDDLE_SWIN}blocks.0.mlp.fc1.weight"
# Tensors by which ResShift's UNet is known.
SWIN_UNET_KEYS = (
    "input_blocks.0.0.weight",
    "time_embed.0.weight",
    "out.2.weight",
    f"{MIDDLE_SWIN}patch_embed.proj.weight",
    BIAS_TABLE,
    HIDDEN_LAYER,
)

START_PREFIX = "start."
COLOURS = 3
# Tensors by which a start of dense blocks is known; others enlarge by another factor.
RRDB_KEYS = (
    "conv_first.weight",
    "body.0.rdb1.conv1.weight",
    "conv_up1.weight",
    "conv_up2.weight",
)


def check_swin_unet(state_dict: dict[str, Tensor], path: Path) -> None:
    """Make sure that a checkpoint is of ResShift's UNet.

    Args:
        state_dict: The checkpoint; only keys are read.
        path: Its file, for the message.
    Raises:
        UnsupportedCheckpointError: If it is another network.
    """
    missing = [key for key in SWIN_UNET_KEYS if key not in state_dict]
    if missing:
        raise not_the_network(state_dict, path, "a ResShift model", RESSHIFT_LOADER, missing)


def detect_swin_unet(
    state_dict: dict[str, Tensor],
    path: Path,
    *,
    image_size: int = 64,
    noise_channels: int = 0,
) -> SwinUNetConfig:
    """Return the configuration of ResShift's UNet.

    Args:
        state_dict: The checkpoint; only keys and shapes are read.
        path: Its file, for the message.
        image_size: Side of the latent it was trained at, used where the file has no attention
            masks to tell it.
        noise_channels: Channels of noise among the first convolution's, which look like a mask's.
    Raises:
        UnsupportedCheckpointError: If it is another network, or has no such channels of noise.

    Source: spec of the released checkpoints; `tests/golden/resshift/manifests`.
    """
    check_swin_unet(state_dict, path)
    shapes = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}
    model_channels = shapes["time_embed.0.weight"][1]
    levels = _walk_levels(shapes)
    if not levels or model_channels == 0:
        raise UnsupportedCheckpointError(path, "has no levels that a ResShift model has")
    latent_channels = shapes["out.2.weight"][0]
    stages = sum(bool(re.fullmatch(r"feature_extractor\.\d+\.op\.weight", key)) for key in shapes)
    beside = shapes["input_blocks.0.0.weight"][1] - latent_channels  # what is not the state
    if stages:
        condition_channels = shapes.get("feature_extractor.0.weight", (0, 3))[1]
        seen = CONDITION_BASE_CHANNELS * 2**stages
    else:
        condition_channels = seen = beside - noise_channels
    if noise_channels and (condition_channels < 3 or beside - seen < noise_channels):
        raise UnsupportedCheckpointError(
            path,
            f"has a first convolution of {beside + latent_channels} channels, none of them of noise;"
            " choose another preset than RSD's, whose networks see noise",
        )
    if beside - seen == noise_channels + 1:
        raise UnsupportedCheckpointError(
            path,
            f"has a first convolution of {beside + latent_channels} channels, one more than the"
            " preset's: noise, as students of RSD see. Choose a preset of RSD",
        )

    tables = [shape for key, shape in shapes.items() if key.endswith(f".{TABLE_IN_FILES}")]
    window_size = max(_window_of(shape) for shape in tables)
    embed_dim = shapes[f"{MIDDLE_SWIN}patch_embed.proj.weight"][0]
    first = levels[0][0]
    first_block = f"input_blocks.{first}.0."
    return SwinUNetConfig(
        latent_channels=latent_channels,
        model_channels=model_channels,
        channel_mult=tuple(
            shapes.get(f"input_blocks.{blocks[0]}.0.out_layers.0.weight", (0,))[0] // model_channels
            for blocks in levels
        ),
        num_res_blocks=tuple(len(blocks) for blocks in levels),
        attention_levels=tuple(
            f"input_blocks.{blocks[0]}.1.patch_embed.proj.weight" in shapes for blocks in levels
        ),
        swin_embed_dim=embed_dim,
        num_heads=shapes[BIAS_TABLE][1],
        swin_depth=len(
            {
                match[1]
                for key in shapes
                if (match := re.match(rf"{re.escape(MIDDLE_SWIN)}blocks\.(\d+)\.", key))
            }
        ),
        window_size=window_size,
        mlp_ratio=shapes[HIDDEN_LAYER][0] / embed_dim,
        image_size=_image_size(shapes, levels, window_size) or image_size,
        condition_stages=stages,
        cond_mask=condition_channels == 4,
        cond_start=condition_channels == 3 + latent_channels,
        noise_channels=noise_channels,
        start=detect_start(shapes, path),
        use_scale_shift_norm=shapes.get(f"{first_block}emb_layers.1.weight", (0,))[0]
        == 2 * shapes.get(f"{first_block}out_layers.0.weight", (0,))[0],
        patch_norm=f"{MIDDLE_SWIN}patch_embed.norm.weight" in shapes,
    )


def detect_vq(state_dict: dict[str, Tensor], path: Path) -> VQConfig:
    """Return the configuration of a VQ autoencoder.

    Args:
        state_dict: The checkpoint; only keys and shapes are read.
        path: Its file, for the message.
    Raises:
        UnsupportedCheckpointError: If it is another network.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}
    telling = (
        "quantize.embedding.weight",
        "encoder.conv_in.weight",
        "encoder.conv_out.weight",
        "quant_conv.weight",
    )
    missing = [key for key in telling if key not in shapes]
    if missing:
        raise not_the_network(state_dict, path, "a VQ autoencoder", VQ_LOADER, missing)
    codes, embed_dim = shapes["quantize.embedding.weight"]
    width = shapes["encoder.conv_in.weight"][0]
    mults, blocks = [], []
    while (first := f"encoder.down.{len(mults)}.block.0.conv1.weight") in shapes:
        level = len(mults)
        mults.append(shapes[first][0] // width)
        blocks.append(
            sum(
                bool(re.fullmatch(rf"encoder\.down\.{level}\.block\.\d+\.conv1\.weight", key))
                for key in shapes
            )
        )
    if not mults:
        raise UnsupportedCheckpointError(path, "is not a VQ autoencoder; it has no encoder levels")
    return VQConfig(
        embed_dim=embed_dim,
        num_codes=codes,
        z_channels=shapes["encoder.conv_out.weight"][0],
        width=width,
        channel_mult=tuple(mults),
        num_res_blocks=tuple(blocks),
    )


def swin_unet_weights(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a file under their names in the network.

    The tables that the network computes itself are left out.
    """
    return {
        key_in_network(key): tensor
        for key, tensor in state_dict.items()
        if not key.endswith(BUFFER_SUFFIXES)
    }


def detect_start(
    shapes: dict[str, tuple[int, ...]], path: Path
) -> CompactConfig | RRDBConfig | None:
    """Return the configuration of the network whose picture a model's chains start around.

    Args:
        shapes: Shapes of the checkpoint's tensors by key; the network's begin with `start.`.
        path: Its file, for the message.
    Raises:
        UnsupportedCheckpointError: If it is a network that is not known.
    """
    own = {
        key.removeprefix(START_PREFIX): shape
        for key, shape in shapes.items()
        if key.startswith(START_PREFIX)
    }
    if not own:
        return None
    if any(re.fullmatch(r"body\.\d+\.rdb\d\..*|conv_.*", key) for key in own):
        return _detect_rrdb(own, path)
    return _detect_compact(own, path)


def _detect_rrdb(own: dict[str, tuple[int, ...]], path: Path) -> RRDBConfig:
    missing = [START_PREFIX + key for key in RRDB_KEYS if key not in own]
    found = ""
    if missing:
        found = f"without {', '.join(missing)}"
    elif "conv_up3.weight" in own:
        found = "with a conv_up3"
    elif own["conv_first.weight"][1] != COLOURS:
        found = "for a folded image"
    if found:
        raise UnsupportedCheckpointError(
            path,
            f"has an RRDBNet for its start {found}; only those that enlarge by 4, with conv_up1 and"
            " conv_up2, are known. Choose another file, or download it again if it is damaged",
            [START_PREFIX + key for key in own],
        )
    blocks = {match[1] for key in own if (match := re.match(r"body\.(\d+)\.", key))}
    first, added = own["conv_first.weight"], own["body.0.rdb1.conv1.weight"]
    return RRDBConfig(features=first[0], growth=added[0], blocks=len(blocks))


def _detect_compact(own: dict[str, tuple[int, ...]], path: Path) -> CompactConfig:
    convolutions = {
        int(match[1]): shape
        for key, shape in own.items()
        if (match := re.fullmatch(r"body\.(\d+)\.weight", key)) and len(shape) == 4
    }
    outputs = convolutions[max(convolutions)][0] if convolutions else 0
    scale = math.isqrt(outputs // 3)
    if len(convolutions) < 3 or 0 not in convolutions or not 0 < 3 * scale**2 == outputs:
        raise UnsupportedCheckpointError(
            path,
            "has a network for its start that is neither an RRDBNet nor a compact one of"
            " Real-ESRGAN; choose another file, or download it again if it is damaged",
            [START_PREFIX + key for key in own],
        )
    return CompactConfig(convolutions[0][0], len(convolutions) - 2, scale)


def _walk_levels(shapes: dict[str, tuple[int, ...]]) -> list[list[int]]:
    levels: list[list[int]] = [[]]
    block = 1
    while True:
        if f"input_blocks.{block}.0.op.weight" in shapes:
            levels.append([])
        elif f"input_blocks.{block}.0.in_layers.2.weight" in shapes:
            levels[-1].append(block)
        else:
            return levels if all(levels) else []
        block += 1


def _window_of(table_shape: tuple[int, ...]) -> int:
    return (math.isqrt(table_shape[0]) + 1) // 2


def _image_size(
    shapes: dict[str, tuple[int, ...]], levels: list[list[int]], window_size: int
) -> int | None:
    for level, blocks in enumerate(levels):
        mask = shapes.get(f"input_blocks.{blocks[0]}.1.blocks.1.attn_mask")
        if mask is not None:
            return math.isqrt(mask[0]) * window_size * 2**level
    return None
