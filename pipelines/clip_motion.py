"""A clip's motion on the latents of a MODEL, and what is kept of a clip from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..images.conversion import check_image, image_to_planes
from ..images.motion import FrameGrid, Motion, estimate_motion, no_motion
from ..model_loaders.resshift_model import ResShiftModel
from ..samplers.moved_noise import MovedNoise, NoisePlaces, first_places, move_places
from .noise import MOVING, PictureSeeds, noise_draws

# Of models that do not say: what latents take and what pictures are padded to multiples of.
LATENT_RATIO = 8
PADDING_MULTIPLE_PX = 64
# How much the proportions of frames may differ from a latent's, where nothing else relates them.
PROPORTION = 0.02


def latent_fold(model: Any) -> int:
    """Return the side of the square of pixels that the channels of a MODEL's latents hold."""
    network = model.model
    if isinstance(network, ResShiftModel):
        config = network.network_config
        ratio = network.record.scale * config.condition_ratio
        if config.latent_channels == 3 * ratio**2:
            return ratio
    return 1


def frame_grid(model: Any, frame_size: tuple[int, int], latent_size: tuple[int, int]) -> FrameGrid:
    """Return how frames lie on a MODEL's latents.

    Frames are the pictures that are restored, or pictures of the result's size, padded or not; of
    another size they are taken to fill the latent.

    Args:
        model: The MODEL.
        frame_size: Height and width of the frames.
        latent_size: Height and width of the latents.
    Raises:
        ValueError: If their proportions fit none of these.
    """
    network = model.model
    ratio = getattr(
        model.get_model_object("latent_format"), "spacial_downscale_ratio", LATENT_RATIO
    )
    known = {ratio: PADDING_MULTIPLE_PX}  # frame pixels of a latent pixel: what they are padded to
    if isinstance(network, ResShiftModel):
        multiple, scale = network.size_multiple_px, network.record.scale
        ratio = network.network_config.condition_ratio
        known = {ratio: multiple, ratio * scale: multiple * scale}
    for ratio, multiple in known.items():
        padding = [side * ratio - px for side, px in zip(latent_size, frame_size, strict=True)]
        if all(0 <= px < multiple for px in padding):
            return _grid(latent_size, 1 / ratio, latent_fold(model))
    shares = [side / px for side, px in zip(latent_size, frame_size, strict=True)]
    if max(shares) > min(shares) * (1 + PROPORTION):
        raise ValueError(
            f"'frames' are {frame_size[1]}x{frame_size[0]}, which does not fit the latent of"
            f" {latent_size[1]}x{latent_size[0]} that is sampled. Connect the pictures that are"
            " restored, or pictures of the result's size."
        )
    return _grid(latent_size, min(shares), latent_fold(model))


def size_of(x: Tensor) -> tuple[int, int]:
    """Return height and width of `x` (..., H, W)."""
    return x.shape[-2], x.shape[-1]


def _grid(latent_size: tuple[int, int], per_pixel: float, fold: int) -> FrameGrid:
    return FrameGrid(fold * latent_size[0], fold * latent_size[1], fold * per_pixel, fold)


@dataclass
class ClipMemory:
    """What a restoration keeps of a clip, so that frames can come in parts of any length.

    One object serves one clip: give it to every call, the frames in their order, each once. What it
    holds does not grow and is never written into, so a copy (`copy.copy`) of it, taken before a
    call, goes on from there.

    Attributes:
        frame: `(1, 3, H, W)` the last frame; None before the first.
        places: Where the noise of the last frame came from.
        latent: `(1, C, h, w)` what was made of the last frame, in the VAE's scale.
    """

    frame: Tensor | None = None
    places: NoisePlaces | None = None
    latent: Tensor | None = None

    def follow(self, model: Any, frames: Tensor, latent_size: tuple[int, int]) -> Motion:
        """Return the motion of the clip's next frames, and remember the last of them.

        Args:
            model: The MODEL that will sample.
            frames: `(B, H, W, C)` IMAGE; see `frame_grid`.
            latent_size: Height and width of what will be sampled.
        Raises:
            ValueError: If the frames are of another size than those before.
        """
        planes = image_to_planes(frames)[0].clamp(0, 1)
        if self.frame is not None and self.frame.shape[-2:] != planes.shape[-2:]:
            raise ValueError(
                f"the frame is {planes.shape[-1]}x{planes.shape[-2]} and the one before it"
                f" {self.frame.shape[-1]}x{self.frame.shape[-2]}. The frames of a clip are of one"
                " size."
            )
        grid = frame_grid(model, size_of(planes), latent_size)
        motion = clip_motion(planes, grid, before=self.frame)
        self.frame = planes[-1:]
        return motion

    def move_noise(self, seeds: PictureSeeds, motion: Motion) -> PictureSeeds:
        """Return seeds of the clip's next frames, and remember where the last one's noise came from.

        Args:
            seeds: Seeds of the frames; those whose noise does not move come back as they are.
            motion: The frames' motion.
        """
        if seeds.batch_noise != MOVING:
            return seeds
        moved = moved_orders(motion, self.places)
        self.places = moved[-1]
        return seeds.along(MovedNoise(torch.stack([each.sources for each in moved]), motion.fold))


