"""Small random stand-ins for the released files, under their names and with their layouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from pack.model_loaders.networks.swin_unet import SwinUNetConfig
from pack.model_loaders.networks.vq import VQConfig
from pack.tests.support.tiny import TINY_UNET, TINY_VQ, random_unet_weights, random_vq_weights

# Four levels and a nominal size of 64, as released, at the least width.
_RELEASED_UNET = replace(
    TINY_UNET,
    channel_mult=(1, 1, 1, 1),
    num_res_blocks=(1, 1, 1, 1),
    attention_levels=(True, True, True, True),
    window_size=8,
    image_size=64,
)
_RELEASED_UNETS = {
    "resshift_realsrx4_s4_v3.pth": _RELEASED_UNET,
    "resshift_inpainting_imagenet_s4.pth": replace(
        _RELEASED_UNET, condition_stages=2, cond_mask=True
    ),
    "resshift_faceir_s4.pth": replace(_RELEASED_UNET, latent_channels=8, condition_stages=3),
    "SinSR_v2.pth": _RELEASED_UNET,
    "own_deblurring.pth": replace(_RELEASED_UNET, condition_stages=2),
}
_RELEASED_VQS = {
    "autoencoder_vq_f4.pth": TINY_VQ,
    "ffhq512_vq_f8_dim8_face.pth": replace(
        TINY_VQ,
        embed_dim=8,
        z_channels=8,
        channel_mult=(1, 1, 1, 1),
        num_res_blocks=(1, 2, 3, 4),
    ),
}


def write_full_size_student(models: Path) -> None:
    """Write a student of RSD and VQ f4 in fp16, at their released size, all random."""
    student = random_unet_weights(SwinUNetConfig(latent_channels=3, noise_channels=1))
    vq = random_vq_weights(VQConfig(3, 8192, 3, 128, (1, 2, 4), (2, 2, 2)))
    for folder in ("diffusion_models", "vae"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    path = models / "diffusion_models" / "rsd_student_12k.safetensors"
    header = {"noise_mode": "concat", "noise_channels": "1"}
    save_file({key: tensor.half() for key, tensor in student.items()}, path, metadata=header)
    torch.save(vq, models / "vae" / "autoencoder_vq_f4.pth")


def write_released_files(models: Path) -> None:
    """Write the files that the shipped workflows name into a models folder."""
    for folder, weights in (
        ("diffusion_models", {n: random_unet_weights(c) for n, c in _RELEASED_UNETS.items()}),
        ("vae", {n: random_vq_weights(c) for n, c in _RELEASED_VQS.items()}),
    ):
        (models / folder).mkdir(parents=True, exist_ok=True)
        for name, tensors in weights.items():
            torch.save({"state_dict": tensors}, models / folder / name)
