"""Small ResShift models, autoencoders and pictures with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pack.model_loaders.networks.compact import CompactConfig
from pack.model_loaders.networks.rrdb import RRDBConfig
from pack.model_loaders.networks.swin_unet import SwinUNet, SwinUNetConfig
from pack.model_loaders.networks.vq import VQAutoencoder, VQConfig
from pack.model_loaders.record import ResShiftRecord
from pack.model_loaders.weight_names import key_in_files, key_in_network
from pack.tests.support.golden import golden_case, golden_weights

BUFFERS = ("attn_mask", "relative_position_index")
OPERATIONS = comfy.ops.disable_weight_init

# The least that has two levels, a shifted window and a window as large as its level.
TINY_UNET = SwinUNetConfig(
    latent_channels=3,
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    attention_levels=(True, True),
    swin_embed_dim=32,
    num_heads=2,
    window_size=4,
    mlp_ratio=2.0,
    image_size=8,
)
TINY_VQ = VQConfig(
    embed_dim=3,
    num_codes=32,
    z_channels=3,
    width=32,
    channel_mult=(1, 1, 1),
    num_res_blocks=(1, 1, 1),
)
TINY_RECORD = ResShiftRecord("super-resolution", 4, 4, 0.2, "tiny_vq.safetensors", image_size=8)

FOLDED_UNET = replace(TINY_UNET, latent_channels=48)
FOLDED_RECORD = replace(TINY_RECORD, predict_type="residual", autoencoder="bundled")
# As the bundled one: it starts around the picture of a network in its own file.
STARTED_UNET = replace(
    FOLDED_UNET, cond_start=True, start=CompactConfig(features=8, convolutions=2, scale=4)
)
# The same with a start of dense blocks.
DENSELY_STARTED_UNET = replace(STARTED_UNET, start=RRDBConfig(features=8, growth=4, blocks=2))
INPAINT_UNET = replace(TINY_UNET, condition_stages=2, cond_mask=True)
INPAINT_RECORD = replace(TINY_RECORD, task="inpainting", scale=1)


def tensor_shapes(module: nn.Module) -> list[tuple[str, list[int]]]:
    """Return key and shape of every tensor of a network."""
    return [(key, list(tensor.shape)) for key, tensor in module.state_dict().items()]


def shapes_in_files(module: nn.Module) -> list[tuple[str, list[int]]]:
    """Return name in files and shape of every tensor of a network with Swin layers."""
    return [(key_in_files(key), shape) for key, shape in tensor_shapes(module)]


def in_network(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of a file by their names in the network."""
    return {key_in_network(key): weight for key, weight in weights.items()}


def random_unet_weights(config: SwinUNetConfig = TINY_UNET, seed: int = 1) -> dict[str, Tensor]:
    """Return random weights for a UNet by their names in files, drawn by the golden rule."""
    network = SwinUNet(config, device=torch.device("meta"), operations=OPERATIONS)
    return golden_weights(shapes_in_files(network), seed)


def random_vq_weights(config: VQConfig = TINY_VQ, seed: int = 2) -> dict[str, Tensor]:
    """Return random weights for an autoencoder, drawn by the golden rule."""
    with torch.device("meta"):
        shapes = tensor_shapes(VQAutoencoder(config, operations=OPERATIONS))
    return golden_weights(shapes, seed)


def save_unet(
    folder: Path,
    config: SwinUNetConfig = TINY_UNET,
    record: ResShiftRecord = TINY_RECORD,
    seed: int = 1,
) -> Path:
    """Return a safetensors file with a random UNet and its record.

    Where ComfyUI is told to hold weights in fp8, they are numbers of fp8 already: with dynamic memory
    it leaves small ones in the file's type, and the results could not be compared.
    """
    path = folder / "tiny_unet.safetensors"
    held = comfy.model_management.unet_dtype(supported_dtypes=[torch.float32])
    weights = random_unet_weights(config, seed).items()
    save_file(
        {key: weight.to(held).float() for key, weight in weights},
        path,
        metadata={"resshift_config": record.to_json()},
    )
    return path


