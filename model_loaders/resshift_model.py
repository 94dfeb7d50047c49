"""The MODEL that a ResShift checkpoint becomes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.supported_models_base
import torch
import torch.nn.functional as F
from torch import Tensor

from ..images.padding import multiple_above
from ..samplers.noise_beside import noise_beside
from ..samplers.places import places_in_batch
from .checkpoint import RECORD_KEY
from .networks.swin_unet import SwinUNet, SwinUNetConfig
from .record import ResShiftRecord, record_tensor
from .resshift_sampling import ResShiftSampling, check_sampling
from .weight_names import key_in_files

# Keys of the conditioning that the node ResShift Conditioning fills. `concat_latent_image` is the
# key that ComfyUI itself uses for a latent next to the noise.
LATENT_KEY = "concat_latent_image"
LQ_KEY = "resshift_lq"
MASK_KEY = "resshift_mask"

# Elements held at the peak of a call per latent pixel and channel of the first level, and bytes of
# scratch that libraries take whatever the size. Measured as growth of a process on a CPU at 64x64 to
# 256x256, batches to four, fp32 and bf16: 21.3 to 22.5 elements for the released configuration, 17
# to 18.5 for the bundled one, and 17 to 25 MiB.
PEAK_ELEMENTS = 20
SCRATCH_BYTES = 20 << 20


# Where ComfyUI's Self-Attention Guidance replaces the attention.
SAG_BLOCK = ("middle", 0, 0)


class PreviewColors:
    """Turns latents into colours for previews, fitted to the picture of the current run.

    A fixed matrix cannot serve: which colours a learned latent stands for is known only to its
    autoencoder. ComfyUI calls this on whatever it draws.

    Attributes:
        factors: `(C + 1, 3)` float32 on the CPU, from a latent and 1 to RGB in [-1, 1]; None before
            the first run, where the first channels stand for colours.
    """

    def __init__(self) -> None:
        self.factors: Tensor | None = None

    def fit(self, latent: Tensor, image: Tensor) -> None:
        """Draw as the latent of an image would be drawn best.

        Args:
            latent: `(1, C, h, w)`.
            image: `(1, 3, H, W)` in [-1, 1].
        """
        latent, image = latent.float().cpu(), image.float().cpu()
        colors = F.interpolate(image, size=latent.shape[-2:], mode="area")
        samples = latent.movedim(1, -1).flatten(0, 2)
        samples = torch.cat([samples, samples.new_ones(len(samples), 1)], dim=1)  # (h w, C + 1)
        targets = colors.movedim(1, -1).flatten(0, 2)  # (h w, 3)
        # A little damping keeps the fit finite for flat pictures.
        gram = samples.T @ samples + 1e-3 * len(samples) * torch.eye(samples.shape[1])
        self.factors = torch.linalg.solve(gram, samples.T @ targets)

    def __call__(self, latent: Tensor) -> Tensor:
        """Return `latent` (B, C, h, w) with RGB in [-1, 1] in its first channels, 0 in the rest."""
        if self.factors is None:
            return latent
        factors = self.factors.to(latent)
        drawn = torch.zeros_like(latent)
        drawn[:, :3] = torch.einsum("bchw,cd->bdhw", latent, factors[:-1])
        drawn[:, :3] += factors[-1, :, None, None]
        return drawn


class ResShiftLatent(comfy.latent_formats.LatentFormat):
    """Latents of a VQ or folded-pixel autoencoder: no scaling, drawn as RGB for previews.

    Args:
        channels: Channels of the latent.
        ratio: Side of the image over the side of the latent.
    """

    def __init__(self, channels: int, ratio: int):
        self.scale_factor = 1.0
        self.latent_channels = channels
        self.spacial_downscale_ratio = ratio
        self.latent_rgb_factors = _preview_factors(channels, ratio)
        self.preview_colors = None if _is_folded(channels, ratio) else PreviewColors()
        self.latent_rgb_factors_reshape = self.preview_colors


class _NetworkOptions(dict):
    """Options of the network, which tells nodes made for other UNets that it is none of them."""

    def copy(self) -> _NetworkOptions:
        """Return the same options; ComfyUI keeps a copy."""
        return _NetworkOptions(self)

    def __missing__(self, name: str) -> Any:
        raise ValueError(
            f"this node asks the model for '{name}' of a UNet like Stable Diffusion's, and the"
            " Swin-UNet of ResShift has no such thing. Leave the node out: connect the model of"
            " 'Load ResShift Model' without it."
        )


class ResShiftModelConfig(comfy.supported_models_base.BASE):
    """What ComfyUI asks of a model's configuration."""

    unet_extra_config = {}
    supported_inference_dtypes = [torch.float16, torch.bfloat16, torch.float32]

    def __init__(self, network: SwinUNetConfig, latent_format: ResShiftLatent):
        super().__init__(_NetworkOptions(config=network))
        self.latent_format = latent_format


