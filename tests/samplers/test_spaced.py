"""The spaced sampler against the reference's trajectories."""

from __future__ import annotations

import pytest
import torch

from pack.samplers.discrete import (
    alphas_cumprod,
    sigmas_from_alphas_cumprod,
    spaced_sigmas,
    spaced_timesteps,
)
from pack.samplers.guidance import (
    latent_gain,
    next_sigma,
    posterior_mean_weight,
    rescaled_cfg_scale,
)
from pack.samplers.spaced import posterior_coefficients, sample_spaced
from pack.tests.support.golden import assert_close, golden_case

# ComfyUI's table holds this in place of infinity.
FINITE_START = 4518.76
VARIANCE = 0.25


def run_case(name: str, start_sigma: float = FINITE_START):
    """Return golden tensors, the predictions, the states after each step and the noise draws."""
    description, golden = golden_case("diffbir/spaced_trajectories")
    settings = description["runs"][name]
    velocity = settings["zero_snr"]
    kept = alphas_cumprod(zero_snr=velocity)
    table = sigmas_from_alphas_cumprod(kept)
    if velocity:
        table[-1] = start_sigma
    sigmas = spaced_sigmas(table.float(), settings["steps"])
    timesteps = spaced_timesteps(settings["steps"])[::-1]
    assert timesteps == settings["timesteps_descending"]

    def predict(x_t, mean, a):
        root = a**0.5
        gained = VARIANCE * root / (VARIANCE * a + 1 - a)
        clean = mean + gained * (x_t - root * mean)
        if velocity:
            return (root * x_t - clean) / (1 - a) ** 0.5
        return (x_t - root * clean) / (1 - a) ** 0.5

    def model(x, sigma):
        t = timesteps[calls.pop(0)]
        a, level = kept[t].item(), sigma[0]
        x_t = x / (1 + level**2).sqrt()
        scale = settings["cfg"]
        if settings["rescale_cfg"]:
            scale = rescaled_cfg_scale(scale, torch.tensor(float(t))).item()
        uncond = predict(x_t, golden["mu_uncond"], a)
        output = uncond + scale * (predict(x_t, golden["mu_cond"], a) - uncond)
        if velocity:
            denoised = x / (1 + level**2) - output * level / (1 + level**2).sqrt()
        else:
            denoised = x - level * output
        if settings["guidance_scale"] and settings["t_stop"] < t + 1 < settings["t_start"]:
            gain = latent_gain(
                posterior_mean_weight(level, next_sigma(level, sigmas)),
                denoised[0].numel(),
                scale=settings["guidance_scale"],
                version="v2",
                repeat=settings["repeat"],
                clamp=False,
            )
            denoised = denoised - gain * (denoised - golden["guidance_target"])
        return denoised

    calls = list(range(settings["steps"]))
    noises = list(golden[f"{name}_noises"])
    seen = []
    result = sample_spaced(
        model,
        golden["x_T"] * (1 + sigmas[0] ** 2).sqrt(),
        sigmas,
        callback=seen.append,
        zero_snr_start=velocity,
        noise_sampler=lambda sigma, sigma_next: noises.pop(0)[None],
    )
    states = [step["x"] / (1 + step["sigma"] ** 2).sqrt() for step in seen[1:]]
    clean = torch.cat([step["denoised"] for step in seen])
    return golden, clean, torch.cat([*states, result]), noises


# Float32 rounding, on values up to about 9.
@pytest.mark.parametrize(
    "name", ["v2_plain", "v2_plain_5", "v2_plain_50", "v2_guided", "v2_guided_window"]
)
def test_trajectories_are_the_references(name):
    golden, clean, states, noises = run_case(name)
    assert_close(states, golden[f"{name}_x"], 1e-5)
    assert_close(clean, golden[f"{name}_pred_x0"], 4e-5)  # c1 of 0.01 magnifies rounding early
    assert len(noises) == 1  # the reference draws one more, at the step to 0


@pytest.mark.parametrize("start_sigma", [300.0, FINITE_START, 1e6])
def test_the_start_at_zero_snr_is_exact_whatever_stands_for_infinity(start_sigma):
    golden, clean, states, _ = run_case("v21_plain", start_sigma)
    assert_close(states, golden["v21_plain_x"], 1e-5)
    assert_close(clean, golden["v21_plain_pred_x0"], 1e-5)


def test_the_coefficients_are_ddpms():
    kept = alphas_cumprod()[spaced_timesteps(10)].flip(0)
    sigmas = torch.cat([sigmas_from_alphas_cumprod(kept), torch.zeros(1)])
    before = torch.cat([kept[1:], torch.ones(1)])  # alpha-bar that each step leads to
    beta = 1 - kept / before
    share, spread = posterior_coefficients(sigmas)
    scale = before.sqrt()
    clean_weight = beta * scale / (1 - kept)
    state_weight = (1 - before) * (1 - beta).sqrt() / (1 - kept)
    assert_close(scale * (1 - share), clean_weight, 1e-12)
    assert_close(scale * share, state_weight * kept.sqrt(), 1e-12)
    assert_close((scale * spread) ** 2, beta * (1 - before) / (1 - kept), 1e-12)


def test_the_last_step_gives_the_prediction_and_draws_nothing():
    clean = torch.full((2, 1, 2, 2), 0.3)

    def no_noise(sigma, sigma_next):
        raise AssertionError("noise was drawn")

    result = sample_spaced(
        lambda x, sigma: clean,
        torch.ones(2, 1, 2, 2),
        torch.tensor([1.0, 0.0]),
        noise_sampler=no_noise,
    )
    assert torch.equal(result, clean)


def test_a_run_that_stops_early_keeps_the_noise_of_its_last_sigma():
    clean = torch.zeros(1, 1, 64, 64)
    generator = torch.Generator().manual_seed(0)
    state = sample_spaced(
        lambda x, sigma: clean,
        3.0 * torch.randn(clean.shape, generator=generator),
        torch.tensor([3.0, 1.5]),
        noise_sampler=lambda *_: torch.randn(clean.shape, generator=generator),
    )
    assert state.std().item() == pytest.approx(1.5, rel=0.05)