def save_vq(folder: Path, config: VQConfig = TINY_VQ, seed: int = 2) -> Path:
    """Return a safetensors file with a random autoencoder."""
    path = folder / "tiny_vq.safetensors"
    save_file(random_vq_weights(config, seed), path)
    return path


def build_unet(config: SwinUNetConfig, weights: dict[str, Tensor]) -> SwinUNet:
    """Return a UNet with these weights of a file."""
    network = SwinUNet(config, operations=OPERATIONS)
    network.load_state_dict(in_network(weights))
    return network.eval().requires_grad_(False)


def golden_unet_config(values: dict[str, Any]) -> SwinUNetConfig:
    """Return the configuration that a golden case gives in the reference's terms."""
    levels = len(values["channel_mult"])
    blocks = values["num_res_blocks"]
    ratio = values["lq_size"] // values["image_size"]
    return SwinUNetConfig(
        latent_channels=values["in_channels"],
        model_channels=values["model_channels"],
        channel_mult=tuple(values["channel_mult"]),
        num_res_blocks=tuple(blocks) if isinstance(blocks, list) else (blocks,) * levels,
        attention_levels=tuple(
            values["image_size"] // 2**level in values["attention_resolutions"]
            for level in range(levels)
        ),
        swin_embed_dim=values["swin_embed_dim"],
        num_heads=values["swin_embed_dim"] // values["num_head_channels"],
        swin_depth=values["swin_depth"],
        window_size=values["window_size"],
        mlp_ratio=values["mlp_ratio"],
        image_size=values["image_size"],
        condition_stages=ratio.bit_length() - 1,
        cond_mask=values.get("cond_mask", False),
        use_scale_shift_norm=values["use_scale_shift_norm"],
        patch_norm=values["patch_norm"],
    )


def golden_unet_weights(case: str) -> dict[str, Tensor]:
    """Return the weights of the UNet of a golden case, without buffers."""
    description, _ = golden_case(case)
    keys = [(key, shape) for key, shape in description["keys"] if not key.endswith(BUFFERS)]
    return golden_weights(keys, description["weight_seed"])


def golden_unet(case: str) -> SwinUNet:
    """Return the UNet of a golden case."""
    description, _ = golden_case(case)
    return build_unet(golden_unet_config(description["config"]), golden_unet_weights(case))


def golden_vq_config(values: dict[str, Any]) -> VQConfig:
    """Return the configuration that a golden case gives in the reference's terms."""
    sizes = values["ddconfig"]
    blocks = sizes["num_res_blocks"]
    return VQConfig(
        embed_dim=values["embed_dim"],
        num_codes=values["n_embed"],
        z_channels=sizes["z_channels"],
        width=sizes["ch"],
        channel_mult=tuple(sizes["ch_mult"]),
        num_res_blocks=tuple(blocks)
        if isinstance(blocks, list)
        else (blocks,) * len(sizes["ch_mult"]),
    )


def golden_vq_weights(case: str) -> dict[str, Tensor]:
    """Return the weights of the autoencoder of a golden case."""
    description, _ = golden_case(case)
    return golden_weights(description["keys"], description["weight_seed"])


def golden_vq(case: str) -> VQAutoencoder:
    """Return the autoencoder of a golden case."""
    description, _ = golden_case(case)
    network = VQAutoencoder(golden_vq_config(description["config"]), operations=OPERATIONS)
    network.load_state_dict(golden_vq_weights(case))
    return network.eval().requires_grad_(False)


def picture(height: int, width: int, channels: int = 3, batch: int = 1, seed: int = 0) -> Tensor:
    """Return an IMAGE with soft shapes and some grain, `(batch, height, width, channels)`."""
    generator = np.random.default_rng(seed)
    rows = np.linspace(0, 1, height)[:, None, None]
    columns = np.linspace(0, 1, width)[None, :, None]
    frequencies, phases = generator.uniform(1, 7, (2, batch, 1, 1, channels))
    waves = np.sin(frequencies * rows + phases) * np.cos(phases * 3 * columns + frequencies)
    grain = 0.05 * generator.standard_normal((batch, height, width, channels))
    return torch.from_numpy(np.clip(0.5 + 0.4 * waves + grain, 0, 1)).float()
