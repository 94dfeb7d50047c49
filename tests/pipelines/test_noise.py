from __future__ import annotations

import itertools

import pytest
import torch

from pack.pipelines.noise import (
    STILL_BATCH_NOISES,
    PictureSeeds,
    draw_noise,
    step_noise_sampler,
)

LIKE = torch.zeros(3, 4, 5, 6)
SIGMA = torch.tensor(1.0)


def seeded(seed: int, draws: int = 1) -> list[torch.Tensor]:
    """Return what a generator of this seed draws for one picture, one draw after the other."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(LIKE.shape[1:], generator=generator) for _ in range(draws)]


def test_picture_k_draws_from_seed_plus_k():
    noise = draw_noise(PictureSeeds(7, "different per image").generators(3), LIKE)
    assert torch.equal(noise, torch.stack([seeded(7)[0], seeded(8)[0], seeded(9)[0]]))


def test_pictures_may_all_draw_from_the_seed():
    noise = draw_noise(PictureSeeds(7, "same for all", range(2, 5)).generators(3), LIKE)
    assert torch.equal(noise, seeded(7)[0].expand(3, -1, -1, -1))


def test_a_part_of_a_batch_draws_what_the_whole_batch_gives_it():
    whole = draw_noise(PictureSeeds(7, "different per image").generators(5), LIKE)
    part = draw_noise(PictureSeeds(7, "different per image", range(3, 5)).generators(2), LIKE)
    assert torch.equal(part, whole[3:])


def test_the_largest_seed_works_and_wraps():
    noise = draw_noise(PictureSeeds((1 << 64) - 1, "different per image").generators(2), LIKE)
    assert torch.equal(noise[1], seeded(0)[0])


@pytest.mark.parametrize("batch_noise", STILL_BATCH_NOISES)
def test_steps_go_on_where_the_start_noise_ended(batch_noise):
    sample = step_noise_sampler(LIKE, PictureSeeds(7, batch_noise), 2)
    steps = [sample(SIGMA, SIGMA) for _ in range(2)]
    for k in range(3):
        own = seeded(7 if batch_noise == "same for all" else 7 + k, draws=3)
        assert torch.equal(steps[0][k], own[1])
        assert torch.equal(steps[1][k], own[2])


@pytest.mark.comfy
@pytest.mark.parametrize("batch_noise", STILL_BATCH_NOISES)
@pytest.mark.parametrize("places", [[1], [2], [0, 1, 2], [3, 1]])
def test_no_step_draws_what_comfyui_drew_for_the_start(places, batch_noise):
    from comfy.sample import prepare_noise

    shape = (len(places), 4, 16, 16)
    latent = 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    state = latent + 2 * prepare_noise(latent, 7, places)
    sample = step_noise_sampler(state, PictureSeeds(7, batch_noise), 4)
    drawn = [sample(SIGMA, SIGMA) for _ in range(4)]
    for one in drawn:
        likeness = torch.cosine_similarity(state.flatten(1), one.flatten(1))
        assert likeness.abs().max() < 0.15  # 1 / 32 is usual
        assert one.std(dim=(1, 2, 3)) == pytest.approx(torch.ones(len(places)), abs=0.1)
    for one, other in itertools.combinations(drawn, 2):
        assert torch.cosine_similarity(one.flatten(1), other.flatten(1)).abs().max() < 0.15
    shared = all(torch.equal(one[k], one[0]) for one in drawn for k in range(len(places)))
    assert shared == (batch_noise == "same for all" or len(places) == 1)
    again = step_noise_sampler(state, PictureSeeds(7, batch_noise), 4)
    assert torch.equal(again(SIGMA, SIGMA), drawn[0])


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw_noise(PictureSeeds(7, "different per image").generators(2), LIKE)
    step_noise_sampler(LIKE, PictureSeeds(7), 2)(SIGMA, SIGMA)
    assert torch.equal(torch.get_rng_state(), before)
