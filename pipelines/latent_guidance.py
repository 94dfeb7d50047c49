"""DiffBIR's restoration guidance as a patch of any MODEL."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import comfy.model_management
import comfy.model_sampling
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ..images.conversion import check_count, check_image, image_to_planes, planes_to_image
from ..model_loaders.resshift_sampling import ResShiftSampling
from ..samplers.guidance import (
    GUIDANCE_VERSIONS,
    GuidanceVersion,
    best_share,
    chain_mean_weight,
    edge_weights,
    guidance_delta,
    guidance_scale,
    guidance_steps,
    latent_gain,
    next_sigma,
    posterior_mean_weight,
)
from .diffbir_conditioning import check_vae_is_there
from .memory import is_out_of_memory
from .tiled_decoding import TiledDecoder
from .tiles import Grid, Window, current_tile

logger = logging.getLogger("resshift-diffbir")

GuidanceSpace = Literal["latent", "rgb"]
GUIDANCE_SPACES: tuple[str, ...] = get_args(GuidanceSpace)
GuidanceWeighting = Literal["none", "edges"]
GUIDANCE_WEIGHTINGS: tuple[str, ...] = get_args(GuidanceWeighting)

# An image may be this much smaller than what the latent decodes to: DiffBIR pads to multiples of 64.
LARGEST_PADDING_PX = 63
# Memory of decoding with its gradient, as a multiple of ComfyUI's estimate for decoding alone: 2.6 of
# it is kept for the gradient of SD's decoder, measured, and the rest is for what comes and goes.
GRADIENT_MEMORY = 3.5
# Decoding with its gradient is cut into tiles like those of the MODEL, or else into these, for which
# SD's decoder needs 4 GB in bf16.
TILE_PX = 512
TILE_OVERLAP_PX = 128
# Least side of these when memory runs out.
LEAST_TILE_PX = 128
# A move in pixels is shortened at most this often: the decoder is not linear on long moves.
MOST_SHORTENINGS = 8

PostCfg = Callable[[dict[str, Any]], Tensor]


@dataclass(frozen=True)
class LatentGuidance:
    """How far and when predictions are pulled to a target.

    Attributes:
        scale: Strength in the terms of `version`, 0 for none.
        fidelity: Share of every prediction that is replaced by the target, after the pull of
            `scale`: 0 none, 1 gives the target itself. Its meaning depends on no schedule.
        version: Whose rule `scale` follows.
        start_percent: Where in the run guidance begins, 0 to 1.
        end_percent: Where it ends.
        space: Whether `scale` measures the distance of latents or of decoded pictures.
        weighting: `edges` lets regions of strong edges in the target go free; only for `rgb`.
        repeat: Moves in each step.
        clamp: Whether no move of `scale` goes beyond the nearest point. The official ones do at
            early steps, which only suits the official sampler.

    Raises:
        ValueError: If a number is out of range or `weighting` does not fit `space`.
    """

    scale: float = 0.0
    fidelity: float = 0.0
    version: GuidanceVersion = "v2"
    start_percent: float = 0.0
    end_percent: float = 1.0
    space: GuidanceSpace = "latent"
    weighting: GuidanceWeighting = "none"
    repeat: int = 1
    clamp: bool = True

    def __post_init__(self) -> None:
        for name, choices in (
            ("version", GUIDANCE_VERSIONS),
            ("space", GUIDANCE_SPACES),
            ("weighting", GUIDANCE_WEIGHTINGS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"'{name}' is one of {', '.join(choices)}, not '{getattr(self, name)}'."
                )
        if self.scale < 0 or self.repeat < 1:
            raise ValueError(
                f"the guidance needs a scale of 0 or more and a repeat of 1 or more, not"
                f" {self.scale} and {self.repeat}."
            )
        for name in ("fidelity", "start_percent", "end_percent"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"'{name}' is {getattr(self, name)}; give 0 to 1.")
        if self.weighting == "edges" and self.space == "latent":
            raise ValueError(
                "weighting 'edges' is made from a picture's edges and cannot weight latents. Set"
                " 'space' to 'rgb', or 'weighting' to 'none'."
            )

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return (self.scale > 0 or self.fidelity > 0) and self.start_percent < self.end_percent

    @property
    def needs_decoder(self) -> bool:
        """Whether it takes the gradient of a VAE's decoder."""
        return self.scale > 0 and self.space == "rgb"


@dataclass(frozen=True)
class _Target:
    latent: Tensor | None  # in the model's scale; None where only pixels are compared
    pixels: Tensor | None  # in [-1, 1]; None where only latents are


