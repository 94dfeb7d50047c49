"""Stable Diffusion's schedule and DiffBIR's timesteps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pack.samplers.discrete import (
    EDM_FIRST_SIGMA,
    alphas_cumprod,
    edm_sigmas,
    edm_timesteps,
    sigmas_from_alphas_cumprod,
    spaced_sigmas,
    spaced_timesteps,
    training_betas,
)
from pack.tests.support.golden import assert_close, golden_case

CASE = "diffbir/schedules"
SUFFIX = {False: "", True: "_zero_snr"}


@pytest.mark.parametrize("zero_snr", [False, True])
def test_alpha_bar_is_the_references(zero_snr):
    _, golden = golden_case(CASE)
    kept = alphas_cumprod(zero_snr=zero_snr)
    assert_close(kept, golden["alphas_cumprod" + SUFFIX[zero_snr]], 1e-14)
    before = torch.cat([kept.new_ones(1), kept[:-1]])
    assert_close(1 - kept / before, golden["betas" + SUFFIX[zero_snr]], 1e-12)


def test_betas_are_the_references():
    assert_close(training_betas(), golden_case(CASE)[1]["betas"], 1e-16)


def test_zero_snr_ends_in_noise_alone_and_keeps_the_start():
    plain, zero = alphas_cumprod(), alphas_cumprod(zero_snr=True)
    assert zero[-1] == 0
    assert_close(zero[:1], plain[:1], 1e-15)
    assert (zero.diff() < 0).all()
    assert sigmas_from_alphas_cumprod(zero)[-1] == torch.inf


def test_spaced_timesteps_are_the_references():
    expected = golden_case(CASE)[0]["space_timesteps"]
    assert {steps: spaced_timesteps(int(steps)) for steps in expected} == expected


def test_spaced_timesteps_round_to_even_at_a_half_and_reach_both_ends():
    assert spaced_timesteps(3) == [0, 500, 999]  # 499.5
    assert spaced_timesteps(3, 16) == [0, 8, 15]  # 7.5
    assert spaced_timesteps(2, 12) == [0, 11]
    assert spaced_timesteps(3, 14) == [0, 6, 13]  # 6.5
    for steps in range(2, 1001):
        timesteps = spaced_timesteps(steps)
        assert (timesteps[0], timesteps[-1], len(set(timesteps))) == (0, 999, steps)


def test_spaced_sigmas_are_the_models_own_and_end_at_zero():
    sigmas = sigmas_from_alphas_cumprod(alphas_cumprod()).float()
    run = spaced_sigmas(sigmas, 5)
    assert torch.equal(run, torch.cat([sigmas[[999, 749, 500, 250, 0]], torch.zeros(1)]))


@pytest.mark.parametrize("steps", [5, 10, 20, 50])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_edm_sigmas_are_the_references(steps, zero_snr):
    _, golden = golden_case(CASE)
    sigmas = sigmas_from_alphas_cumprod(alphas_cumprod(zero_snr=zero_snr))
    run = edm_sigmas(sigmas, steps, EDM_FIRST_SIGMA)
    expected = golden[f"edm_sigmas{SUFFIX[zero_snr]}_{steps}"].double()
    assert_close(run[:-1] / expected[:-1], torch.ones(steps, dtype=torch.float64), 1e-6)
    assert run[-1] == expected[-1] == 0
    timesteps = golden[f"edm_timesteps{SUFFIX[zero_snr]}_{steps}"].tolist()
    assert edm_timesteps(steps) == timesteps[:steps]


def test_edm_timesteps_are_those_of_numpys_linspace_at_every_number_of_steps():
    for steps in range(1, 1001):
        linspace = np.linspace(999, 0, steps, endpoint=False).astype(int).tolist()
        assert edm_timesteps(steps) == linspace, steps
    shares = {n: [int(999 * (1 - i / n)) for i in range(n)] for n in range(1, 1001)}
    differ = [steps for steps, timesteps in shares.items() if edm_timesteps(steps) != timesteps]
    assert differ[:4] == [37, 74, 99, 111]  # another order of operations falls below whole numbers


def test_spaced_timesteps_add_their_stride_up_as_the_reference_does():
    def multiplied(steps: int) -> list[int]:
        return [round(i * (999 / (steps - 1))) for i in range(steps)]

    differ = [steps for steps in range(2, 1001) if spaced_timesteps(steps) != multiplied(steps)]
    assert len(differ) == 278  # where the sum of rounded strides falls to another side of a half


@pytest.mark.parametrize("timesteps", [spaced_timesteps, edm_timesteps])
@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_number_of_steps_out_of_range_is_refused(timesteps, steps):
    with pytest.raises(ValueError, match="1 to 1000"):
        timesteps(steps)
