from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pack.model_loaders.resshift_sampling import ResShiftSampling
from pack.samplers.chain import PREDICT_TYPES, predict_x_0, prior_sample, scale_input
from pack.samplers.schedules import ResShiftSchedule
from pack.tests.support.golden import assert_close

SCHEDULE = ResShiftSchedule(15, 2.0, 0.04)
SAMPLING = ResShiftSampling(SCHEDULE, "xstart")


def states(batch: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return w, y, an output and the sigma of each, spread over the chain."""
    w, y, output = torch.randn(3, batch, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    sigma = SAMPLING.trained_sigmas[[0, 3, 7, 11, 14]]
    return w * sigma.view(-1, 1, 1, 1) + y, y, output, sigma


def test_the_tables_are_float32_and_hold_the_schedule():
    assert SAMPLING.trained_sigmas.dtype == SAMPLING.sigmas.dtype == torch.float32
    assert torch.equal(SAMPLING.trained_sigmas, SCHEDULE.trained_sigmas().float())
    assert torch.isin(SAMPLING.trained_sigmas, SAMPLING.sigmas).all()
    assert SAMPLING.sigma_min == SAMPLING.trained_sigmas[0]
    assert SAMPLING.sigma_max == SAMPLING.trained_sigmas[-1] == SAMPLING.sigmas[-1]
    assert not SAMPLING.state_dict()


def test_the_timestep_is_the_index_and_sigma_its_inverse():
    assert SAMPLING.timestep(SAMPLING.trained_sigmas).tolist() == list(range(15))
    assert SAMPLING.sigma(torch.arange(15)).tolist() == SAMPLING.trained_sigmas.tolist()
    between = SAMPLING.timestep(SAMPLING.sigma(torch.tensor([2.5, 13.25])))
    assert between.tolist() == pytest.approx([2.5, 13.25], abs=1e-4)


def test_percent_runs_down_the_chain_from_before_it_to_zero():
    assert SAMPLING.percent_to_sigma(0.0) == SAMPLING.percent_to_sigma(-1) > 1e6
    assert SAMPLING.percent_to_sigma(1.0) == SAMPLING.percent_to_sigma(2) == 0
    at_steps = [SAMPLING.percent_to_sigma(1 - k / 14) for k in range(1, 14)]
    assert at_steps == pytest.approx(SAMPLING.trained_sigmas[1:14].tolist(), rel=1e-5)
    sigmas = [SAMPLING.percent_to_sigma(k / 50) for k in range(51)]
    assert sigmas == sorted(sigmas, reverse=True)
    assert len(set(sigmas)) == 51


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_the_start_state_is_the_papers_start_around_y(shape):
    _, y, noise, _ = states()
    sigma, eta = SAMPLING.sigma_max, SCHEDULE.eta()[-1]
    w = SAMPLING.noise_scaling(sigma.reshape(shape), noise, y, max_denoise=True)
    assert_close((1 - eta) * w + eta * y, prior_sample(y, noise, eta, 2.0), 5e-6)
    assert torch.equal(SAMPLING.inverse_noise_scaling(sigma, w), w)


def test_each_picture_of_a_batch_may_have_its_own_sigma():
    _, y, noise, sigma = states()
    scaled = SAMPLING.noise_scaling(sigma, noise, y)
    alone = [SAMPLING.noise_scaling(sigma[k], noise[k], y[k]) for k in range(5)]
    assert torch.equal(scaled, torch.stack(alone))


def test_the_shares_of_state_and_y_make_the_networks_input():
    w, y, _, sigma = states()
    eta = SCHEDULE.eta()[[0, 3, 7, 11, 14]].view(-1, 1, 1, 1)
    x = (1 - eta) * w + eta * y
    made = SAMPLING.calculate_input(sigma, w) + SAMPLING.shift_scale(sigma, y)
    assert_close(made, scale_input(x, eta, 2.0).float(), 2e-6)


@pytest.mark.parametrize("predict_type", PREDICT_TYPES)
def test_the_denoised_latent_is_the_papers_prediction(predict_type):
    w, y, output, sigma = states()
    eta = SCHEDULE.eta()[[0, 3, 7, 11, 14]].view(-1, 1, 1, 1)
    x = (1 - eta) * w + eta * y
    expected = predict_x_0(predict_type, output, x, y, eta, 2.0).float()
    denoised = ResShiftSampling(SCHEDULE, predict_type).calculate_denoised(sigma, output, w)
    if predict_type == "residual":  # the model adds y, which model_sampling never sees
        denoised = denoised + y
    # rounding of w, which is large where epsilon's error is
    tolerance = 1e-6 * sigma.view(-1, 1, 1, 1).clamp(min=1)
    assert ((denoised - expected).abs() <= 5 * tolerance).all()
