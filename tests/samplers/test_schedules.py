from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pack.samplers.schedules import (
    SPACINGS,
    ResShiftSchedule,
    dense_sigmas,
    eta_schedule,
    index_from_sigma,
    one_minus_eta_from_sigma,
    sampling_sigmas,
    sigma_from_eta,
    sigma_from_index,
    sqrt_eta_from_sigma,
)
from pack.tests.support.golden import golden_case

DESCRIPTION, TABLES = golden_case("resshift/a_eta_schedules")
WHOLE = [name for name, case in DESCRIPTION["configs"].items() if not case["timestep_respacing"]]
S15 = ResShiftSchedule(15, 2.0, 0.04)
S4 = ResShiftSchedule(4, 2.0, 0.2)
LARGE_KAPPA = ResShiftSchedule(40, 8.0, 0.3, 0.9, 2.0)
SCHEDULES = [S15, S4, LARGE_KAPPA]


def golden_schedule(name: str) -> ResShiftSchedule:
    case = DESCRIPTION["configs"][name]
    return ResShiftSchedule(
        case["steps"], case["kappa"], case["min_noise_level"], case["etas_end"], case["power"]
    )


def assert_relative(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", WHOLE)
def test_eta_and_sigma_are_those_of_the_reference(name):
    schedule = golden_schedule(name)
    assert_relative(schedule.eta(), TABLES[f"{name}.eta"])
    assert_relative(schedule.eta().sqrt(), TABLES[f"{name}.sqrt_eta"])
    assert_relative(schedule.trained_sigmas(), TABLES[f"{name}.sigma"])


@pytest.mark.parametrize("name", WHOLE)
def test_posterior_and_input_tables_follow_from_eta(name):
    schedule = golden_schedule(name)
    eta, kappa = schedule.eta(), schedule.kappa
    eta_prev = torch.cat([eta.new_zeros(1), eta[:-1]])
    variance = kappa**2 * eta_prev * (eta - eta_prev) / eta
    clipped = torch.cat([variance[1:2], variance[1:]])
    assert_relative(eta - eta_prev, TABLES[f"{name}.alpha"])
    assert_relative(eta_prev / eta, TABLES[f"{name}.coef_xt"])
    assert_relative((eta - eta_prev) / eta, TABLES[f"{name}.coef_x0"])
    assert_relative(variance, TABLES[f"{name}.post_var"])
    assert_relative(clipped.log(), TABLES[f"{name}.post_logvar_clipped"])
    assert_relative((kappa**2 * eta + 1).sqrt(), TABLES[f"{name}.input_std_latent"])
    assert_relative(3 * kappa * eta.sqrt() + 1, TABLES[f"{name}.input_max_pixel"])


def test_official_spacing_keeps_the_sigmas_of_the_references_respacing():
    grid = golden_schedule("s15_respace5").trained_sigmas()
    sigmas = sampling_sigmas(grid, 5, spacing="official")
    assert_relative(sigmas[:-1].flip(0), TABLES["s15_respace5.sigma"])
    assert sigmas[-1] == 0
    index = index_from_sigma(sigmas[:-1].flip(0), grid)
    assert index.tolist() == TABLES["s15_respace5.timestep_map"].tolist()


def test_official_spacing_cuts_fractions_of_an_index_off():
    grid = S15.trained_sigmas()
    sigmas = sampling_sigmas(grid, 4, spacing="official")
    assert torch.equal(sigmas[:-1], grid[[11, 7, 3, 0]])  # 11.25, 7.5, 3.75, 0


@pytest.mark.parametrize("name", WHOLE)
def test_the_network_gets_the_index_of_the_reference(name):
    grid = golden_schedule(name).trained_sigmas()
    assert index_from_sigma(grid, grid).tolist() == TABLES[f"{name}.timestep_map"].tolist()


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"steps": 1}, "at least 2 steps"),
        ({"kappa": 0.0}, "positive"),
        ({"power": -1.0}, "positive"),
        ({"min_noise_level": 0.0}, "below etas_end"),
        ({"etas_end": 1.0}, r"must lie in \(0, 1\)"),
        ({"min_noise_level": 1.99, "etas_end": 0.9}, "below etas_end"),
    ],
)
def test_numbers_out_of_range_are_refused(values, remedy):
    good = {"steps": 4, "kappa": 2.0, "min_noise_level": 0.2, "etas_end": 0.99, "power": 0.3}
    with pytest.raises(ValueError, match=remedy):
        eta_schedule(**{**good, **values})


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 5e-7)])
@pytest.mark.parametrize("kappa", [0.5, 2.0, 8.0])
def test_sigma_goes_to_eta_and_back(dtype, tolerance, kappa):
    sigma = torch.logspace(-6, 3, 200, dtype=dtype)
    sqrt_eta = sqrt_eta_from_sigma(sigma, kappa)
    back = kappa * sqrt_eta / one_minus_eta_from_sigma(sigma, kappa)
    assert back.dtype == dtype
    assert_relative(back, sigma, tolerance)
    assert sqrt_eta_from_sigma(torch.zeros(1, dtype=dtype), kappa) == 0
    assert one_minus_eta_from_sigma(torch.zeros(1, dtype=dtype), kappa) == 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-15), (torch.float32, 2e-7)])
