"""Noise that depends on nothing but the seed and the picture's place in the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..samplers.moved_noise import MovedNoise
from ..samplers.places import likeness

BatchNoise = Literal["different per image", "same for all", "moving with the picture"]
BATCH_NOISES: tuple[str, ...] = get_args(BatchNoise)
MOVING: BatchNoise = "moving with the picture"
STILL_BATCH_NOISES: tuple[str, ...] = tuple(name for name in BATCH_NOISES if name != MOVING)

SEED_COUNT = 1 << 64
# From a picture's stream to another that no picture of a batch, no face and no piece draws from.
APART = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class PictureSeeds:
    """The seed from which each picture of a batch draws its noise.

    Attributes:
        seed: Seed of the node.
        batch_noise: Whether the picture at place k draws from `seed + k`, every one from `seed`, or
            every one from `seed` and then in the order that the clip's motion has brought it to.
        places: Place of each picture in the whole batch; None for a whole batch, in its order.
        moved: The order of the noise in each picture, where it moves with the picture.
    """

    seed: int = 0
    batch_noise: BatchNoise = "different per image"
    places: Sequence[int] | None = None
    moved: MovedNoise | None = field(default=None, compare=False)

    @property
    def needs_motion(self) -> bool:
        """Whether the pictures' motion has yet to be told."""
        return self.batch_noise == MOVING and self.moved is None

    def along(self, moved: MovedNoise) -> PictureSeeds:
        """Return seeds whose noise has the order that motion has brought it to."""
        return replace(self, moved=moved)

    def moved_by(self, offset: int) -> PictureSeeds:
        """Return seeds further on by a number, counted around from the largest to 0."""
        return replace(self, seed=(self.seed + offset) % SEED_COUNT)

    def of_latent(self, latent: dict[str, Any]) -> PictureSeeds:
        """Return the seeds of a LATENT's pictures, whose places it may tell.

        Nodes that take pictures out of a batch leave their places in the LATENT.
        """
        index = latent.get("batch_index")
        return self if index is None else replace(self, places=tuple(index))

    def generators(self, count: int) -> list[torch.Generator]:
        """Return a generator for each of the batch's `count` pictures, on the CPU."""
        if self.batch_noise != "different per image":
            return [torch.Generator().manual_seed(self.seed) for _ in range(count)]
        places = range(count) if self.places is None else self.places
        return [torch.Generator().manual_seed((self.seed + place) % SEED_COUNT) for place in places]


WHOLE_BATCH = PictureSeeds()


def draw_noise(generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Return standard normal noise, one picture from each generator.

    Args:
        generators: One for each picture; they live on the CPU, so every device gets the same.
        like: `(B, C, H, W)` whose shape and device the noise gets; float32.
    """
    shape = like.shape[1:]
    pictures = [torch.randn(shape, generator=generator) for generator in generators]
    noise = torch.stack(pictures)  # (B, C, H, W)
    if like.device.type == "cuda":  # from other memory the host would wait for the copy
        return noise.pin_memory().to(like.device, non_blocking=True)
    return noise.to(like.device)


def noise_draws(seeds: PictureSeeds, like: Tensor) -> Callable[[], Tensor]:
    """Return a function whose every call draws further noise of a batch's pictures.

    Args:
        seeds: Seeds of the pictures.
        like: `(B, C, H, W)` whose shape and device the noise gets; float32.
    Raises:
        ValueError: If the noise is to move with the pictures and their motion was not told.
    """
    moved = own_motion(seeds, len(like))
    if moved is None:
        generators = seeds.generators(len(like))
        return lambda: draw_noise(generators, like)
    generators = seeds.generators(1)
    one = like.new_empty((1, *like.shape[1:]), device="cpu")
    return lambda: moved.of(draw_noise(generators, one)).to(like.device)


def own_motion(seeds: PictureSeeds, count: int) -> MovedNoise | None:
    """Return the order of the noise in a batch's `count` pictures; None where it does not move.

    Raises:
        ValueError: If the noise is to move with the pictures and their motion was not told, or is
            that of other pictures.
    """
    if seeds.batch_noise != MOVING:
        return None
    if seeds.moved is None:
        if count == 1 and tuple(seeds.places or (0,)) == (0,):
            return None  # a picture, or the first of a clip, has the seed's noise as it is
        raise ValueError(
            f"'batch_noise' is '{MOVING}', and there is no telling how these {count} pictures move."
            " Connect the clip to 'frames' where the node has it, or choose another 'batch_noise'."
        )
    if len(seeds.moved.sources) != count:
        raise ValueError(
            f"'batch_noise' is '{MOVING}', and of the {count} pictures that are sampled the motion of"
            f" {len(seeds.moved.sources)} is known. Sample the frames that the motion is of."
        )
    return seeds.moved


def step_noise_sampler(
    x: Tensor, seeds: PictureSeeds, steps: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a noise sampler for the steps of a run.

    A picture's stream is its start noise, then a draw for each step, so the first draw, which is
    the start noise that ComfyUI or `draw_noise` made from the same seed, is passed over. ComfyUI
    draws a batch's start noise from one stream, so a picture taken out of it may hold a later draw:
    the step that got it again would double it. Such a picture draws from another stream, with all
    others of the batch where they share one.

    Args:
        x: `(B, C, H, W)` state at the start of the run.
        seeds: Seeds of its pictures.
        steps: How many draws there are at most.
    """
    draw: Callable[[], Tensor] | None = None

    def sample(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        nonlocal draw
        if draw is None:  # runs of one step, or without randomness, draw nothing
            draw = _fresh_draws(x, seeds, steps)
        return draw()

    return sample


def _fresh_draws(x: Tensor, seeds: PictureSeeds, steps: int) -> Callable[[], Tensor]:
    """Return a function whose every call draws noise that the pictures of `x` do not hold."""
    draw = noise_draws(seeds, x)
    if bool((likeness(x, draw()) > 1).all()):
        return draw
    ahead = noise_draws(seeds, x)
    ahead()
    held = torch.stack([likeness(x, ahead()) > 1 for _ in range(steps)]).any(dim=0)  # (B,)
    if not bool(held.any()):
        return draw
    if seeds.batch_noise != "different per image":  # what all share they go on sharing
        held[:] = True
    other, rows = noise_draws(seeds.moved_by(APART), x), held.view(-1, 1, 1, 1)
    return lambda: torch.where(rows, other(), draw())


def seeds_of_run(seeds: PictureSeeds, extra_args: dict[str, Any] | None) -> PictureSeeds:
    """Return the seeds of a sampler's run, whose seed ComfyUI tells in the `extra_args`."""
    return replace(seeds, seed=(extra_args or {}).get("seed") or 0)