def patch_latent_guidance(
    model: Any,
    target: dict[str, Any] | Tensor,
    guidance: LatentGuidance,
    *,
    vae: Any = None,
) -> Any:
    """Return a clone of a MODEL whose predictions are pulled to a target.

    It acts after classifier-free guidance and on the whole latent, so it goes with every sampler,
    with cfg 1, with tiles and with other patches; several of it act one after the other. Where
    guidance does nothing, the clone is the model as it was.

    Args:
        model: Any MODEL whose latents are 4-dimensional.
        target: LATENT, or `(B, H, W, C)` IMAGE, one for all pictures or one for each. An image is
            padded with black on the right and at the bottom to the size that the latent decodes to.
        guidance: How far and when.
        vae: The model's VAE; needed for an image.
    Raises:
        ValueError: If an input does not fit; the message says which and what to do. That the sizes
            of target and latent agree is checked when sampling begins.

    Source: Lin et al. 2023 (arXiv 2308.15070), DiffBIR, "Restoration Guidance".
    """
    check_model(model, "latent guidance")
    if isinstance(target, dict):
        _check_target_latent(model, target["samples"], guidance)
    else:
        _check_vae(model, vae)
        check_image(target)
    patched = model.clone()
    if not guidance.acts:
        return patched

    def guided(executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor,
               *args: Any, **kwargs: Any) -> Tensor:  # fmt: skip
        guider = executor.class_obj
        aim = _target_for(guider.model_patcher, target, vae, noise, guidance)
        options = guider.model_options  # ComfyUI copied it for this run
        options["sampler_post_cfg_function"] = [
            *options.get("sampler_post_cfg_function", []),
            _post_cfg(guider, aim, guidance, vae, sigmas),
        ]
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)

    patched.add_wrapper(WrappersMP.OUTER_SAMPLE, guided)
    return patched


def _target_for(
    patcher: Any, target: dict[str, Any] | Tensor, vae: Any, noise: Tensor, guidance: LatentGuidance
) -> _Target:
    """Return the target of a run, before the model is loaded."""
    if noise.ndim != 4:
        raise ValueError(
            f"latent guidance takes latents of 4 dimensions, not {noise.ndim}. Use it with models"
            " of single pictures."
        )
    pixels = None
    if isinstance(target, dict):
        latent = target["samples"]
    else:
        ratio = vae.spacial_compression_encode()
        planes = _padded(target, noise.shape[-2] * ratio, noise.shape[-1] * ratio)
        pixels = planes * 2 - 1 if guidance.needs_decoder else None
        needs_latent = guidance.fidelity > 0 or not guidance.needs_decoder
        latent = vae.encode(planes_to_image(planes)) if needs_latent else None
    if latent is not None:
        if latent.shape[-2:] != noise.shape[-2:]:
            raise ValueError(
                f"the target of the guidance is {tuple(latent.shape[-2:])} (height, width) in"
                f" latent pixels, and the latent that is sampled {tuple(noise.shape[-2:])}. Make"
                " both from the same padded image."
            )
        latent = patcher.model.process_latent_in(latent.float()).to(patcher.load_device)
    if pixels is not None:
        pixels = pixels.to(patcher.load_device)
    for part in (latent, pixels):
        if part is not None:
            check_count(len(part), len(noise), "the guidance", "targets")
    return _Target(latent, pixels)


def _padded(image: Tensor, height: int, width: int) -> Tensor:
    planes, _ = image_to_planes(image)
    missing = height - planes.shape[-2], width - planes.shape[-1]
    if not all(0 <= side <= LARGEST_PADDING_PX for side in missing):
        raise ValueError(
            f"the target of the guidance is {planes.shape[-1]} x {planes.shape[-2]}, and the latent"
            f" that is sampled decodes to {width} x {height}. Connect the image that the latent was"
            " made for: the result of stage 1, at its own size or padded."
        )
    return F.pad(planes, (0, missing[1], 0, missing[0]))


def _post_cfg(
    guider: Any, target: _Target, guidance: LatentGuidance, vae: Any, sigmas: Tensor
) -> PostCfg:
    """Return what a run does with each prediction."""
    sampling = guider.model_patcher.get_model_object("model_sampling")
    first = sampling.percent_to_sigma(guidance.start_percent)
    last = sampling.percent_to_sigma(guidance.end_percent)
    sigmas = sigmas.to(guider.model_patcher.load_device)
    pull = None
    if target.pixels is not None:
        pull = _pixel_pull(guider, target.pixels, guidance, vae)

    def guide(args: dict[str, Any]) -> Tensor:
        denoised = args["denoised"]
        sigma = args["sigma"].flatten()[0]
        weight = _mean_weight(sampling, sigma, next_sigma(sigma, sigmas))
        gain = torch.zeros_like(weight)
        if pull is not None:
            # The one look at sigma from the host: decoding costs far more than waiting for it.
            if not last <= sigma.item() <= first:
                return denoised
            denoised = pull(denoised, weight)
        elif guidance.scale > 0:
            gain = latent_gain(
                weight,
                denoised[0].numel(),
                scale=guidance.scale,
                version=guidance.version,
                repeat=guidance.repeat,
                clamp=guidance.clamp,
            )
        if target.latent is None:
            return denoised
        gain = 1 - (1 - gain) * (1 - guidance.fidelity)
        gain = torch.where((sigma <= first) & (sigma >= last), gain, 0)
        return denoised - gain * (denoised - target.latent)

    return guide


