"""Loading of ResShift models and their autoencoders."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from comfy.cli_args import args

from .checkpoint import (
    RECORD_KEY,
    UnsupportedCheckpointError,
    check_weights,
    read_checkpoint,
    refuses_broken_weights,
)
from .detection import check_swin_unet, detect_swin_unet, detect_vq, swin_unet_weights
from .networks.exact_norm import make_norms_exact
from .networks.pixel_latent import PixelLatent
from .networks.swin_unet import SwinUNet, SwinUNetConfig
from .networks.vq import VQAutoencoder
from .patcher import remember_loader, wrap_network
from .record import AUTO, RSD_X2, RSD_X4, ResShiftRecord, find_record
from .released import licence_note
from .resshift_model import ResShiftLatent, ResShiftModel, ResShiftModelConfig
from .stock_sampling import suit_stock_sampling
from .training import suit_training

logger = logging.getLogger("resshift-diffbir")

DtypeChoice = Literal["auto", "fp32", "fp16", "bf16"]
DTYPES: tuple[str, ...] = get_args(DtypeChoice)
_TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

BUNDLED_MODEL = "bundled: photo x4"
BUNDLED_MODEL_PATH = Path(__file__).parent / "bundled" / "resshift_x4_photo.safetensors"

# Units of x86 CPUs for products in bfloat16, as torch names them.
BF16_UNITS = ("amx_bf16", "avx512_bf16")

# Maps of a VQ autoencoder's first level held at its peak, in image pixels and channels of that
# level: on the levels of convolutions in each direction, and in the middle next to the attention's
# scores. Measured by benchmarks/measuring.py as growth of the process on a CPU with the released
# f4: 3.0 and 5.3 at 512 px in bf16, the last at 512 px in fp32 with maps in the plain layout.
VQ_ENCODE_MAPS = 3
VQ_DECODE_MAPS = 6
VQ_ATTENTION_MAPS = 3


def load_resshift(
    path: Path,
    preset: str = AUTO,
    dtype: DtypeChoice = "auto",
    trained: dict[str, torch.Tensor] | None = None,
    *,
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """Return a ResShift checkpoint as a MODEL.

    Args:
        path: The checkpoint.
        preset: How it was trained, or `auto` to read that from the file.
        dtype: Dtype of the weights, and of the computation where the device is good at it; `auto`
            leaves both to ComfyUI, but takes bf16 on CPUs with units for it.
        trained: Weights that take the place of the file's, by their keys in the network.
        disable_dynamic: See `wrap_network`.
    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or `preset` is unknown.
        UnsupportedCheckpointError: If it is not a ResShift model.
    """
    checkpoint = read_checkpoint(path, inner_prefix="model.diffusion_model.")
    weights = swin_unet_weights(checkpoint.state_dict)
    weights.pop(RECORD_KEY, None)
    check_swin_unet(checkpoint.state_dict, path)
    record = find_record(checkpoint, preset)
    with refuses_broken_weights(checkpoint, "a ResShift model"):
        network = detect_swin_unet(
            checkpoint.state_dict,
            path,
            image_size=record.image_size,
            noise_channels=record.noise_channels,
        )
        _check_mask(network, record, path)
        _check_start(network, record, path)
        with torch.device("meta"):  # before a wrong shape asks for memory
            layout = SwinUNet(network, operations=comfy.ops.disable_weight_init)
        check_weights(layout, checkpoint, weights)
    weights |= trained or {}
    ratio = record.scale * network.condition_ratio

    config = ResShiftModelConfig(network, ResShiftLatent(network.latent_channels, ratio))
    load_device = comfy.model_management.get_torch_device()
    weight_dtype, cast_dtype = _dtypes(dtype, weights, config, load_device)
    config.set_inference_dtype(weight_dtype, cast_dtype)
    model = ResShiftModel(config, record)
    _turn_for_cpu(model.diffusion_model, load_device)
    offload_device = comfy.model_management.unet_offload_device()
    patcher = wrap_network(model, load_device, offload_device, disable_dynamic=disable_dynamic)
    remember_loader(patcher, load_resshift, path, preset, dtype, trained)
    model.diffusion_model.load_state_dict(weights, assign=patcher.is_dynamic())
    suit_stock_sampling(patcher)
    suit_training(patcher)
    logger.info(
        "'%s': ResShift, %s x%d%s", path.name, record.task, record.scale, licence_note(path.name)
    )
    return patcher


def _check_mask(network: SwinUNetConfig, record: ResShiftRecord, path: Path) -> None:
    """Refuse to guess whether a channel beside the image's is of a mask or of noise."""
    if network.cond_mask and not network.condition_stages and not record.fills_holes:
        raise UnsupportedCheckpointError(
            path,
            "sees one channel beside the state and the image: of noise, as a student of RSD, or of a"
            f" mask, as a network for inpainting; but its preset or record is of {record.task}"
            f" without either. Set preset to '{RSD_X4}', '{RSD_X2}' or one of inpainting",
        )


