"""Which pictures of a batch a part of it holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Two pictures' noises are alike by about 1 / sqrt(elements). A picture's own and its noised latent
# are the less alike the lower the noise that sampling starts from, but above so many times that.
CHANCES = 8.0


def places_in_batch(
    pictures: int,
    count: int,
    *,
    batch_index: Sequence[int] | None = None,
    latent: Tensor | None = None,
    candidates: Tensor | None = None,
    noise: Tensor | None = None,
    seed: int | None = None,
) -> list[int]:
    """Return for each picture of a latent its place in the batch that was prepared.

    As many pictures, or a whole multiple, are that batch itself, once or several times, unless the
    latents tell otherwise. A part of it is told by the latents themselves, by the index that
    ComfyUI's nodes give a part, or by the noise that ComfyUI draws for it.

    Args:
        pictures: Number of pictures in the latent.
        count: Number of pictures that were prepared; 1 serves all.
        batch_index: ComfyUI's places of the pictures.
        latent: `(pictures, C, H, W)` as sampling got it.
        candidates: `(count, C, H, W)` latents of the prepared pictures.
        noise: `(pictures, C, H, W)` start noise, or a state that is mostly noise.
        seed: Seed that ComfyUI drew it from.
    Raises:
        ValueError: If it cannot be told.
    """
    if count == 1:
        return [0] * pictures
    found = None
    if latent is not None and candidates is not None:
        found = equal_places(latent, candidates)
    if found is None and pictures % count == 0:
        found = [k % count for k in range(pictures)]
    if found is None and batch_index is not None and len(batch_index) == pictures:
        found = list(batch_index) if max(batch_index) < count else None
    if found is None and noise is not None and seed is not None:
        found = drawn_places(noise, seed, count)
    if found is None:
        raise ValueError(
            f"the latent holds {pictures} of the {count} pictures that the conditioning was made"
            " for, and which they are cannot be told. Prepare conditioning and latent from the same"
            " pictures, or take the latent out of the batch with Latent From Batch or Rebatch"
            " Latents right before sampling."
        )
    return found


def equal_places(latent: Tensor, candidates: Tensor) -> list[int] | None:
    """Return which candidate each picture of a latent equals, None where one equals none."""
    if latent.shape[1:] != candidates.shape[1:]:
        return None
    candidates = candidates.to(latent)
    places = []
    for k, picture in enumerate(latent):
        order = [k % len(candidates), *range(len(candidates))]  # its own place first
        equal = (place for place in order if torch.equal(candidates[place], picture))
        places.append(next(equal, None))
    return None if None in places else places


def drawn_places(noise: Tensor, seed: int, count: int) -> list[int] | None:
    """Return the places whose noise ComfyUI draws from a seed, None where one is of none.

    Args:
        noise: `(B, C, H, W)` noise, or a state that is mostly noise, of any scale.
        seed: The seed.
        count: How many places there are.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = noise.float().cpu()
    draws = (torch.randn((1, *noise.shape[1:]), generator=generator) for _ in range(count))
    best, places = torch.stack([likeness(noise, draw) for draw in draws]).max(dim=0)
    return places.tolist() if bool((best > 1).all()) else None


def likeness(state: Tensor, noise: Tensor) -> Tensor:
    """Return how alike states and noises are, above 1 only where a state holds the noise.

    Args:
        state: `(B, C, H, W)`, noise of any scale or a noised latent.
        noise: The same shape, or `(1, C, H, W)`.
    Returns:
        `(B,)`, the cosine of both over what no two different noises reach.
    """
    least = min(0.5, CHANCES / state[0].numel() ** 0.5)
    return F.cosine_similarity(state.flatten(1), noise.flatten(1), dim=1) / least