def _mean_weight(sampling: Any, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Return the coefficient of the prediction in the mean of the model's own ancestral step."""
    if isinstance(sampling, ResShiftSampling):
        return chain_mean_weight(sigma, sigma_next, sampling.kappa)
    if isinstance(sampling, comfy.model_sampling.CONST):  # x = (1 - sigma) x_0 + sigma n
        sigma, sigma_next = sigma / (1 - sigma), sigma_next / (1 - sigma_next)
    return posterior_mean_weight(sigma, sigma_next)


def _pixel_pull(
    guider: Any, target: Tensor, guidance: LatentGuidance, vae: Any
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that pulls predictions by the gradient of the decoded pictures' distance."""
    decode = _DifferentiableDecoder(vae, guider.model_patcher.model)
    ratio = vae.spacial_compression_decode()
    edges = edge_weights(target) if guidance.weighting == "edges" else target.new_ones(1, 1, 1, 1)
    scale = guidance_scale(guidance.scale, guidance.version)
    largest: int | None = None  # side of a tile, once memory has run out
    room_for_side = 0

    def make_room(latent: Tensor, side: int) -> None:
        """Let ComfyUI make room for the decoder and its gradient, once for tiles of a side."""
        nonlocal room_for_side
        if side == room_for_side:
            return
        shape = (1, latent.shape[1], *(min(side, length) for length in latent.shape[-2:]))
        memory = GRADIENT_MEMORY * vae.memory_used_decode(shape, vae.vae_dtype)
        memory += comfy.model_management.module_size(vae.first_stage_model)
        if vae.device == guider.model_patcher.load_device:
            in_use = [guider.model_patcher, *guider.loaded_models]
            comfy.model_management.load_models_gpu(in_use, memory_required=memory)
        room_for_side = side

    def shortened(
        tiled: TiledDecoder,
        latent: Tensor,
        move: Tensor,
        before: Tensor,
        aim: Tensor,
        weight: Tensor,
    ) -> Tensor:
        for _ in range(MOST_SHORTENINGS):
            share = best_share(before, tiled.pixels(latent + move) - aim, weight)
            move = share * move
            if share.item() > 0.5:  # the nearest point is about as far as was looked
                break
        return move

    def pull_one(
        tiled: TiledDecoder, latent: Tensor, aim: Tensor, weight: Tensor, step: Tensor
    ) -> Tensor:
        def wanted(pixels: Tensor, window: Window) -> Tensor:
            # The distance is a mean over the whole picture, not over the window.
            share = scale * (pixels[0].numel() / aim[0].numel())
            weights = weight if weight.shape[-1] == 1 else window.cut(weight, ratio)
            return guidance_delta(pixels, window.cut(aim, ratio), share, weights)

        for _ in range(guidance.repeat):
            pixels, move = tiled.pixels_and_move(latent, wanted)
            move = step * move
            if guidance.clamp:
                move = shortened(tiled, latent, move, pixels - aim, aim, weight)
            latent = latent + move
        return latent

    def pull_in_tiles(denoised: Tensor, mean_weight: Tensor, side: int, overlap: int) -> Tensor:
        make_room(denoised, side)
        tiled = TiledDecoder(
            decode, Grid((denoised.shape[-2], denoised.shape[-1]), side, overlap), ratio
        )
        step, share = guidance_steps(mean_weight, guidance.version)
        if guidance.clamp:
            step = step.clamp(max=target[0].numel() / (2 * scale))
            share = share.clamp(max=1)
        of_each = [
            pull_one(
                tiled,
                latent[None],
                target[k % len(target)][None],
                edges[k % len(edges)][None],
                step,
            )
            for k, latent in enumerate(denoised)
        ]  # one picture at a time: the gradient's memory does not grow with the batch
        return denoised + share * (torch.cat(of_each) - denoised)

    def pull(denoised: Tensor, mean_weight: Tensor) -> Tensor:
        nonlocal largest
        tile = TILE_PX // ratio, TILE_OVERLAP_PX // ratio
        side, overlap = current_tile(guider.model_patcher) or tile
        if largest is not None and largest < side:
            side, overlap = largest, largest * overlap // side
        try:
            return pull_in_tiles(denoised, mean_weight, side, overlap)
        except RuntimeError as error:
            used = min(side, max(denoised.shape[-2:]))
            half = used // 2
            if not is_out_of_memory(error) or half * ratio < LEAST_TILE_PX:
                raise
        logger.warning(
            "Out of memory with the gradient of decoding %d pixels; the guidance of this run goes on"
            " with tiles of %d, whose result is not exactly the same.",
            used * ratio,
            half * ratio,
        )
        # Only now, for until here the error holds what was computed.
        comfy.model_management.soft_empty_cache()
        largest = half
        return pull(denoised, mean_weight)

    return pull


class _Decoding(nn.Module):
    """An autoencoder whose call decodes, so that it can run on other weights."""

    autoencoder: Any

    def __init__(self, autoencoder: nn.Module):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latent: Tensor) -> Tensor:
        return self.autoencoder.decode(latent)


class _DifferentiableDecoder:
    """A function from latents in the model's scale to pictures in [-1, 1], for a run.

    It runs on weights of its own. ComfyUI's are no use for a gradient: they were loaded in inference
    mode, which autograd does not take, and where they do not all fit, every layer gets them in a
    buffer that the next layer overwrites before the gradient comes by.

    Args:
        vae: The VAE.
        model: The model whose latents it decodes.
    """

    def __init__(self, vae: Any, model: Any):
        self.vae = vae
        self.model = model
        self.decoding = _Decoding(vae.first_stage_model)
        self.weights: dict[str, Tensor] = {}

    def __call__(self, latent: Tensor) -> Tensor:
        """Return the picture of a latent."""
        vae = self.vae
        if not self.weights:
            with torch.inference_mode(False):
                self.weights = _own_weights(self.decoding, vae)
        stored = self.model.process_latent_out(latent).to(vae.device, vae.vae_dtype)
        pixels = torch.func.functional_call(self.decoding, self.weights, (stored,))
        return pixels.to(latent.device, torch.float32)


def _own_weights(decoding: _Decoding, vae: Any) -> dict[str, Tensor]:
    """Return copies of what decodes, on the VAE's device and in its dtype, with their patches."""

    def own(name: str, weight: Tensor) -> Tensor:
        key = name.removeprefix("autoencoder.")
        patcher = vae.patcher
        if patcher.is_dynamic() and key in patcher.patches and key not in patcher.backup:
            # Patches of layers that stay on the CPU are applied on the way to the device only there.
            weight = patcher.patch_weight_to_device(key, vae.device, return_weight=True)
        dtype = vae.vae_dtype if weight.is_floating_point() else weight.dtype
        return weight.detach().to(vae.device, dtype, copy=True)

    weights = dict(decoding.named_parameters()) | dict(decoding.named_buffers())
    return {
        name: own(name, weight)
        for name, weight in weights.items()
        if not name.startswith("autoencoder.encoder.")
    }


def check_model(model: Any, what: str) -> None:
    """Make sure that a MODEL's latents are those of single pictures.

    Args:
        model: The MODEL.
        what: What takes it, for the message.
    Raises:
        ValueError: If they have another number of dimensions.
    """
    dimensions = model.get_model_object("latent_format").latent_dimensions
    if dimensions != 2:
        raise ValueError(
            f"the latents of this {type(model.model).__name__} have {dimensions} dimensions in"
            f" space and time. {what[0].upper()}{what[1:]} takes models of single pictures."
        )


def _check_target_latent(model: Any, latent: Tensor, guidance: LatentGuidance) -> None:
    if guidance.needs_decoder:
        raise ValueError(
            "in space 'rgb' pictures are compared, so the target must be an image. Connect 'image'"
            " and 'vae' in place of a latent, or set 'space' to 'latent'."
        )
    channels = model.get_model_object("latent_format").latent_channels
    if latent.ndim != 4 or latent.shape[1] != channels:
        raise ValueError(
            f"the target of the guidance has shape {tuple(latent.shape)}, and this model's latents"
            f" have {channels} channels. Encode the target with the model's VAE."
        )


def _check_vae(model: Any, vae: Any) -> None:
    if vae is None:
        raise ValueError("to guide by 'image', connect the model's VAE to 'vae' too.")
    check_vae_is_there(vae)
    channels = model.get_model_object("latent_format").latent_channels
    if vae.latent_channels != channels:
        raise ValueError(
            f"the VAE connected to 'vae' makes latents of {vae.latent_channels} channels, and this"
            f" model's have {channels}. Connect the VAE that belongs to the model."
        )
