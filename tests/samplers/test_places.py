from __future__ import annotations

import pytest
import torch

from pack.samplers.places import drawn_places, places_in_batch

LATENTS = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def drawn(seed: int, *places: int) -> torch.Tensor:
    """Return the noise that ComfyUI draws for these places of a batch."""
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randn(1, 4, 8, 8, generator=generator) for _ in range(max(places) + 1)]
    return torch.cat([draws[place] for place in places])


def test_one_prepared_picture_serves_all():
    assert places_in_batch(3, 1) == [0, 0, 0]


@pytest.mark.parametrize("times", [1, 2])
def test_as_many_pictures_are_the_batch_itself_once_or_several_times(times):
    assert places_in_batch(3 * times, 3, batch_index=[7] * 3 * times) == [0, 1, 2] * times


def test_a_latent_tells_by_itself_which_picture_it_is():
    part = LATENTS[[2, 0]]
    assert places_in_batch(2, 3, latent=part, candidates=LATENTS, batch_index=[0, 0]) == [2, 0]
    assert places_in_batch(3, 3, latent=LATENTS.flip(0), candidates=LATENTS) == [2, 1, 0]


def test_equal_pictures_keep_their_places():
    same = LATENTS[:1].expand(3, -1, -1, -1)
    assert places_in_batch(3, 3, latent=same, candidates=same) == [0, 1, 2]


def test_a_latent_that_has_been_sampled_is_told_by_its_index():
    found = places_in_batch(1, 3, latent=LATENTS[1:2] + 1, candidates=LATENTS, batch_index=[1])
    assert found == [1]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_noise_tells_which_place_it_was_drawn_for(share):
    state = drawn(5, 2, 1) + share * LATENTS[:2]
    assert places_in_batch(2, 3, noise=14 * state, seed=5) == [2, 1]


def test_other_noise_tells_nothing():
    assert drawn_places(drawn(6, 1), 5, 3) is None
    assert drawn_places(torch.zeros(1, 4, 8, 8), 5, 3) is None


@pytest.mark.parametrize("index", [None, [4], [0, 1]])
def test_what_cannot_be_told_is_refused(index):
    with pytest.raises(ValueError, match=r"1 of the 3 pictures.*Latent From Batch"):
        places_in_batch(1, 3, batch_index=index, noise=drawn(6, 1), seed=5)
