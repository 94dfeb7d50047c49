from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pack.samplers.chain import forward_sample, posterior_step, prior_sample
from pack.samplers.residual_shift import residual_shift_step, sample_residual_shift
from pack.samplers.schedules import (
    ResShiftSchedule,
    index_from_sigma,
    sampling_sigmas,
    sqrt_eta_from_sigma,
)
from pack.tests.support.golden import assert_close, golden_case

KAPPA = 2.0
GOLDEN_RUNS = ["d1_sample_sf4_s15", "d2_sample_sf4_s4_rect", "d3_sample_sf1_mask_s4"]
S15 = ResShiftSchedule(15, KAPPA, 0.04)


def golden_run(name: str) -> tuple[ResShiftSchedule, Tensor, Tensor]:
    description, tensors = golden_case(f"resshift/{name}")
    numbers = description["diffusion"]
    schedule = ResShiftSchedule(
        numbers["steps"], numbers["kappa"], numbers["min_noise_level"], numbers["etas_end"]
    )
    return schedule, tensors["z_y"].double(), tensors["noises"].double()


def toy_prediction(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
    """Stands for a network: reads the chain's state, y and the index, none of them linearly."""
    return torch.tanh(0.4 * x + 0.3 * y + 0.05 * index) + 0.2 * y


def shift_state(w: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
    """Return the chain's x for the sampler's w."""
    eta = sqrt_eta_from_sigma(sigma, KAPPA) ** 2
    return (1 - eta) * w + eta * y


def never(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    raise AssertionError("no noise is needed here")


@pytest.mark.parametrize("name", GOLDEN_RUNS)
def test_the_sampler_walks_the_papers_chain_exactly(name):
    schedule, y, noises = golden_run(name)
    eta, grid = schedule.eta(), schedule.trained_sigmas()

    x = prior_sample(y, noises[0], eta[-1], KAPPA)
    chain = []
    for k in reversed(range(len(eta))):
        chain.append(x)
        x_0 = toy_prediction(x, y, torch.tensor(float(k), dtype=x.dtype))
        eta_prev = eta[k - 1] if k else torch.zeros_like(eta[0])
        x = posterior_step(x, x_0, noises[len(eta) - k], eta[k], eta_prev, KAPPA)

    def model(w: Tensor, sigma: Tensor) -> Tensor:
        index = index_from_sigma(sigma, grid).view(-1, 1, 1, 1)
        return toy_prediction(shift_state(w, y, sigma[0]), y, index)

    states = []
    remaining = iter(noises[1:])
    final = sample_residual_shift(
        model,
        y + grid[-1] * noises[0],
        sampling_sigmas(grid, 0),
        callback=lambda step: states.append(shift_state(step["x"], y, step["sigma"])),
        kappa=KAPPA,
        noise_sampler=lambda sigma, sigma_next: next(remaining),
    )
    for state, expected in zip(states, chain, strict=True):
        assert_close(state, expected, 1e-13)
    assert_close(final, x, 1e-13)


def test_without_randomness_no_noise_is_drawn_and_the_noise_in_the_state_is_kept():
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 1, 3, 4, 4, generator=generator, dtype=torch.float64)
    sigmas = S15.trained_sigmas().flip(0)  # ends above 0
    final = sample_residual_shift(
        lambda x, sigma: x_0,
        x_0 + sigmas[0] * noise,
        sigmas,
        kappa=KAPPA,
        randomness=0.0,
        noise_sampler=never,
    )
    assert_close(final, x_0 + sigmas[-1] * noise, 1e-13)


@pytest.mark.parametrize("randomness", [0.0, 0.5, 1.0])
def test_every_randomness_keeps_the_marginal(randomness):
    generator = torch.Generator().manual_seed(1)
    noises = torch.randn(2, 200_000, generator=generator, dtype=torch.float64)
    x_0, sigma, sigma_next = torch.tensor(0.3), S15.trained_sigmas()[10], S15.trained_sigmas()[7]
    x = x_0 + sigma * noises[0]
    x = residual_shift_step(x, x_0, noises[1], sigma, sigma_next, KAPPA, randomness)
    assert x.mean().item() == pytest.approx(0.3, abs=0.02)
    assert x.std().item() == pytest.approx(sigma_next.item(), rel=0.01)


def test_full_randomness_is_the_posterior_of_the_chain_for_any_two_sigmas():
    generator = torch.Generator().manual_seed(2)
    x_0, y, noise, fresh = torch.randn(4, 1, 3, 4, 4, generator=generator, dtype=torch.float64)
    eta, eta_prev = torch.tensor([0.83, 0.21], dtype=torch.float64)
    x = forward_sample(x_0, y, noise, eta, KAPPA)
    sigma, sigma_next = KAPPA * eta.sqrt() / (1 - eta), KAPPA * eta_prev.sqrt() / (1 - eta_prev)
    w = residual_shift_step((x - eta * y) / (1 - eta), x_0, fresh, sigma, sigma_next, KAPPA, 1.0)
    expected = posterior_step(x, x_0, fresh, eta, eta_prev, KAPPA)
    assert_close(shift_state(w, y, sigma_next), expected, 1e-14)


def test_the_last_step_returns_the_prediction_and_draws_no_noise():
    denoised = torch.full((2, 3, 4, 4), 0.25)
    sigmas = torch.tensor([99.5, 0.0])
    final = sample_residual_shift(
        lambda x, sigma: denoised, torch.ones(2, 3, 4, 4), sigmas, kappa=KAPPA, noise_sampler=never
    )
    assert torch.equal(final, denoised)


def test_the_model_and_the_callback_get_what_comfyui_passes():
    seen, steps = [], []

    def model(x: Tensor, sigma: Tensor, **extra: object) -> Tensor:
        seen.append((sigma, extra))
        return x * 0.5

    sigmas = torch.tensor([4.0, 1.0, 0.0])
    sample_residual_shift(
        model,
        torch.ones(3, 1, 2, 2),
        sigmas,
        {"seed": 5},
        steps.append,
        kappa=KAPPA,
        noise_sampler=lambda sigma, sigma_next: torch.zeros(3, 1, 2, 2),
    )
    assert [sigma.tolist() for sigma, _ in seen] == [[4.0] * 3, [1.0] * 3]
    assert all(extra == {"seed": 5} for _, extra in seen)
    assert [step["i"] for step in steps] == [0, 1]
    assert [step["sigma"].item() for step in steps] == [4.0, 1.0]
    assert all(torch.equal(step["denoised"], step["x"] * 0.5) for step in steps)
