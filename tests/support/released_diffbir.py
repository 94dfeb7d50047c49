"""Small random stand-ins for DiffBIR's released files, under their names and with their key names.

`write_diffbir_files`: the UNet and the control branch keep SD 2.1's width and text context, by which ComfyUI tells the
kind of model, but have three levels of one block; the autoencoder is TAESD's, a real VAE to ComfyUI
that is quick on a CPU; the text encoder has its full size. The large tensors of a pickled file share one
storage, so that it stays small. `write_full_size_files`: everything has its released size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.ops
import comfy.taesd.taesd
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from safetensors.torch import save_file
from spandrel.architectures.SwinIR import SwinIR
from torch import Tensor

from pack.model_loaders.hypir import hypir_modules
from pack.tests.support.restoration import (
    golden_swinir,
    has_realesrgan,
    realesrgan_weights,
    tiny_esrgan,
    tiny_scunet,
)

LEVELS = 3
WIDTH = 320
CONTEXT = 1024
TEXT_LAYERS = 24
TEXT_TOKENS = 49408
SMALL_UNET: dict[str, Any] = {
    "num_res_blocks": [1] * LEVELS,
    "channel_mult": [1] * LEVELS,
    "transformer_depth": [0, 0, 1],
    "transformer_depth_output": [0, 0, 0, 0, 1, 1],
}
FULL_UNET: dict[str, Any] = {
    "num_res_blocks": [2] * 4,
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1] * 6 + [0] * 2,
    "transformer_depth_output": [1] * 9 + [0] * 3,
}
# Of a residual block, a downsampler and the first block.
LAST_CONVOLUTIONS = ("out_layers.3.weight", "op.weight", "weight")
AUTOENCODER = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def write_diffbir_files(models: Path) -> None:
    """Write the files that the shipped workflows name; RealESRGAN_x4plus is the published one."""
    for folder in ("checkpoints", "controlnet", "upscale_models", "loras"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    source = _Source(5, 2**23)
    unet = unet_shapes(SMALL_UNET)
    checkpoint = _fill("model.diffusion_model.", unet, source)
    checkpoint |= {f"first_stage_model.{key}": t for key, t in _small_autoencoder().items()}
    checkpoint |= _fill("cond_stage_model.model.", _text_shapes(), source)
    control = {key: source(key, shape) for key, shape in control_shapes(unet).items()}
    whole = {key: tensor.contiguous().clone() for key, tensor in checkpoint.items()}
    save_file(whole, models / "checkpoints" / "v2-1_512-ema-pruned.safetensors")
    pickled = models / "checkpoints" / "sd2.1-base-zsnr-laionaes5.ckpt"
    torch.save({"state_dict": checkpoint}, pickled)
    torch.save(lora_factors(SMALL_UNET, unet, 4, source), models / "loras" / "HYPIR_sd2.pth")
    for name in ("v1_general.pth", "v1_face.pth", "v2.pth", "DiffBIR_v2.1.pt"):
        torch.save(control, models / "controlnet" / name)
    for name, tensors in (
        ("BSRNet.pth", tiny_esrgan()),
        ("face_swinir_v1.ckpt", golden_swinir()),
        ("realesrgan_s4_swinir_100k.pth", golden_swinir()),
        ("scunet_color_real_psnr.pth", tiny_scunet()),
        ("RealESRGAN_x4plus.pth", realesrgan_weights() if has_realesrgan() else tiny_esrgan()),
    ):
        torch.save(tensors, models / "upscale_models" / name)


def write_full_size_files(models: Path) -> None:
    """Write SD 2.1 base, LAControlNet v2 and SwinIR in fp16, at their full size, all random."""
    source = _Source(7, 2**25)
    _write_full_size_base(models, source)
    control = _fill("", control_shapes(unet_shapes(FULL_UNET)), source)
    _save_whole(models / "controlnet" / "v2.safetensors", control)
    swin_ir = {
        key: source(key, tuple(t.shape)) if t.is_floating_point() else t
        for key, t in _swin_ir().items()
    }
    path = models / "upscale_models" / "general_swinir_v1.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": swin_ir}, path)


def write_full_size_hypir(models: Path) -> None:
    """Write SD 2.1 base and HYPIR's LoRA in fp16, at their full size, all random."""
    source = _Source(7, 2**25)
    _write_full_size_base(models, source)
    factors = lora_factors(FULL_UNET, unet_shapes(FULL_UNET), 256, source)
    path = models / "loras" / "HYPIR_sd2.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: factor.clone() for key, factor in factors.items()}, path)


