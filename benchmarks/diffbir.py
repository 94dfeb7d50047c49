"""What is measured of DiffBIR: networks with random weights, of released or of tiny size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.cldm.cldm
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import spandrel
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from safetensors.torch import save_file
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.SCUNet import SCUNet
from spandrel.architectures.SwinIR import SwinIR
from torch import Tensor, nn

from ..model_loaders.la_control_net import load_la_control_net
from ..pipelines.diffbir_conditioning import DiffBIRInputs, prepare_diffbir
from ..pipelines.diffbir_presets import DIFFBIR_PRESETS
from ..pipelines.diffbir_sampling import NO_GUIDANCE, sample_diffbir
from ..pipelines.latent_guidance import LatentGuidance
from ..pipelines.noise import PictureSeeds
from ..pipelines.stage_one import remove_degradation

CONTROL_FILE = "control.safetensors"
CONTEXT = 1024
UNET_CONFIG: dict[str, Any] = {
    "image_size": 32,
    "use_checkpoint": False,
    "use_spatial_transformer": True,
    "legacy": False,
    "adm_in_channels": None,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": True,
    "context_dim": CONTEXT,
}
AUTOENCODER: dict[str, Any] = {
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
TINY_UNET_CONFIG = {**UNET_CONFIG, "model_channels": 64}
TINY_AUTOENCODER = {**AUTOENCODER, "ch": 32, "num_res_blocks": 1}


@dataclass(frozen=True)
class DiffBIRRun:
    """The second stage on some pictures.

    Attributes:
        model: SD 2.1 as a MODEL.
        vae: Its VAE.
        image: The pictures.
        inputs: Conditioning and start latent made of them.
    """

    model: Any
    vae: comfy.sd.VAE
    image: Tensor
    inputs: DiffBIRInputs


def fill(shapes: dict[str, torch.Size], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return weights that keep activations near unit size; norms are the identity."""
    source = torch.randn(max(shape.numel() for shape in shapes.values()))
    weights = {}
    for key, shape in shapes.items():
        if len(shape) < 2:
            weights[key] = torch.full(shape, float(key.endswith("weight")), dtype=dtype)
        else:
            scale = 1 / math.sqrt(shape[1:].numel())
            weights[key] = (source[: shape.numel()].view(shape) * scale).to(dtype)
    return weights


def shapes_of(network: nn.Module) -> dict[str, torch.Size]:
    """Return the shape of every tensor of a network."""
    return {key: tensor.shape for key, tensor in network.state_dict().items()}


def stage_one_network(kind: str, *, tiny: bool = False) -> spandrel.ImageModelDescriptor:
    """Return SwinIR, BSRNet or SCUNet as an UPSCALE_MODEL."""
    if kind == "bsrnet":
        network: nn.Module = ESRGAN(num_filters=64, num_blocks=1 if tiny else 23, scale=4)
    elif kind == "scunet":
        network = SCUNet(in_nc=3, config=[2 if tiny else 4] * 7, dim=64)
    else:
        layers = 1 if tiny else 8
        network = SwinIR(
            img_size=64,
            embed_dim=180,
            depths=[6] * layers,
            num_heads=[6] * layers,
            window_size=8,
            mlp_ratio=2,
            upsampler="nearest+conv",
            upscale=8,
            start_unshuffle=8,
        )
    # Released files count the unshuffling before the first convolution as a layer.
    weights = {
        key.replace("conv_first.", "conv_first.1.") if kind == "swinir" else key: value
        for key, value in network.state_dict().items()
    }
    found = spandrel.ModelLoader().load_from_state_dict(weights)
    assert isinstance(found, spandrel.ImageModelDescriptor)
    return found.eval()


def model_of_sd21(*, tiny: bool = False) -> Any:
    """Return SD 2.1's UNet as a MODEL in the dtype that ComfyUI chooses."""
    config = comfy.supported_models.SD20(dict(TINY_UNET_CONFIG if tiny else UNET_CONFIG))
    management = comfy.model_management
    dtype = management.unet_dtype(supported_dtypes=config.supported_inference_dtypes)
    cast_dtype = management.unet_manual_cast(dtype, management.get_torch_device())
    config.set_inference_dtype(dtype, cast_dtype)
    model = comfy.model_base.BaseModel(config)
    model.diffusion_model.load_state_dict(fill(shapes_of(model.diffusion_model), dtype))
    return comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )


def vae_of_sd(*, tiny: bool = False) -> comfy.sd.VAE:
    """Return SD's VAE."""
    params = {"ddconfig": TINY_AUTOENCODER if tiny else AUTOENCODER, "embed_dim": 4}
    with torch.device("meta"):
        shapes = shapes_of(AutoencoderKL(**params))
    return comfy.sd.VAE(sd=fill(shapes, torch.float32), config={"params": params})


def control_net(folder: Path, *, tiny: bool = False) -> Any:
    """Return LAControlNet, read from a file in 16 bit as released files could be."""
    config = TINY_UNET_CONFIG if tiny else UNET_CONFIG
    network = comfy.cldm.cldm.ControlNet(
        **{key: value for key, value in config.items() if key not in ("out_channels",)},
        hint_channels=4,
        num_head_channels=64,
        device=torch.device("meta"),
        operations=comfy.ops.disable_weight_init,
    )
    shapes = {k: s for k, s in shapes_of(network).items() if not k.startswith("input_hint_block.")}
    first = shapes["input_blocks.0.0.weight"]
    shapes["input_blocks.0.0.weight"] = torch.Size([first[0], 8, *first[2:]])
    path = folder / CONTROL_FILE
    save_file(fill(shapes, torch.float16), path)
    return load_la_control_net(path)


def prepare_run(size: int, batch: int, folder: Path, *, tiny: bool = False) -> DiffBIRRun:
    """Return networks, square pictures and what they start from."""
    text = [[torch.randn(1, 77, CONTEXT), {}]]
    image = torch.rand(batch, size, size, 3)
    vae = vae_of_sd(tiny=tiny)
    inputs = prepare_diffbir(text, text, control_net(folder, tiny=tiny), vae, image)
    return DiffBIRRun(model_of_sd21(tiny=tiny), vae, image, inputs)


def sample_run(run: DiffBIRRun, *, steps: int, **options: Any) -> Tensor:
    """Return the latent that so many steps make."""
    inputs = run.inputs
    settings = {"preset": DIFFBIR_PRESETS["v2"], "seeds": PictureSeeds(0), "sampler": "ddpm"}
    settings |= {"scheduler": "simple", "steps": steps, **options}
    sampled = sample_diffbir(run.model, inputs.positive, inputs.negative, inputs.latent, **settings)
    return sampled["samples"]


def run_diffbir(kind: str, size: int, batch: int, folder: Path) -> Any:
    """Return a call of the kind: a step, a guided step or ten steps of the second stage."""
    run = prepare_run(size, batch, folder)
    guidance = LatentGuidance(scale=0.5) if kind == "guided step" else NO_GUIDANCE
    steps = 10 if kind == "ten steps" else 1
    return lambda: sample_run(run, steps=steps, guidance=guidance)


def run_stage_one(kind: str, size: int, batch: int) -> Any:
    """Return a call of the first stage on square pictures, by the rules of its network."""
    network, image = stage_one_network(kind), torch.rand(batch, size, size, 3)
    scale = 4.0 if kind == "bsrnet" else 1.0
    return lambda: remove_degradation(network, image, scale=scale)