def _check_start(network: SwinUNetConfig, record: ResShiftRecord, path: Path) -> None:
    if network.start is not None and network.start.scale != record.scale:
        raise UnsupportedCheckpointError(
            path,
            f"has a network for its start that enlarges by {network.start.scale}, but its preset or"
            f" record is of scale {record.scale}. Set preset to one of scale {network.start.scale}",
        )


def load_bundled_model(*, dtype: DtypeChoice = "auto") -> comfy.model_patcher.ModelPatcher:
    """Return the model that ships with the pack."""
    return load_resshift(BUNDLED_MODEL_PATH, dtype=dtype)


def copy_for_training(model: Any) -> comfy.model_patcher.ModelPatcher:
    """Return a ResShift MODEL with weights of its own in float32, which stay where they are loaded.

    Args:
        model: A MODEL of `load_resshift`, or a clone; its patches and wrappers are kept.
    """
    path, preset, _, weights = model.cached_patcher_init[1]
    fresh = load_resshift(path, preset, "fp32", weights, disable_dynamic=True)
    return _clone_around(model, fresh, disable_dynamic=True)


def copy_with_weights(model: Any, weights: dict[str, torch.Tensor]) -> Any:
    """Return a ResShift MODEL like another with weights of its own.

    They are not patches, which ComfyUI keeps beside the weights they replace, and applies at every
    step anew where memory is short.

    Args:
        model: A MODEL of `load_resshift`, or a clone; its wrappers are kept, and its patches on
            other weights.
        weights: Some or all of the network's, by their keys in it.
    """
    path, preset, dtype, before = model.cached_patcher_init[1]
    fresh = load_resshift(path, preset, dtype, {**(before or {}), **weights})
    made = _clone_around(model, fresh)
    replaced = {f"diffusion_model.{key}" for key in weights}
    made.patches = {key: own for key, own in made.patches.items() if key not in replaced}
    made.patches_uuid = uuid.uuid4()
    return made


def _clone_around(model: Any, fresh: Any, *, disable_dynamic: bool = False) -> Any:
    """Return a clone of a MODEL around the network of another."""
    made = model.clone(
        disable_dynamic=disable_dynamic, model_override=fresh.get_clone_model_override()
    )
    made.cached_patcher_init = fresh.cached_patcher_init
    made.parent = None  # ComfyUI falls back on it as on another patcher of the same network
    return made


def load_vq_vae(
    path: Path, *, dtype: DtypeChoice = "auto", disable_dynamic: bool = False
) -> RestorationVAE:
    """Return a VQ autoencoder as a VAE.

    Args:
        path: The checkpoint.
        dtype: Dtype of the weights and of the computation; `auto` leaves it to ComfyUI, which takes
            float32 on CPUs. With random weights of the released size bf16 moves 10 to 16 % of a
            picture's latents to another code and fp16 1 to 3 %.
        disable_dynamic: See `wrap_network`.
    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged.
        UnsupportedCheckpointError: If it is another kind of network.
    """
    checkpoint = read_checkpoint(path, inner_prefix="first_stage_model.")
    with refuses_broken_weights(checkpoint, "a VQ autoencoder"):
        config = detect_vq(checkpoint.state_dict, path)
        with torch.device("meta"):  # before a wrong shape asks for memory
            layout = VQAutoencoder(config, operations=comfy.ops.disable_weight_init)
        check_weights(layout, checkpoint, checkpoint.state_dict)
    network = VQAutoencoder(config, operations=comfy.ops.disable_weight_init)
    vae = RestorationVAE(
        network,
        checkpoint.state_dict,
        ratio=config.downscale_ratio,
        latent_channels=config.embed_dim,
        working_dtypes=[torch.float16, torch.bfloat16, torch.float32],
        encode_elements_per_pixel=VQ_ENCODE_MAPS * config.width,
        decode_elements_per_pixel=VQ_DECODE_MAPS * config.width,
        attention_elements_per_pixel=VQ_ATTENTION_MAPS * config.width,
        dtype=None if dtype == "auto" else _TORCH_DTYPES[dtype],
        disable_dynamic=disable_dynamic,
    )
    remember_loader(vae.patcher, _vq_patcher, path, dtype)
    return vae


