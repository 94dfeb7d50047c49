"""Tiny SD 2 and LAControlNet objects of the golden data, as the real ComfyUI objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import torch
import torch.nn.functional as F
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.text_encoders import sd2_clip
from safetensors.torch import save_file
from torch import Tensor, nn

from pack.model_loaders.la_control_net import load_la_control_net
from pack.model_loaders.resshift import RestorationVAE
from pack.pipelines.restore_diffbir import DiffBIRWeights
from pack.tests.support.golden import golden_case, golden_weights
from pack.tests.support.restoration import descriptor, tiny_esrgan
from pack.tests.support.tiny import tensor_shapes

NETWORKS_CASE = "diffbir/tiny_controlnet_unet"
RUNS_CASE = "diffbir/tiny_end_to_end"
HEAD_CHANNELS = 16
CONTEXT_WIDTH = 64
LATENT_SCALE = 0.18215
# SD's autoencoder at the least width.
KL_SIZES = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
Prediction = Literal["eps", "v"]


def _unet_config() -> dict[str, Any]:
    values = golden_case(NETWORKS_CASE)[0]["config"]
    levels = len(values["channel_mult"])
    return {
        "image_size": 32,
        "use_checkpoint": False,
        "use_spatial_transformer": True,
        "legacy": values["legacy"],
        "adm_in_channels": None,
        "in_channels": values["in_channels"],
        "out_channels": values["out_channels"],
        "model_channels": values["model_channels"],
        "num_res_blocks": [values["num_res_blocks"]] * levels,
        "channel_mult": values["channel_mult"],
        "num_head_channels": values["num_head_channels"],
        "use_linear_in_transformer": values["use_linear_in_transformer"],
        "context_dim": values["context_dim"],
        **{key: value for key, value in values["comfy"].items() if key.startswith("transformer")},
    }


def _drawn(prefix: str, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    description, _ = golden_case(NETWORKS_CASE)
    keys = [(f"{prefix}.{key}", tuple(shape)) for key, shape in shapes.items()]
    drawn = golden_weights(keys, description["seed"])
    digest = sum(tensor.double().sum().item() for tensor in drawn.values())
    expected = description["weight_digest"][prefix]
    assert abs(digest - expected) < 1e-6 * expected, f"{prefix}: {digest} is not {expected}"
    return {key[len(prefix) + 1 :]: tensor for key, tensor in drawn.items()}


@cache
def _unet_shapes() -> dict[str, torch.Size]:
    unet = UNetModel(
        **_unet_config(),
        num_heads=-1,
        device=torch.device("meta"),
        operations=comfy.ops.disable_weight_init,
    )
    return {key: tensor.shape for key, tensor in unet.state_dict().items()}


@cache
def unet_weights() -> dict[str, Tensor]:
    """Return the weights of the golden UNet."""
    return _drawn("unet", _unet_shapes())


@cache
def control_weights() -> dict[str, Tensor]:
    """Return the weights of the golden LAControlNet under the released keys."""
    copied = ("time_embed.", "input_blocks.", "middle_block.")
    shapes = {key: shape for key, shape in _unet_shapes().items() if key.startswith(copied)}
    first = shapes["input_blocks.0.0.weight"]
    shapes["input_blocks.0.0.weight"] = torch.Size([first[0], 2 * first[1], *first[2:]])
    outputs = [golden_case(NETWORKS_CASE)[1][f"control_{k:02}"].shape[1] for k in range(13)]
    names = [*(f"zero_convs.{k}.0" for k in range(12)), "middle_block_out.0"]
    for name, channels in zip(names, outputs, strict=True):
        shapes[f"{name}.weight"] = torch.Size([channels, channels, 1, 1])
        shapes[f"{name}.bias"] = torch.Size([channels])
    return _drawn("control", shapes)


def tiny_model(
    prediction: Prediction = "eps",
    *,
    zero_snr: bool = False,
    weights: dict[str, Tensor] | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """Return a small UNet as a MODEL of SD 2's class, in float32 or the fp8 ComfyUI is told to take.

    Args:
        prediction: What its output is taken for.
        zero_snr: Whether its schedule ends in pure noise, as ComfyUI's ModelSamplingDiscrete
            makes it.
        weights: Those of a UNet with heads of `HEAD_CHANNELS`; the golden one's if None.
    """
    weights = unet_weights() if weights is None else weights
    config = comfy.supported_models.SD20(comfy.model_detection.detect_unet_config(weights, ""))
    config.unet_config["num_head_channels"] = HEAD_CHANNELS
    management = comfy.model_management
    load_device, supported = management.get_torch_device(), [torch.float32]
    dtype = management.unet_dtype(supported_dtypes=supported)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, load_device))
    if zero_snr:
        config.sampling_settings["zsnr"] = True
    types = comfy.model_base.ModelType
    model = comfy.model_base.BaseModel(
        config, model_type=types.V_PREDICTION if prediction == "v" else types.EPS
    )
    patcher = comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=load_device,
        offload_device=management.unet_offload_device(),
    )
    model.diffusion_model.load_state_dict(weights)
    return patcher


def save_control(folder: Path, name: str = "tiny_control.safetensors") -> Path:
    """Return a file with the golden LAControlNet; a pickle unless the name says safetensors."""
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(control_weights(), path)
    else:
        torch.save(control_weights(), path)
    return path


def tiny_control_net(folder: Path) -> Any:
    """Return the golden LAControlNet as a CONTROL_NET."""
    return load_la_control_net(save_control(folder), head_channels=HEAD_CHANNELS)


class Projection(nn.Module):
    """The autoencoder of the golden runs: a projection of folded pixels, and its inverse back."""

    def __init__(self) -> None:
        super().__init__()
        projection = golden_case(RUNS_CASE)[1]["vae_projection"]
        self.register_buffer("projection", torch.zeros_like(projection))

    def encode(self, image: Tensor) -> Tensor:
        weight = self.projection[..., None, None].to(image)
        return F.conv2d(F.pixel_unshuffle(image, 8), weight)

    def decode(self, latent: Tensor, **_: Any) -> Tensor:
        inverse = torch.linalg.pinv(self.projection.cpu().double())  # not every device has float64
        weight = inverse[..., None, None].to(latent)
        return F.pixel_shuffle(F.conv2d(latent, weight), 8)


def projection_vae() -> RestorationVAE:
    """Return the stand-in VAE of the golden runs, 4 channels at 1/8; exact under any tiling."""
    return RestorationVAE(
        Projection(),
        {"projection": golden_case(RUNS_CASE)[1]["vae_projection"]},
        ratio=8,
        latent_channels=4,
        working_dtypes=[torch.float32],
        encode_elements_per_pixel=12,
        decode_elements_per_pixel=12,
    )


def tiny_vae(seed: int = 3) -> comfy.sd.VAE:
    """Return ComfyUI's own KL autoencoder at the least width, with random weights.

    Its decoder `first_stage_model.decode` is differentiable, not linear, and sees its neighbours.
    """
    params = {"ddconfig": KL_SIZES, "embed_dim": 4}
    with torch.device("meta"):
        shapes = tensor_shapes(AutoencoderKL(**params))
    return comfy.sd.VAE(
        sd=golden_weights(shapes, seed), config={"params": params}, dtype=torch.float32
    )


def tiny_clip(seed: int = 6) -> comfy.sd.CLIP:
    """Return SD 2's text encoder as a CLIP of three narrow layers, with random weights."""
    sizes = {
        "hidden_size": CONTEXT_WIDTH,
        "intermediate_size": CONTEXT_WIDTH,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "projection_dim": CONTEXT_WIDTH,
    }
    clip = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(sd2_clip.SD2Tokenizer, sd2_clip.SD2ClipModel),
        model_options={"clip_h_model_config": sizes},
    )
    network = clip.cond_stage_model
    network.load_state_dict(golden_weights(tensor_shapes(network), seed))
    return clip


