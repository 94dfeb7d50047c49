"""Files with random weights: a ResShift UNet and a VQ autoencoder, of released or of tiny size."""

from __future__ import annotations

import math
from pathlib import Path

import comfy.ops
import torch
from safetensors.torch import save_file
from torch import nn

from ..model_loaders.networks.swin_unet import SwinUNet, SwinUNetConfig
from ..model_loaders.networks.vq import VQAutoencoder, VQConfig
from ..model_loaders.weight_names import key_in_files

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PRESET = "realsr x4, 4 steps (v3)"
UNET_FILE = "unet.safetensors"
VQ_FILE = "vq.safetensors"

RELEASED_UNET = SwinUNetConfig(latent_channels=3)
RELEASED_VQ = VQConfig(3, 8192, 3, 128, (1, 2, 4), (2, 2, 2))
TINY_UNET = SwinUNetConfig(
    latent_channels=3, model_channels=32, channel_mult=(1, 2), num_res_blocks=(1, 1),
    attention_levels=(True, True), swin_embed_dim=32, num_heads=2,
)  # fmt: skip
TINY_VQ = VQConfig(3, 64, 3, 32, (1, 1, 1), (1, 1, 1))


def write_checkpoints(folder: Path, *, tiny: bool) -> None:
    """Write a UNet and an autoencoder with random weights, of released or of tiny size."""
    operations = comfy.ops.disable_weight_init
    unet = SwinUNet(TINY_UNET if tiny else RELEASED_UNET, operations=operations)
    save_file(random_weights(unet), folder / UNET_FILE)
    vq = VQAutoencoder(TINY_VQ if tiny else RELEASED_VQ, operations=operations)
    save_file(random_weights(vq), folder / VQ_FILE)


def random_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return weights of a file that keep activations near unit size, so no number is denormal."""
    weights = {key_in_files(key): weight for key, weight in network.state_dict().items()}
    for key, weight in weights.items():
        if weight.ndim == 1:
            weight.fill_(1.0 if key.endswith(".weight") else 0.0)
        else:
            weight.normal_(0, 1 / math.sqrt(weight[0].numel()))
    return weights