def _vq_patcher(
    path: Path, dtype: DtypeChoice, *, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    return load_vq_vae(path, dtype=dtype, disable_dynamic=disable_dynamic).patcher


def bundled_vae(*, disable_dynamic: bool = False) -> RestorationVAE:
    """Return the VAE of the bundled model: pixels folded into channels, exact and weightless.

    Args:
        disable_dynamic: See `wrap_network`.
    """
    ratio = 4
    vae = RestorationVAE(
        PixelLatent(ratio),
        {},
        ratio=ratio,
        latent_channels=3 * ratio**2,
        working_dtypes=[torch.float32],
        encode_elements_per_pixel=3 * 4,
        decode_elements_per_pixel=3 * 4,
        disable_dynamic=disable_dynamic,
    )
    remember_loader(vae.patcher, _bundled_patcher)
    return vae


def _bundled_patcher(*, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return bundled_vae(disable_dynamic=disable_dynamic).patcher


class RestorationVAE(comfy.sd.VAE):
    """A ComfyUI VAE around a network of ours.

    Args:
        network: Has `encode(image)` and `decode(latent, **options)` on [-1, 1].
        state_dict: Its weights.
        ratio: Side of the image over the side of the latent.
        latent_channels: Channels of the latent.
        working_dtypes: Dtypes it may run in, the best first.
        encode_elements_per_pixel: Elements held at the peak of encoding, per image pixel.
        decode_elements_per_pixel: The same of decoding.
        attention_elements_per_pixel: Elements held while every latent pixel attends to every
            other, besides the scores, per image pixel; 0 for a network without attention.
        dtype: Dtype it runs in; None leaves the choice to ComfyUI.
        disable_dynamic: See `wrap_network`.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        state_dict: dict[str, torch.Tensor],
        *,
        ratio: int,
        latent_channels: int,
        working_dtypes: list[torch.dtype],
        encode_elements_per_pixel: int,
        decode_elements_per_pixel: int,
        attention_elements_per_pixel: int = 0,
        dtype: torch.dtype | None = None,
        disable_dynamic: bool = False,
    ):
        # Without weights the parent sets the attributes of its version and stops there.
        with _without_warning("No VAE weights detected"):
            super().__init__(sd={})
        self.downscale_ratio = ratio
        self.upscale_ratio = ratio
        self.latent_channels = latent_channels
        self.working_dtypes = working_dtypes

        self.encode_elements_per_pixel = encode_elements_per_pixel
        self.decode_elements_per_pixel = decode_elements_per_pixel
        self.attention_elements_per_pixel = attention_elements_per_pixel
        # The parent's own functions would stand in front of the methods below. Methods, because a
        # copy of this object on another device, as Select VAE Device makes, must count for itself.
        del self.memory_used_encode, self.memory_used_decode
        self.device = comfy.model_management.vae_device()
        self.vae_dtype = dtype or comfy.model_management.vae_dtype(self.device, working_dtypes)
        self.output_device = comfy.model_management.intermediate_device()
        self.first_stage_model = network.eval().requires_grad_(False).to(self.vae_dtype)
        _turn_for_cpu(self.first_stage_model, self.device)
        comfy.model_management.archive_model_dtypes(self.first_stage_model)
        self.patcher = wrap_network(
            self.first_stage_model,
            self.device,
            comfy.model_management.vae_offload_device(),
            disable_dynamic=disable_dynamic,
        )
        network.load_state_dict(state_dict, assign=self.patcher.is_dynamic())
        self.model_size()

    def memory_used_encode(self, shape: Sequence[int], dtype: torch.dtype) -> float:
        """Return the bytes at the peak of encoding images `(B, 3, H, W)` of this shape."""
        return self._peak_bytes(self.encode_elements_per_pixel, shape[2] * shape[3], dtype)

    def memory_used_decode(self, shape: Sequence[int], dtype: torch.dtype) -> float:
        """Return the bytes at the peak of decoding latents `(B, C, h, w)` of this shape."""
        pixels = shape[2] * shape[3] * self.downscale_ratio**2
        return self._peak_bytes(self.decode_elements_per_pixel, pixels, dtype)

    def _peak_bytes(self, elements: int, pixels: int, dtype: torch.dtype) -> float:
        size = comfy.model_management.dtype_size(dtype)
        peak = pixels * elements * size
        if not self.attention_elements_per_pixel:
            return peak
        scores = _scores_bytes(pixels // self.downscale_ratio**2, size, self.device)
        return max(peak, pixels * self.attention_elements_per_pixel * size + scores)

    def get_sd(self) -> dict[str, torch.Tensor]:
        """Return the weights in the plain layout, the only one that safetensors takes."""
        return {key: weight.contiguous() for key, weight in super().get_sd().items()}


def _scores_bytes(tokens: int, size: int, device: torch.device) -> float:
    """Return the bytes of scores that ComfyUI's attention of VAEs holds at once.

    Fused kernels hold none, and on CPUs this pack takes the fused one. The split attention holds
    them before and after the softmax, in as many slices as the free memory asks for.
    """
    management = comfy.model_management
    fused = management.xformers_enabled_vae() or management.pytorch_attention_enabled_vae()
    if fused or management.is_device_cpu(device):
        return 0
    scores = tokens * tokens * size
    free: Any = management.get_free_memory(device)
    shortage = scores * (3 if size == 2 else 2.5) / max(1, free)
    slices = 2 ** max(0, math.ceil(math.log2(shortage))) if shortage else 1
    return 2 * scores / min(slices, 128)


def _turn_for_cpu(network: torch.nn.Module, device: torch.device) -> None:
    """Lay the weights of convolutions channels-last where the network runs on a CPU.

    oneDNN's convolutions work in that layout, and maps follow their weights: with others every map
    and every weight is turned at every call. See benchmarks/NOTES.md.
    """
    if comfy.model_management.is_device_cpu(device):
        # torch does not type this form of `to`.
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        make_norms_exact(network)


def cpu_has_bf16_units() -> bool:
    """Return whether the CPU multiplies matrices in bfloat16.

    Others work it out value by value, a hundred times slower than float32. Versions of torch that
    cannot tell what a CPU has count as running on one of those.
    """
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(unit, False) for unit in BF16_UNITS)


def _cpu_prefers_bf16() -> bool:
    """Return whether bfloat16 suits the CPU, where ComfyUI takes float32, and nobody said otherwise."""
    return cpu_has_bf16_units() and not (args.force_fp32 or args.fp32_unet)


@contextmanager
def _without_warning(text: str) -> Iterator[None]:
    def is_other(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(is_other)
    try:
        yield
    finally:
        root.removeFilter(is_other)


def _dtypes(
    choice: DtypeChoice,
    weights: dict[str, torch.Tensor],
    config: Any,
    device: torch.device,
) -> tuple[torch.dtype, torch.dtype | None]:
    management = comfy.model_management
    supported = config.supported_inference_dtypes
    if choice == "auto":
        stored = management.unet_dtype(
            model_params=comfy.utils.calculate_parameters(weights),
            supported_dtypes=supported,
            weight_dtype=comfy.utils.weight_dtype(weights),
        )
        if stored == torch.float32 and management.is_device_cpu(device) and _cpu_prefers_bf16():
            stored = torch.bfloat16
    else:
        stored = _TORCH_DTYPES[choice]
    if stored == torch.bfloat16 and management.is_device_cpu(device) and cpu_has_bf16_units():
        return stored, None
    return stored, management.unet_manual_cast(stored, device, supported)