def test_eta_goes_to_sigma_and_back(dtype, tolerance):
    eta = torch.linspace(1e-5, 0.9801, 500, dtype=torch.float64)
    sigma = sigma_from_eta(eta, 2.0).to(dtype)
    assert_relative(sqrt_eta_from_sigma(sigma, 2.0).double(), eta.sqrt(), tolerance)


def test_one_minus_eta_keeps_its_precision_in_float32_where_eta_is_near_one():
    sigma = torch.tensor([99.49748744, 1e4], dtype=torch.float64)
    exact = one_minus_eta_from_sigma(sigma, 2.0)
    assert_relative(exact, 1 - sqrt_eta_from_sigma(sigma, 2.0) ** 2, 1e-11)
    assert_relative(one_minus_eta_from_sigma(sigma.float(), 2.0).double(), exact, 2e-7)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_dense_table_grows_strictly_and_holds_the_grid_bit_for_bit(schedule, dtype):
    grid = schedule.trained_sigmas().to(dtype)
    table = dense_sigmas(grid)
    every = math.ceil(1024 / len(grid))
    assert len(table) == every * len(grid) >= 1024
    assert table.dtype == dtype
    assert torch.equal(table[every - 1 :: every], grid)
    assert table[0] > 0
    assert (table.diff() > 0).all()


def test_a_grid_longer_than_the_table_is_its_own_table():
    grid = ResShiftSchedule(1500, 2.0, 0.04).trained_sigmas()
    assert torch.equal(dense_sigmas(grid), grid)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_index_is_whole_on_the_grid_also_after_rounding_to_float32(schedule):
    grid = schedule.trained_sigmas()
    whole = torch.arange(len(grid))
    assert torch.equal(index_from_sigma(grid, grid), whole.double())
    rounded = grid.float()
    assert torch.equal(index_from_sigma(rounded * (1 + 1e-6), rounded), whole.float())
    assert torch.equal(index_from_sigma(rounded * (1 - 1e-6), rounded), whole.float())


def test_the_index_between_entries_is_log_linear_and_ends_at_the_grids_ends():
    grid = S4.trained_sigmas()
    middles = (grid[:-1] * grid[1:]).sqrt()
    torch.testing.assert_close(index_from_sigma(middles, grid), torch.arange(3).double() + 0.5)
    outside = torch.tensor([0.0, 1e-9, 1e9], dtype=torch.float64)
    assert index_from_sigma(outside, grid).tolist() == [0, 0, 3]
    assert index_from_sigma(grid[2], grid).shape == ()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sigma_of_an_index_is_the_inverse_of_index_of_a_sigma(schedule):
    grid = schedule.trained_sigmas()
    index = torch.linspace(0, len(grid) - 1, 77, dtype=torch.float64)
    torch.testing.assert_close(
        index_from_sigma(sigma_from_index(index, grid), grid), index, rtol=0, atol=1e-3
    )
    assert torch.equal(sigma_from_index(torch.arange(len(grid)), grid), grid)
    assert torch.equal(sigma_from_index(torch.tensor([-1.0, 1e3]), grid), grid[[0, -1]])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_as_many_steps_as_the_model_has_take_its_grid_bit_for_bit(spacing):
    for steps in (0, 15):
        sigmas = sampling_sigmas(S15.trained_sigmas(), steps, spacing)
        assert torch.equal(sigmas[:-1].flip(0), S15.trained_sigmas())
        assert sigmas[-1] == 0


def test_fewer_steps_are_spread_evenly_and_keep_the_noisiest():
    grid = S15.trained_sigmas()
    assert torch.equal(sampling_sigmas(grid, 1), torch.stack([grid[14], grid.new_zeros(())]))
    assert torch.equal(sampling_sigmas(grid, 3)[:-1], grid[[14, 7, 0]])
    assert torch.equal(sampling_sigmas(grid, 5)[:-1], grid[[14, 10, 7, 4, 0]])


@pytest.mark.parametrize("steps", range(1, 41))
def test_every_number_of_steps_gives_that_many_falling_sigmas_from_the_noisiest_to_zero(steps):
    grid = S15.trained_sigmas()
    sigmas = sampling_sigmas(grid, steps)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == grid[-1]
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    if steps > 1:
        assert sigmas[-2] == grid[0]


def test_more_steps_than_trained_are_log_interpolated():
    grid = S4.trained_sigmas()
    sigmas = sampling_sigmas(grid, 7)[:-1].flip(0)
    assert torch.equal(sigmas[::2], grid)
    torch.testing.assert_close(sigmas[1::2], (grid[:-1] * grid[1:]).sqrt())


@pytest.mark.parametrize(
    ("steps", "spacing", "remedy"),
    [(-1, "even", "0 .* or more"), (16, "official", "at most 15.*'even'")],
)
def test_impossible_numbers_of_steps_are_refused(steps, spacing, remedy):
    with pytest.raises(ValueError, match=remedy):
        sampling_sigmas(S15.trained_sigmas(), steps, spacing)
