"""Small right files and wrong ones of every kind, in the model folders of a ComfyUI."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from safetensors.torch import load_file, save
from spandrel.architectures.ESRGAN import ESRGAN
from torch import Tensor

from pack.model_loaders.record import ResShiftRecord
from pack.tests.support.diffbir import KL_SIZES
from pack.tests.support.golden import golden_weights
from pack.tests.support.mutation import Intruder
from pack.tests.support.tiny import (
    FOLDED_RECORD,
    FOLDED_UNET,
    INPAINT_RECORD,
    INPAINT_UNET,
    TINY_UNET,
    random_unet_weights,
    random_vq_weights,
    tensor_shapes,
)

# Where each loader of this pack looks, and what a file of its own kind is called elsewhere.
OWN_FILES = {
    "diffusion_models": "a_resshift_model.safetensors",
    "vae": "a_resshift_vae.safetensors",
    "controlnet": "a_lacontrolnet.pth",
    "upscale_models": "a_restoration_network.pth",
    "loras": "a_hypir_lora.pth",
}
X4, INPAINTING = "tiny_x4.safetensors", "tiny_fill.safetensors"
OVERFLOWING = "overflowing.safetensors"
VQ = "tiny_vq.safetensors"
HALF_HYPIR, STUDENT = "half_of_hypir.pth", "a_student.safetensors"
GREY_NETWORK, ORDINARY_CONTROL = "grey_network.pth", "ordinary_controlnet.pth"
UNET_ALONE, FULL_CHECKPOINT = "unet_alone.safetensors", "sd_checkpoint.safetensors"
CUTS = ("start", "middle", "end")

TEXT = b"This is no weight file.\n" * 40


def write_bad_files(models: Path) -> None:
    """Write the files of the table into the folder of every loader of this pack.

    Args:
        models: A models folder that `write_diffbir_files` has filled.
    """
    x4 = random_unet_weights(FOLDED_UNET)
    control = _read(models / "controlnet" / "v2.pth")
    network = _read(models / "upscale_models" / "BSRNet.pth")
    hypir = _read(models / "loras" / "HYPIR_sd2.pth")
    stage_two = load_file(models / "checkpoints" / "v2-1_512-ema-pruned.safetensors")
    unet = {key: t for key, t in stage_two.items() if key.startswith("model.diffusion_model.")}
    own = {"diffusion_models": x4, "vae": random_vq_weights()}
    own |= {"controlnet": control, "upscale_models": network, "loras": hypir}
    others = {
        OWN_FILES["diffusion_models"]: _with_record(x4, FOLDED_RECORD),
        OWN_FILES["vae"]: save(own["vae"]),
        OWN_FILES["controlnet"]: _pickled(control),
        OWN_FILES["upscale_models"]: _pickled(network),
        OWN_FILES["loras"]: _pickled(hypir),
        FULL_CHECKPOINT: save(unet | _kl_autoencoder() | _start_of_text_encoder()),
        "a_lora.safetensors": save({"lora_unet_mid.lora_down.weight": torch.ones(2, 2)}),
        "with_code.pth": _pickled({"a.weight": torch.ones(2), "options": Intruder(trap(models))}),
    }
    others |= {f"{kind}.{suffix}": text for suffix in ("pth", "safetensors")
               for kind, text in (("text", TEXT), ("empty", b""))}  # fmt: skip
    others |= _cut(others[OWN_FILES["diffusion_models"]], "safetensors")
    for folder, weights in own.items():
        (models / folder).mkdir(parents=True, exist_ok=True)
        for name, content in {**others, **_cut(_pickled(weights), "pth")}.items():
            if name != OWN_FILES[folder]:
                (models / folder / name).write_bytes(content)
    _write(models / "diffusion_models" / X4, _with_record(x4, FOLDED_RECORD))
    fill = _with_record(random_unet_weights(INPAINT_UNET), INPAINT_RECORD)
    _write(models / "diffusion_models" / INPAINTING, fill)
    overflowing = {key: tensor.clone() for key, tensor in x4.items()}
    overflowing["out.2.bias"] += float("nan")
    _write(models / "diffusion_models" / OVERFLOWING, _with_record(overflowing, FOLDED_RECORD))
    half = {key: tensor for key, tensor in hypir.items() if ".attn" not in key}
    _write(models / "loras" / HALF_HYPIR, _pickled(half))
    bare = save(random_unet_weights(replace(TINY_UNET, noise_channels=1)))
    _write(models / "diffusion_models" / STUDENT, bare)
    _write(models / "vae" / VQ, save(own["vae"]))
    _write(models / "checkpoints" / UNET_ALONE, save(unet))
    _write(models / "controlnet" / ORDINARY_CONTROL, _pickled(_ordinary_control(control)))
    grey = ESRGAN(in_nc=1, out_nc=1, num_filters=8, num_blocks=1, scale=2).state_dict()
    _write(models / "upscale_models" / GREY_NETWORK, _pickled(dict(grey)))


def trap(models: Path) -> Path:
    """Return the folder that the code in `with_code.pth` would make."""
    return models.parent / "made_by_code"


def _cut(content: bytes, suffix: str) -> dict[str, bytes]:
    lengths = (40, len(content) // 2, len(content) - 1)
    return {
        f"cut_at_{place}.{suffix}": content[:length]
        for place, length in zip(CUTS, lengths, strict=True)
    }


def _with_record(weights: dict[str, Tensor], record: ResShiftRecord) -> bytes:
    return save(weights, {"resshift_config": record.to_json()})


def _pickled(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _read(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _kl_autoencoder() -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = tensor_shapes(AutoencoderKL(ddconfig=KL_SIZES, embed_dim=4))
    return {f"first_stage_model.{key}": t for key, t in golden_weights(shapes, 3).items()}


def _start_of_text_encoder() -> dict[str, Tensor]:
    return {"cond_stage_model.model.ln_final.weight": torch.ones(1024)}


def _ordinary_control(control: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a ControlNet that takes a picture: eight convolutions for its hint."""
    first = "input_blocks.0.0.weight"
    weights = {**control, first: control[first][:, :4].clone()}
    widths = (3, 16, 16, 32, 32, 96, 96, 256, len(control[first]))
    for k in range(8):
        weights[f"input_hint_block.{2 * k}.weight"] = torch.zeros(widths[k + 1], widths[k], 3, 3)
        weights[f"input_hint_block.{2 * k}.bias"] = torch.zeros(widths[k + 1])
    return weights
