"""Guidance of a clip's frames by the frame before, as a patch of any MODEL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..images.conversion import check_image, image_to_planes
from ..images.motion import Motion, draw_to_moved
from .clip_motion import clip_motion, frame_grid, size_of
from .latent_guidance import check_model


@dataclass(frozen=True)
class Steadiness:
    """How far and when predictions are drawn to the frame before.

    Attributes:
        strength: Share of a prediction that is replaced where the motion is trusted: 0 none.
        start_percent: Where in the run it begins, 0 to 1.
        end_percent: Where it ends.

    Raises:
        ValueError: If a number is out of range.
    """

    strength: float = 0.0
    start_percent: float = 0.0
    end_percent: float = 1.0

    def __post_init__(self) -> None:
        for name in ("strength", "start_percent", "end_percent"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"'{name}' is {getattr(self, name)}; give 0 to 1.")

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return self.strength > 0 and self.start_percent < self.end_percent


NOT_STEADIED = Steadiness()


@dataclass(frozen=True)
class PreviousFrame:
    """The frame before the first of a batch, of which a run before made its result.

    Attributes:
        image: `(B, H, W, C)` IMAGE like the batch's frames; the last counts.
        latent: LATENT that was made of it; the last counts.
    """

    image: Tensor
    latent: dict[str, Any]


def patch_steady_frames(
    model: Any, frames: Tensor, steadiness: Steadiness, previous: PreviousFrame | None = None
) -> Any:
    """Return a clone of a MODEL whose predictions for a frame are drawn to those for the frame before.

    The prediction for a frame is drawn to that for the frame before, itself drawn already, as the
    motion between the two frames moves it and where that motion is trusted. It acts after
    classifier-free guidance on all frames of a batch and on the whole latent, so it goes with every
    sampler, with tiles and with latent guidance. A single picture stays as it is.

    Args:
        model: Any MODEL whose latents are 4-dimensional.
        frames: `(B, H, W, C)` IMAGE, a clip: the pictures that are restored, or some of the result's
            size. Each frame is a picture of the latent that will be sampled.
        steadiness: How far and when.
        previous: What the first frame is drawn to; None leaves it free.
    Raises:
        ValueError: If an input does not fit; the message says which and what to do. That frames and
            latents agree is checked when sampling begins.
    """
    check_model(model, "steadying frames")
    check_image(frames, "'frames'")
    planes = image_to_planes(frames, "'frames'")[0].clamp(0, 1)
    before = None
    if previous is not None:
        before = _last_of(previous.image, frames)
        _check_previous_latent(model, previous.latent["samples"])

    def motion_of(noise: Tensor) -> Motion:
        if len(planes) != len(noise):
            raise ValueError(
                f"'frames' holds {len(planes)} pictures, and the latent that is sampled"
                f" {len(noise)}. Connect the frames of the latent's pictures, in their order."
            )
        grid = frame_grid(model, size_of(planes), size_of(noise))
        return clip_motion(planes, grid, before=before)

    latent = None if previous is None else previous.latent["samples"][-1:]
    return patch_steady_motion(model, motion_of, steadiness, latent)


def patch_steady_motion(
    model: Any,
    motion: Motion | Callable[[Tensor], Motion],
    steadiness: Steadiness,
    previous: Tensor | None = None,
) -> Any:
    """Return a clone of a MODEL as `patch_steady_frames` does, from motion that is known.

    Args:
        model: Any MODEL whose latents are 4-dimensional.
        motion: The motion of a run's pictures, or what returns it from the run's noise,
            `(B, C, h, w)`.
        steadiness: How far and when.
        previous: `(1, C, h, w)` what was made of the frame before the first, in the VAE's scale.
    """
    patched = model.clone()
    if not steadiness.acts:
        return patched

    def steadied(executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor,
                 *args: Any, **kwargs: Any) -> Tensor:  # fmt: skip
        of_run = motion if isinstance(motion, Motion) else motion(noise)
        if len(noise) > 1 or previous is not None:
            guider = executor.class_obj
            options = guider.model_options  # ComfyUI copied it for this run
            options["sampler_post_cfg_function"] = [
                *options.get("sampler_post_cfg_function", []),
                _post_cfg(guider.model_patcher, of_run, steadiness, previous, noise),
            ]
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)

    patched.add_wrapper(WrappersMP.OUTER_SAMPLE, steadied)
    return patched


def _post_cfg(
    patcher: Any, motion: Motion, steadiness: Steadiness, previous: Tensor | None, noise: Tensor
) -> Callable[[dict[str, Any]], Tensor]:
    """Return what a run does with the predictions of each step."""
    sampling = patcher.get_model_object("model_sampling")
    first = sampling.percent_to_sigma(steadiness.start_percent)
    last = sampling.percent_to_sigma(steadiness.end_percent)
    device = patcher.load_device
    motion = Motion(motion.backward.to(device), motion.trust.to(device), motion.fold)
    if previous is not None:
        if previous.shape[-2:] != noise.shape[-2:]:
            raise ValueError(
                f"'previous_latent' is {previous.shape[-1]}x{previous.shape[-2]} in latent pixels, and"
                f" the latent that is sampled {noise.shape[-1]}x{noise.shape[-2]}. Connect what was"
                " made of the frame before, of the same size."
            )
        previous = patcher.model.process_latent_in(previous.float()).to(device)

    def steady(args: dict[str, Any]) -> Tensor:
        denoised = args["denoised"]
        sigma = args["sigma"].flatten()[0]
        gain = torch.where((sigma <= first) & (sigma >= last), steadiness.strength, 0.0)
        before = previous
        drawn = []
        for k, prediction in enumerate(denoised.split(1)):
            if before is not None:
                own = motion.part(k, k + 1)
                prediction = draw_to_moved(prediction, before, own, gain)  # (1, C, h, w)
            drawn.append(prediction)
            before = prediction
        return torch.cat(drawn)

    return steady


def _last_of(image: Tensor, frames: Tensor) -> Tensor:
    """Return the last picture of the frames before, `(1, C, H, W)`."""
    planes = image_to_planes(image[-1:], "'previous_frame'")[0].clamp(0, 1)
    if planes.shape[-2:] != frames.shape[1:3]:
        raise ValueError(
            f"'previous_frame' is {planes.shape[-1]}x{planes.shape[-2]} and the frames are"
            f" {frames.shape[2]}x{frames.shape[1]}. Connect the frame before, of the same clip."
        )
    return planes


def _check_previous_latent(model: Any, latent: Tensor) -> None:
    channels = model.get_model_object("latent_format").latent_channels
    if latent.ndim != 4 or latent.shape[1] != channels:
        raise ValueError(
            f"'previous_latent' has shape {tuple(latent.shape)}, and this model's latents have"
            f" {channels} channels. Connect the sampled latent of the frame before."
        )
