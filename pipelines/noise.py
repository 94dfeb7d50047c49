"""Noise that depends on nothing but the seed and the picture's place in the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

BatchNoise = Literal["different per image", "same for all"]
BATCH_NOISES: tuple[str, ...] = get_args(BatchNoise)

SEED_COUNT = 1 << 64


@dataclass(frozen=True)
class PictureSeeds:
    """The seed from which each picture of a batch draws its noise.

    Attributes:
        seed: Seed of the node.
        batch_noise: Whether the picture at place k draws from `seed + k` or every one from `seed`.
        places: Place of each picture in the whole batch; None for a whole batch, in its order.
    """

    seed: int = 0
    batch_noise: BatchNoise = "different per image"
    places: Sequence[int] | None = None

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
        places = range(count) if self.places is None else self.places
        offsets = [0 if self.batch_noise == "same for all" else place for place in places]
        return [
            torch.Generator().manual_seed((self.seed + offset) % SEED_COUNT) for offset in offsets
        ]


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


def step_noise_sampler(x: Tensor, seeds: PictureSeeds) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a noise sampler for the steps of a run.

    A picture's stream is its start noise, then a draw for each step, so the first draw, which is
    the start noise that ComfyUI or `draw_noise` made from the same seed, is passed over.

    Args:
        x: `(B, C, H, W)` state of the run.
        seeds: Seeds of its pictures.
    """
    generators: list[torch.Generator] = []

    def sample(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        if not generators:  # runs of one step, or without randomness, draw nothing
            generators.extend(seeds.generators(len(x)))
            draw_noise(generators, x.new_empty(x.shape, device="cpu"))
        return draw_noise(generators, x)

    return sample


def seeds_of_run(seeds: PictureSeeds, extra_args: dict[str, Any] | None) -> PictureSeeds:
    """Return the seeds of a sampler's run, whose seed ComfyUI tells in the `extra_args`."""
    return replace(seeds, seed=(extra_args or {}).get("seed") or 0)