def clip_motion(planes: Tensor, grid: FrameGrid, *, before: Tensor | None = None) -> Motion:
    """Return the motion of a clip's frames.

    Args:
        planes: `(B, C, H, W)` in [0, 1].
        grid: Where the motion is wanted.
        before: `(1, C, H, W)` the frame before the first; None where there is none, so that the
            first has no motion and no trust in it.
    """
    if before is not None:
        return estimate_motion(torch.cat([before, planes[:-1]]), planes, grid)
    first = no_motion(1, grid)
    if len(planes) == 1:
        return first
    others = estimate_motion(planes[:-1], planes[1:], grid)
    return Motion(
        torch.cat([first.backward, others.backward]),
        torch.cat([first.trust, others.trust]),
        grid.fold,
    )


def clip_noise(model: Any, planes: Tensor, latent: Tensor, places: Sequence[int]) -> MovedNoise:
    """Return the order of the noise in some frames of a clip.

    Args:
        model: The MODEL that will sample.
        planes: `(B, C, H, W)` the whole clip, in [0, 1]; see `frame_grid`.
        latent: `(n, C, h, w)` what will be sampled; its size counts.
        places: Place of each of its n pictures in the clip. Frames before them count too, so that a
            frame's noise is the same whatever part it is in.
    """
    grid = frame_grid(model, size_of(planes), size_of(latent))
    return noise_on_grid(planes, grid, places)


def frame_places(count: int, latent: dict[str, Any]) -> list[int]:
    """Return the place in a clip of `count` frames of each picture of a LATENT.

    Raises:
        ValueError: If it cannot be told.
    """
    pictures, index = len(latent["samples"]), latent.get("batch_index")
    if index is not None and len(index) == pictures and max(index) < count:
        return list(index)
    if pictures != count:
        raise ValueError(
            f"'frames' holds {count} pictures, and the latent that is sampled {pictures}. Connect the"
            " whole clip and its latents, or take latents out of the batch with Latent From Batch."
        )
    return list(range(count))


def noise_on_grid(planes: Tensor, grid: FrameGrid, places: Sequence[int]) -> MovedNoise:
    """Return the order of the noise in some frames of a clip, as `clip_noise` does, on a grid."""
    moved = moved_orders(clip_motion(planes[: max(places) + 1], grid))
    return MovedNoise(torch.stack([moved[place].sources for place in places]), grid.fold)


def moved_orders(motion: Motion, before: NoisePlaces | None = None) -> list[NoisePlaces]:
    """Return where the noise of each of a clip's frames comes from.

    Args:
        motion: The frames' motion.
        before: Where that of the frame before the first comes from; None where there is none.
    """
    moved = []
    for backward, trust in zip(motion.backward, motion.trust, strict=True):
        if before is None:
            before = first_places(backward.shape[-2], backward.shape[-1])
        else:
            before = move_places(before, backward, trust)
        moved.append(before)
    return moved


class MovingNoise:
    """A NOISE for ComfyUI's custom samplers that moves with a clip.

    Args:
        model: The MODEL that will sample.
        frames: `(B, H, W, C)` IMAGE, the whole clip.
        seed: Decides the noise; that of the first frame is a single picture's.
    """

    def __init__(self, model: Any, frames: Tensor, seed: int):
        check_image(frames, "'frames'")
        self.model = model
        self.planes = image_to_planes(frames, "'frames'")[0].clamp(0, 1)
        self.seed = seed

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        """Return the start noise of a LATENT's pictures.

        Raises:
            ValueError: If it cannot be told which frames they are, or their proportions differ.
        """
        samples = input_latent["samples"]
        places = frame_places(len(self.planes), input_latent)
        moved = clip_noise(self.model, self.planes, samples, places)
        like = samples.new_empty(samples.shape, device="cpu", dtype=torch.float32)
        return noise_draws(PictureSeeds(self.seed, MOVING).along(moved), like)()
