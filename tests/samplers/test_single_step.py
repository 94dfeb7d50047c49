"""The start and the end of HYPIR's single step."""

from __future__ import annotations

import pytest
import torch

from pack.samplers.single_step import noise_without_noise, take_share


@pytest.mark.parametrize("sigma", [1e-4, 0.0292, 0.571666, 14.6])
@pytest.mark.parametrize("spread", [False, True])
def test_the_start_is_the_latent_over_the_root_of_alpha_bar(sigma: float, spread: bool):
    latent = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1)).double()
    level = torch.tensor(sigma, dtype=torch.float64)
    noise = noise_without_noise(latent, level, spread=spread)
    start = latent + noise * ((1 + level**2).sqrt() if spread else level)
    alpha_bar = 1 / (1 + sigma**2)
    assert torch.allclose(start, latent / alpha_bar**0.5, rtol=1e-14, atol=0)


def test_small_sigmas_lose_nothing_in_float32():
    latent = torch.ones(1, 1, 1, 1)
    noise = noise_without_noise(latent, torch.tensor(1e-4), spread=False)
    assert noise.item() == pytest.approx(0.5e-4, rel=1e-6)  # (sqrt(1 + s^2) - 1) / s


def test_strength_takes_its_share_of_the_way_and_1_is_the_step_itself():
    latent, restored = torch.tensor([0.0, 2.0]), torch.tensor([1.0, -2.0])
    assert take_share(latent, restored, 1.0) is restored
    assert torch.equal(take_share(latent, restored, 0.0), latent)
    assert torch.equal(take_share(latent, restored, 0.25), torch.tensor([0.25, 1.0]))
