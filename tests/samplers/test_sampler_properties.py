"""What holds of schedules, chains, guidance and tiles whatever their numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pack.samplers.chain import PREDICT_TYPES, predict_x_0
from pack.samplers.discrete import alphas_cumprod, edm_sigmas, spaced_sigmas
from pack.samplers.guidance import (
    GUIDANCE_VERSIONS,
    best_share,
    chain_mean_weight,
    edge_weights,
    latent_gain,
    posterior_mean_weight,
)
from pack.samplers.schedules import (
    SPACINGS,
    ResShiftSchedule,
    dense_sigmas,
    index_from_sigma,
    one_minus_eta_from_sigma,
    sampling_sigmas,
    sigma_from_index,
    sqrt_eta_from_sigma,
)
from pack.samplers.tiles import TILE_BLENDS, blend_weights, cut_tile, merge_tiles, tile_positions
from pack.tests.support.chain import network_target
from pack.tests.support.properties import EVERY, batches, noise, seeds, sides

schedules = st.builds(
    ResShiftSchedule,
    steps=st.integers(2, 60),
    kappa=st.floats(0.1, 20),
    min_noise_level=st.floats(0.01, 0.5),
    etas_end=st.floats(0.6, 0.999),
    power=st.floats(0.1, 3),
)
weights = st.floats(1e-4, 1)


@EVERY
@given(schedules)
def test_a_schedule_rises_and_its_sigmas_go_back_to_eta(schedule):
    eta, grid = schedule.eta(), schedule.trained_sigmas()
    assert ((eta > 0) & (eta < 1)).all()
    assert (eta.diff() > 0).all()
    assert (grid.diff() > 0).all()
    root = sqrt_eta_from_sigma(grid, schedule.kappa)
    assert torch.allclose(root**2, eta, rtol=1e-9)
    assert torch.allclose(one_minus_eta_from_sigma(grid, schedule.kappa), 1 - eta, rtol=1e-9)


@EVERY
@given(schedules, st.integers(0, 200), st.sampled_from(SPACINGS))
def test_a_run_falls_from_the_noisiest_to_zero(schedule, steps, spacing):
    assume(spacing == "even" or steps <= schedule.steps)
    grid = schedule.trained_sigmas()
    run = sampling_sigmas(grid, steps, spacing)
    assert (run.diff() < 0).all()
    assert run[-1] == 0
    assert run[0] <= grid[-1]
    if spacing == "even":
        assert len(run) == (steps or schedule.steps) + 1
        assert run[0] == grid[-1]


@EVERY
@given(schedules, st.floats(0, 1))
def test_indices_and_sigmas_are_each_others_inverse(schedule, share):
    grid = schedule.trained_sigmas()
    index = torch.tensor(share * (len(grid) - 1), dtype=torch.float64)
    back = index_from_sigma(sigma_from_index(index, grid), grid)
    assert abs(back - index) < 2e-3  # indices within 1e-3 of a whole number become it
    whole = index_from_sigma(grid, grid)
    assert torch.equal(whole, torch.arange(len(grid), dtype=torch.float64))


@EVERY
@given(schedules)
def test_the_dense_table_rises_and_holds_the_grid(schedule):
    grid = schedule.trained_sigmas()
    table = dense_sigmas(grid)
    assert len(table) >= 1024
    assert (table.diff() > 0).all()
    assert torch.isin(grid, table).all()


@EVERY
@given(st.integers(2, 1000), st.booleans())
def test_the_spaced_and_the_edm_runs_fall_to_zero(steps, zero_snr):
    kept = alphas_cumprod(zero_snr=zero_snr).clamp(min=1e-9)
    sigmas = ((1 - kept) / kept).sqrt()
    for run in (spaced_sigmas(sigmas, steps), edm_sigmas(sigmas, min(steps, 500), 1e4)):
        assert (run.diff() < 0).all()
        assert run[-1] == 0


@EVERY
@given(
    st.sampled_from([kind for kind in PREDICT_TYPES if kind != "epsilon_scale"]),
    batches,
    sides,
    sides,
    schedules,
    seeds,
)
def test_a_perfect_network_gives_the_clean_latent(kind, batch, height, width, schedule, seed):
    x_0, y, drawn = (noise(seed + k, batch, 3, height, width).double() for k in range(3))
    eta = schedule.eta()[seed % schedule.steps]
    x = x_0 + eta * (y - x_0) + schedule.kappa * eta.sqrt() * drawn
    target = network_target(kind, x_0, y, drawn, eta, schedule.kappa)
    found = predict_x_0(kind, target, x, y, eta, schedule.kappa)
    assert torch.allclose(found, x_0, atol=1e-6)


@EVERY
@given(st.floats(1e-3, 1e4), st.floats(0, 1), st.floats(0.1, 20))
def test_weights_of_steps_lie_between_nothing_and_all(sigma, share, kappa):
    assume(share < 0.999)
    pair = (
        torch.tensor(sigma, dtype=torch.float64),
        torch.tensor(share * sigma, dtype=torch.float64),
    )
    for weight in (posterior_mean_weight(*pair), chain_mean_weight(*pair, kappa)):
        assert 0 <= weight <= 1
    assert posterior_mean_weight(pair[0], torch.zeros(())) == 1


@EVERY
@given(
    weights,
    st.integers(1, 10**6),
    st.floats(0, 1e4),
    st.sampled_from(GUIDANCE_VERSIONS),
    st.integers(1, 20),
)
def test_a_clamped_pull_never_passes_its_target(weight, elements, scale, version, repeat):
    gain = latent_gain(
        torch.tensor(weight), elements, scale=scale, version=version, repeat=repeat, clamp=True
    )
    assert 0 <= gain <= 1


@EVERY
@given(batches, sides, sides, seeds)
def test_the_best_share_is_none_to_all_and_edges_weigh_less(batch, height, width, seed):
    before, after = (noise(seed + k, batch, 3, 2 * height, 2 * width) - 0.5 for k in range(2))
    share = best_share(before, after)
    assert share.shape == (batch, 1, 1, 1)
    assert ((share >= 0) & (share <= 1)).all()
    edges = edge_weights(before * 2)
    assert edges.shape == (batch, 1, 2 * height, 2 * width)
    assert ((edges >= 0) & (edges <= 1)).all()
    assert not best_share(before, after, 0.0 * before).any()  # where nothing counts


@EVERY
@given(
    batches,
    sides,
    sides,
    st.integers(1, 24),
    st.floats(0, 0.99),
    st.sampled_from(TILE_BLENDS),
    seeds,
)
def test_cutting_and_merging_gives_the_map_back(
    batch, height, width, size, overlapping, blend, seed
):
    x = noise(seed, batch, 3, height, width)
    stride = max(1, size - int(size * overlapping))
    positions = tile_positions(height, width, size, stride)
    tiles = [cut_tile(x, position, size) for position in positions]
    shape = tiles[0].shape[-2:]
    assert {tile.shape[-2:] for tile in tiles} == {shape}
    weight = blend_weights(*shape, size - stride, blend)
    assert torch.allclose(merge_tiles(tiles, positions, height, width, weight), x, atol=1e-5)


@EVERY
@given(st.integers(-5, 1), st.floats(-1, 0))
def test_schedules_that_cannot_be_are_refused(steps, kappa):
    with pytest.raises(ValueError, match="at least 2 steps"):
        ResShiftSchedule(steps, 2.0, 0.2).eta()
    with pytest.raises(ValueError, match="must be positive"):
        ResShiftSchedule(4, kappa, 0.2).eta()