def tiny_weights(folder: Path, **changes: Any) -> DiffBIRWeights:
    """Return all networks of DiffBIR; stage 1 is of BSRNet's kind and enlarges four times."""
    made = DiffBIRWeights(
        tiny_model(),
        tiny_clip(),
        projection_vae(),
        tiny_control_net(folder),
        descriptor(tiny_esrgan()),
    )
    return replace(made, **changes)


def text(seed: int = 4, *, batch: int = 1) -> list:
    """Return a CONDITIONING as a text encoder makes it, `(batch, 77, 64)`."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(batch, 77, CONTEXT_WIDTH, generator=generator)
    return [[embedding, {"pooled_output": None}]]


def golden_texts() -> tuple[list, list]:
    """Return the positive and the negative CONDITIONING of the golden runs."""
    _, golden = golden_case(RUNS_CASE)
    return [[golden["context_pos"], {}]], [[golden["context_neg"], {}]]


def sample_recorded(
    model: Any,
    positive: list,
    negative: list,
    run: str,
    *,
    sampler: str = "ddpm",
    sigmas: Tensor | None = None,
) -> Tensor:
    """Return the latent of a golden run, in the network's scale, made by a sampler of ComfyUI.

    Args:
        model: A MODEL.
        positive: CONDITIONING with the control.
        negative: The same for the negative prompt.
        run: `eps`, `eps_guided` or `v_zsnr_rescaled`: whose start, noises and cfg are taken.
        sampler: A ComfyUI sampler with a `noise_sampler`.
        sigmas: Its sigmas; those of the `normal` scheduler if None.
    """
    description, golden = golden_case(RUNS_CASE)
    settings = description["runs"][run]
    if sigmas is None:
        sigmas = comfy.samplers.calculate_sigmas(
            model.get_model_object("model_sampling"), "normal", settings["steps"]
        )
    noises: Iterator[Tensor] = iter(golden[f"{run}_noises"])
    options = {"noise_sampler": lambda *_: next(noises)[None]}
    sampled = comfy.sample.sample_custom(
        model,
        golden["x_T"],
        settings["cfg"],
        comfy.samplers.ksampler(sampler, options),
        sigmas,
        positive,
        negative,
        torch.zeros_like(golden["x_T"]),
        disable_pbar=True,
        seed=0,
    )
    return sampled * LATENT_SCALE