def _write_full_size_base(models: Path, source: _Source) -> None:
    checkpoint = _fill("model.diffusion_model.", unet_shapes(FULL_UNET), source)
    checkpoint |= _fill("first_stage_model.", _autoencoder_shapes(), source)
    checkpoint |= _fill("cond_stage_model.model.", _text_shapes(), source)
    _save_whole(models / "checkpoints" / "v2-1_512-ema-pruned.safetensors", checkpoint)


def _save_whole(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, path)


def lora_factors(
    sizes: dict[str, Any], unet: dict[str, tuple[int, ...]], rank: int, source: _Source
) -> dict[str, Tensor]:
    """Return a LoRA of HYPIR's keys for a UNet of these sizes and shapes."""
    factors = {}
    for name, key in hypir_modules({**sizes, "transformer_depth_middle": 1}, unet).items():
        outputs, *inputs = unet[key]
        window = [1] * (len(inputs) - 1)
        for part, shape in (("A", (rank, *inputs)), ("B", (outputs, rank, *window))):
            full = f"{name}.lora_{part}.default.weight"
            factors[full] = source(full, shape)
    return factors


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
    outputs = {f"zero_convs.{k}.0": f"input_blocks.{k}.0." for k in range(blocks)}
    outputs["middle_block_out.0"] = "middle_block.2."
    for name, block in outputs.items():
        last = next(block + end for end in LAST_CONVOLUTIONS if block + end in shapes)
        width = shapes[last][0]
        shapes |= {f"{name}.weight": (width, width, 1, 1), f"{name}.bias": (width,)}
    return shapes


class _Source:
    """Makes tensors that share one random storage; norms are the identity."""

    def __init__(self, seed: int, count: int):
        generator = torch.Generator().manual_seed(seed)
        self._values = (0.02 * torch.randn(count, generator=generator)).half()

    def __call__(self, key: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) < 2:
            return torch.full((1,), float(key.endswith("weight")), dtype=torch.half).expand(shape)
        if key == "token_embedding.weight":
            return self._values[: shape[1]].expand(shape)
        count = torch.Size(shape).numel()
        start = sum(key.encode()) * 977 % (len(self._values) - count)
        return self._values[start : start + count].view(shape)


def _fill(prefix: str, shapes: dict[str, tuple[int, ...]], source: _Source) -> dict[str, Tensor]:
    return {prefix + key: source(key, shape) for key, shape in shapes.items()}


def unet_shapes(sizes: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    network = openaimodel.UNetModel(
        **sizes,
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=WIDTH,
        transformer_depth_middle=1,
        context_dim=CONTEXT,
        use_linear_in_transformer=True,
        use_spatial_transformer=True,
        num_head_channels=64,
        num_heads=-1,
        legacy=False,
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
        shapes |= {
            block + f"ln_{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")
        }
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


def _swin_ir() -> dict[str, Tensor]:
    network = SwinIR(
        img_size=64,
        embed_dim=180,
        depths=[6] * 8,
        num_heads=[6] * 8,
        window_size=8,
        mlp_ratio=2,
        upsampler="nearest+conv",
        upscale=8,
        start_unshuffle=8,
    )
    return {
        key.replace("conv_first.", "conv_first.1."): tensor
        for key, tensor in network.state_dict().items()
    }


def _autoencoder_shapes() -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = AutoencoderKL(ddconfig=AUTOENCODER, embed_dim=4)
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _small_autoencoder() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(6)
    tensors = {}
    for key, tensor in comfy.taesd.taesd.TAESD(latent_channels=4).state_dict().items():
        spread = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.0
        tensors[key] = spread * torch.randn(tensor.shape, generator=generator)
    return tensors | {"vae_scale": torch.tensor(0.18215), "vae_shift": torch.tensor(0.0)}
