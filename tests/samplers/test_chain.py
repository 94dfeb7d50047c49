from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pack.samplers.chain import (
    PREDICT_TYPES,
    forward_sample,
    posterior_step,
    predict_x_0,
    prior_sample,
    scale_input,
)
from pack.samplers.schedules import ResShiftSchedule
from pack.tests.support.chain import network_target
from pack.tests.support.golden import assert_close, golden_case

KAPPA = 2.0
ETA = ResShiftSchedule(15, KAPPA, 0.04).eta()
_, GOLDEN = golden_case("resshift/a2_predict_types")
X, Y, OUTPUT, CLEAN, NOISE, INDEX = (GOLDEN[name] for name in ("x", "y", "o", "x0", "n", "t"))
ETA_T = ETA[INDEX].view(-1, 1, 1, 1).float()
ETA_PREV = torch.cat([ETA.new_zeros(1), ETA])[INDEX].view(-1, 1, 1, 1).float()


def assert_relative(actual: Tensor, expected: Tensor) -> None:
    """1e-5 of the largest value: epsilon types divide by 1 - eta, which float32 knows to 3e-6."""
    assert_close(actual, expected, 1e-5 * expected.abs().max().item())


def test_the_forward_sample_is_the_references():
    assert_relative(forward_sample(CLEAN, Y, NOISE, ETA_T, KAPPA), GOLDEN["x_t"])


@pytest.mark.parametrize("predict_type", PREDICT_TYPES)
def test_a_denoising_call_is_the_references(predict_type):
    case = f"{predict_type}.latent"
    scaled = scale_input(X, ETA_T, KAPPA)
    assert_relative(scaled, GOLDEN[f"{case}.model_in"])
    x_0 = predict_x_0(predict_type, OUTPUT, X, Y, ETA_T, KAPPA)
    assert_relative(x_0, GOLDEN[f"{case}.x0_hat"])
    mean = posterior_step(X, x_0, torch.zeros_like(X), ETA_T, ETA_PREV, KAPPA)
    assert_relative(mean, GOLDEN[f"{case}.mean"])


@pytest.mark.parametrize("predict_type", PREDICT_TYPES)
def test_a_network_that_hits_its_target_predicts_the_clean_latent(predict_type):
    x_0, y, noise = (t.double() for t in (CLEAN, Y, NOISE))
    eta = ETA[INDEX].view(-1, 1, 1, 1)
    x = forward_sample(x_0, y, noise, eta, KAPPA)
    target = network_target(predict_type, x_0, y, noise, eta, KAPPA)
    assert_close(predict_x_0(predict_type, target, x, y, eta, KAPPA), x_0, 1e-12)


def test_the_last_step_is_the_prediction_itself():
    step = posterior_step(X, CLEAN, NOISE, ETA[0], torch.zeros((), dtype=torch.float64), KAPPA)
    assert torch.equal(step, CLEAN)


def test_posterior_steps_keep_the_forward_marginal():
    generator = torch.Generator().manual_seed(0)
    noises = torch.randn(2, 200_000, generator=generator, dtype=torch.float64)
    x_0, y = torch.tensor(0.7), torch.tensor(-0.4)
    x = forward_sample(x_0, y, noises[0], ETA[9], KAPPA)
    x = posterior_step(x, x_0, noises[1], ETA[9], ETA[8], KAPPA)
    assert x.mean().item() == pytest.approx((x_0 + ETA[8] * (y - x_0)).item(), abs=0.01)
    assert x.std().item() == pytest.approx((KAPPA * ETA[8].sqrt()).item(), rel=0.01)


def test_the_chain_starts_around_the_low_quality_latent_itself():
    start = prior_sample(Y, NOISE, ETA[-1], KAPPA)
    assert_close(start, Y + 1.98 * NOISE, 1e-6)
