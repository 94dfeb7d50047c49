"""Noise that depends on nothing but the seed and the picture's place in the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

BatchNoise = Literal["different per image", "same for all"]
BATCH_NOISES: tuple[str, ...] = get_args(BatchNoise)

SEED_COUNT = 1 << 64


def noise_places(latent: dict[str, Any], first: int = 0) -> list[int]:
    """Return the places of a LATENT's pictures in the whole batch, which decide their noise.

    Args:
        latent: LATENT; nodes that take pictures out of a batch leave their places in it.
        first: Place of the first picture where they did not.
    """
    count = len(latent["samples"])
    index = latent.get("batch_index")
    return list(range(first, first + count)) if index is None else list(index)


def picture_generators(
    seed: int, batch_noise: BatchNoise, places: Iterable[int]
) -> list[torch.Generator]:
    """Return a generator for each picture of a batch.

    Args:
        seed: Seed of the node.
        batch_noise: Whether the picture at place k takes `seed + k` or every picture `seed`.
        places: Place of each picture in the whole batch.
    """
    offsets = [0 if batch_noise == "same for all" else place for place in places]
    return [torch.Generator().manual_seed((seed + offset) % SEED_COUNT) for offset in offsets]


def draw_noise(generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Return standard normal noise, one picture from each generator.

    Args:
        generators: One for each picture; they live on the CPU, so every device gets the same.
        like: `(B, C, H, W)` whose shape and device the noise gets; float32.
    """
    shape = like.shape[1:]
    pictures = [torch.randn(shape, generator=generator) for generator in generators]
    noise = torch.stack(pictures)
    if like.device.type == "cuda":  # from other memory the host would wait for the copy
        return noise.pin_memory().to(like.device, non_blocking=True)
    return noise.to(like.device)


def step_noise_sampler(
    x: Tensor, seed: int, batch_noise: BatchNoise, places: Iterable[int] | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a noise sampler for the steps of a run.

    A picture's stream is its start noise, then a draw for each step, so the first draw, which is
    the start noise that ComfyUI or `draw_noise` made from the same seed, is passed over.

    Args:
        x: `(B, C, H, W)` state of the run.
        seed: Seed of the run.
        batch_noise: See `picture_generators`.
        places: Place of each picture in the whole batch; None for a whole batch.
    """
    generators: list[torch.Generator] = []

    def sample(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        if not generators:  # runs of one step, or without randomness, draw nothing
            pictures = range(len(x)) if places is None else places
            generators.extend(picture_generators(seed, batch_noise, pictures))
            draw_noise(generators, x.new_empty(x.shape, device="cpu"))
        return draw_noise(generators, x)

    return sample