class ResShiftModel(comfy.model_base.BaseModel):
    """ComfyUI's base model around the Swin-UNet.

    Args:
        model_config: Sizes and dtypes.
        record: How the checkpoint was trained.
    """

    latent_format: ResShiftLatent

    def __init__(self, model_config: ResShiftModelConfig, record: ResShiftRecord):
        # The model type is only named in the log: the chain is ResShiftSampling's.
        network: Any = SwinUNet
        super().__init__(model_config, comfy.model_base.ModelType.EPS, unet_model=network)
        self.record = record
        self.network_config = model_config.unet_config["config"]
        self.model_sampling = ResShiftSampling(
            record.schedule, record.predict_type, record.sampling_steps
        )

    @property
    def size_multiple_px(self) -> int:
        """Sides of the low-quality image are padded to multiples of this, as in training."""
        return self.network_config.image_size * self.network_config.condition_ratio

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Return what each network call gets besides the state: y, the image and the mask.

        Raises:
            ValueError: If the conditioning or the latent was made for another kind of model, or the
                latent is not of the conditioning's pictures.
        """
        noise: Tensor = kwargs["noise"]
        self._check(noise, kwargs)
        places = self._places(kwargs)
        ratio = self.network_config.condition_ratio
        height, width = noise.shape[-2:]
        device = kwargs.get("device", noise.device)

        def fitted(pixels: Tensor, factor: int) -> Tensor:
            found = tuple(side // factor for side in pixels.shape[-2:])
            if found != (height, width):
                raise ValueError(
                    f"the latent is {width}x{height} in latent pixels and the conditioning was made"
                    f" for {found[1]}x{found[0]}. Connect conditioning and latent of one 'ResShift"
                    " Conditioning' that got this model, and enlarge nothing between."
                )
            return (pixels if len(pixels) == 1 else pixels[places]).to(device)

        y = kwargs.get(LATENT_KEY)
        y = kwargs["latent_image"] if y is None else self.process_latent_in(y)
        if kwargs.get("cross_attn") is not None:  # or ComfyUI copies it to the device at every step
            kwargs["cross_attn"] = kwargs["cross_attn"].to(device)
        conds = super().extra_conds(**kwargs)
        y, lq = fitted(y, 1), fitted(kwargs[LQ_KEY], ratio)
        if self.latent_format.preview_colors is not None:
            self.latent_format.preview_colors.fit(y[:1], lq[:1])  # the picture that is drawn
        conds["y_latent"] = comfy.conds.CONDNoiseShape(y)
        conds["lq"] = comfy.conds.CONDNoiseShape(F.pixel_unshuffle(lq, ratio))
        if self.network_config.cond_mask:
            mask = F.pixel_unshuffle(fitted(kwargs[MASK_KEY], ratio), ratio)
            conds["mask"] = comfy.conds.CONDNoiseShape(mask)
        if self.network_config.noise_channels:
            beside = noise_beside(noise, self.network_config.noise_channels)
            conds["noise"] = comfy.conds.CONDNoiseShape(beside.to(device))
        return conds

    def _places(self, conditioning: dict[str, Any]) -> list[int]:
        """Return for each latent the place of its picture in the conditioning."""
        y = conditioning.get(LATENT_KEY)
        if y is None and len(conditioning[LQ_KEY]) == 1:
            return list(range(len(conditioning["noise"])))
        return places_in_batch(
            len(conditioning["noise"]),
            len(conditioning[LQ_KEY]),
            latent=conditioning.get("latent_image"),
            candidates=None if y is None else self.process_latent_in(y),
            noise=conditioning["noise"],
            seed=conditioning.get("seed"),
        )

    def _check(self, noise: Tensor, conditioning: dict[str, Any]) -> None:
        channels = self.network_config.latent_channels
        if noise.shape[1] != channels:
            raise ValueError(
                f"this ResShift model works on latents of {channels} channels and got"
                f" {noise.shape[1]}. Encode with its own VAE: '{self.record.autoencoder}'."
            )
        if conditioning.get(LQ_KEY) is None:
            raise ValueError(
                "the conditioning connected to the sampler has no image for this ResShift model."
                " Connect positive and negative of the node 'ResShift Conditioning'; text prompts"
                " do not steer ResShift."
            )
        if self.network_config.cond_mask and conditioning.get(MASK_KEY) is None:
            raise ValueError(
                "this ResShift model needs a mask: connect one to 'ResShift Conditioning'."
            )

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: dict = {},  # noqa: B006 - ComfyUI's signature
        y_latent: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if y_latent is None:
            raise ValueError("this model was called without the conditioning of its own node")
        check_sampling(self.model_sampling)
        replaced = transformer_options.get("patches_replace", {}).get("attn1", {})
        if SAG_BLOCK in replaced:
            raise ValueError(
                "'Self-Attention Guidance' reads the attention in the middle of Stable Diffusion's"
                " UNet, which the model of 'Load ResShift Model' has not. Leave that node out."
            )
        y = y_latent.to(device=x.device, dtype=torch.float32)
        kwargs["y_shift"] = self.model_sampling.shift_scale(t, y)
        if self.network_config.cond_start:
            kwargs["y"] = y
        denoised = super()._apply_model(
            x, t, c_concat, c_crossattn, control, transformer_options, **kwargs
        )
        if self.model_sampling.predict_type == "residual":
            denoised = denoised + y
        return denoised

    def memory_required(self, input_shape: list[int], cond_shapes: dict | None = None) -> float:
        """Return the bytes that one call on a batch of this shape needs besides the weights."""
        multiple = self.network_config.size_multiple
        height, width = (multiple_above(side, multiple) for side in input_shape[2:4])
        elements = input_shape[0] * height * width * self.network_config.model_channels
        size = comfy.model_management.dtype_size(self.get_dtype_inference())
        return elements * PEAK_ELEMENTS * size + SCRATCH_BYTES

    def state_dict_for_saving(
        self,
        unet_state_dict: dict[str, Tensor],
        clip_state_dict: dict[str, Tensor] | None = None,
        vae_state_dict: dict[str, Tensor] | None = None,
        clip_vision_state_dict: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the tensors of a saved file under the names of released ones, and the record."""
        state_dict = super().state_dict_for_saving(
            {key_in_files(key): weight for key, weight in unet_state_dict.items()},
            clip_state_dict,
            vae_state_dict,
            clip_vision_state_dict,
        )
        record = self.record.with_schedule(self.model_sampling.schedule)
        record = replace(record, predict_type=self.model_sampling.predict_type)
        state_dict[RECORD_KEY] = record_tensor(record)
        return state_dict


def _preview_factors(channels: int, ratio: int) -> list[list[float]]:
    """Return a matrix from latent to RGB: exact means of folded pixels, else the first channels."""
    folded = ratio * ratio
    if _is_folded(channels, ratio):
        return [
            [float(k // folded == color) / folded for color in range(3)] for k in range(channels)
        ]
    return [[float(k == color) for color in range(3)] for k in range(channels)]


def _is_folded(channels: int, ratio: int) -> bool:
    return channels == 3 * ratio * ratio
