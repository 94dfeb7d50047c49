"""Small random stand-ins for DiffBIR's released files, under their names and with their key names.

The UNet and the control branch keep SD 2.1's width and text context, by which ComfyUI tells the
kind of model, but have three levels of one block; the autoencoder is TAESD's, a real VAE to ComfyUI
that is quick on a CPU; the text encoder has its full size. The large tensors of a pickled file share one
storage, so that it stays small.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.ops
import comfy.taesd.taesd
import torch
from safetensors.torch import save_file
from torch import Tensor

LEVELS = 3
WIDTH = 320
CONTEXT = 1024
TEXT_LAYERS = 24
TEXT_TOKENS = 49408
UNET_CONFIG: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": WIDTH,
    "num_res_blocks": [1] * LEVELS,
    "channel_mult": [1] * LEVELS,
    "transformer_depth": [0, 0, 1],
    "transformer_depth_output": [0, 0, 0, 0, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": CONTEXT,
    "use_linear_in_transformer": True,
    "use_spatial_transformer": True,
    "num_head_channels": 64,
    "num_heads": -1,
    "legacy": False,
}


def write_diffbir_files(models: Path) -> None:
    """Write the checkpoints and control branches that the shipped workflows name."""
    for folder in ("checkpoints", "controlnet"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    source = _Source(seed=5)
    unet = _unet_shapes()
    checkpoint = {f"model.diffusion_model.{key}": source(key, s) for key, s in unet.items()}
    checkpoint |= {f"first_stage_model.{key}": t for key, t in _autoencoder().items()}
    checkpoint |= {
        f"cond_stage_model.model.{key}": source(key, shape) for key, shape in _text_shapes().items()
    }
    control = {key: source(key, shape) for key, shape in control_shapes(unet).items()}
    whole = {key: tensor.contiguous().clone() for key, tensor in checkpoint.items()}
    save_file(whole, models / "checkpoints" / "v2-1_512-ema-pruned.safetensors")
    pickled = models / "checkpoints" / "sd2.1-base-zsnr-laionaes5.ckpt"
    torch.save({"state_dict": checkpoint}, pickled)
    for name in ("v1_general.pth", "v1_face.pth", "v2.pth", "DiffBIR_v2.1.pt"):
        torch.save(control, models / "controlnet" / name)


def control_shapes(unet: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return key and shape of the tensors of an IRControlNet for a UNet of these."""
    shapes = {
        key: shape
        for key, shape in unet.items()
        if key.startswith(("time_embed.", "input_blocks.", "middle_block."))
    }
    first = shapes["input_blocks.0.0.weight"]
    shapes["input_blocks.0.0.weight"] = (first[0], 2 * first[1], *first[2:])
    blocks = 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("input_blocks."))
    for name in [f"zero_convs.{k}.0" for k in range(blocks)] + ["middle_block_out.0"]:
        shapes |= {f"{name}.weight": (WIDTH, WIDTH, 1, 1), f"{name}.bias": (WIDTH,)}
    return shapes


class _Source:
    """Makes tensors that share one random storage; norms are the identity."""

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self._values = (0.02 * torch.randn(2**23, generator=generator)).half()

    def __call__(self, key: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            return torch.full((1,), float(key.endswith("weight")), dtype=torch.half).expand(shape)
        if key == "token_embedding.weight":
            return self._values[: shape[1]].expand(shape)
        count = torch.Size(shape).numel()
        start = sum(key.encode()) * 977 % (len(self._values) - count)
        return self._values[start : start + count].view(shape)


def _unet_shapes() -> dict[str, tuple[int, ...]]:
    network = openaimodel.UNetModel(
        **UNET_CONFIG,
        dtype=torch.float16,
        device=torch.device("meta"),
        operations=comfy.ops.disable_weight_init,
    )
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _text_shapes() -> dict[str, tuple[int, ...]]:
    width = CONTEXT
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (TEXT_TOKENS, width),
        "positional_embedding": (77, width),
        "text_projection": (width, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    for k in range(TEXT_LAYERS):
        block = f"transformer.resblocks.{k}."
        shapes |= {block + f"ln_{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")}
        shapes |= {
            block + "attn.in_proj_weight": (3 * width, width),
            block + "attn.in_proj_bias": (3 * width,),
            block + "attn.out_proj.weight": (width, width),
            block + "attn.out_proj.bias": (width,),
            block + "mlp.c_fc.weight": (4 * width, width),
            block + "mlp.c_fc.bias": (4 * width,),
            block + "mlp.c_proj.weight": (width, 4 * width),
            block + "mlp.c_proj.bias": (width,),
        }
    return shapes


def _autoencoder() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(6)
    tensors = {}
    for key, tensor in comfy.taesd.taesd.TAESD(latent_channels=4).state_dict().items():
        spread = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.0
        tensors[key] = spread * torch.randn(tensor.shape, generator=generator)
    return tensors | {"vae_scale": torch.tensor(0.18215), "vae_shift": torch.tensor(0.0)}
