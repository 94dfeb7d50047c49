"""DiffBIR's guidance in closed form, the region weights, and the rescaled scale."""

from __future__ import annotations

import pytest
import torch

from pack.samplers.guidance import (
    best_share,
    chain_mean_weight,
    edge_weights,
    guidance_delta,
    guidance_scale,
    guidance_steps,
    latent_gain,
    next_sigma,
    posterior_mean_weight,
    rescaled_cfg_scale,
)
from pack.samplers.schedules import ResShiftSchedule
from pack.tests.support.golden import assert_close, golden_case


@pytest.fixture(scope="module")
def golden():
    return golden_case("diffbir/guidance_deltas")


@pytest.mark.parametrize("kind", ["latent_mse", "rgb_mse", "rgb_wmse"])
def test_deltas_are_the_references(golden, kind):
    description, tensors = golden
    space = kind.split("_")[0]
    target = tensors[f"{space}_target"]
    weight = edge_weights(target) if kind == "rgb_wmse" else 1.0
    scale = guidance_scale(description["scale"], "v2")
    assert scale == description["internal_scale"]
    delta = guidance_delta(tensors[f"{space}_pred"], target, scale, weight)
    expected = tensors[f"{kind}_delta"]
    assert_close(delta, expected, 1e-6 * expected.abs().max().item())


def test_edge_weights_are_the_references(golden):
    tensors = golden[1]
    assert_close(edge_weights(tensors["rgb_target"]), tensors["rgb_weight_map"], 2e-6)


def test_edge_weights_are_one_on_flat_ground_and_low_at_edges():
    picture = -torch.ones(1, 3, 8, 12)
    picture[..., 6:] = 1
    weight = edge_weights(picture)
    assert_close(weight[..., :4], torch.ones(1, 1, 8, 4), 1e-6)
    assert weight[..., 4:8].max() < 0.01


@pytest.mark.parametrize("weighted", [False, True])
def test_the_delta_is_the_gradient(weighted):
    generator = torch.Generator().manual_seed(3)
    pred, target, weight = torch.rand(3, 2, 3, 4, 6, generator=generator, dtype=torch.float64)
    weight = weight[:, :1] if weighted else torch.ones(1, dtype=torch.float64)
    pred.requires_grad_()
    distance = (weight * (pred - target) ** 2).mean((1, 2, 3)).sum()
    (gradient,) = torch.autograd.grad(distance, pred)
    assert_close(guidance_delta(pred.detach(), target, 7.0, weight), -7 * gradient, 1e-12)


@pytest.mark.parametrize("version", ["v2", "v1"])
@pytest.mark.parametrize("repeat", [1, 2, 5])
def test_the_gain_is_what_the_repeated_moves_amount_to(version, repeat):
    generator = torch.Generator().manual_seed(4)
    pred, target = torch.randn(2, 1, 4, 4, 4, generator=generator, dtype=torch.float64)
    scale = 0.01 if version == "v2" else 20.0
    mean_weight = torch.tensor(0.3, dtype=torch.float64)
    step, share = guidance_steps(mean_weight, version)
    moved = pred
    for _ in range(repeat):
        moved = moved + step * guidance_delta(moved, target, guidance_scale(scale, version))
    expected = pred + share * (moved - pred)
    gain = latent_gain(mean_weight, 64, scale=scale, version=version, repeat=repeat, clamp=False)
    assert_close(pred - gain * (pred - target), expected, 1e-12)


def test_v2_shifts_the_mean_by_delta_and_v1_by_half_of_it():
    pred, target = torch.full((1, 1, 2, 2), 3.0), torch.ones(1, 1, 2, 2)
    mean_weight = torch.tensor(0.05)
    for version, scale, share in (("v2", 1e-4, 1.0), ("v1", 0.3, 0.5)):
        gain = latent_gain(mean_weight, 4, scale=scale, version=version, repeat=1, clamp=False)
        mean_shift = -mean_weight * gain * (pred - target)
        delta = guidance_delta(pred, target, guidance_scale(scale, version))
        assert_close(mean_shift, share * delta, 1e-6)


@pytest.mark.parametrize("version", ["v2", "v1"])
@pytest.mark.parametrize("repeat", [1, 3])
def test_a_clamped_gain_never_passes_the_target(version, repeat):
    for scale in (0.0, 1e-3, 0.5, 400.0):
        for mean_weight in (1e-3, 0.05, 1.0):
            settings = {"scale": scale, "version": version, "repeat": repeat}
            weight = torch.tensor(mean_weight, dtype=torch.float64)
            clamped = latent_gain(weight, 256, **settings, clamp=True)
            assert 0 <= clamped <= 1
            free = latent_gain(weight, 256, **settings, clamp=False)
            move = 2 * guidance_scale(scale, version) / 256 * guidance_steps(weight, version)[0]
            if move <= 1 and free <= 1:
                assert clamped == free


def test_without_scale_nothing_moves():
    assert latent_gain(torch.tensor(0.1), 64, scale=0, version="v2", repeat=3, clamp=False) == 0


@pytest.mark.parametrize(("sigma", "sigma_next"), [(14.6, 8.3), (2.0, 0.03), (0.03, 0.0)])
def test_the_mean_weight_is_ddpms_coefficient(sigma, sigma_next):
    kept, kept_next = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
    expected = (1 - kept / kept_next) * kept_next**0.5 / (1 - kept)
    actual = posterior_mean_weight(*torch.tensor([sigma, sigma_next], dtype=torch.float64))
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_the_mean_weight_from_pure_noise_is_the_next_clean_share():
    actual = posterior_mean_weight(torch.tensor(torch.inf), torch.tensor(2.0))
    assert actual.item() == pytest.approx(5**-0.5, rel=1e-6)


def test_the_chains_mean_weight_is_the_change_of_eta():
    schedule = ResShiftSchedule(4, 2.0, 0.2)
    eta, sigmas = schedule.eta(), schedule.trained_sigmas()
    for i in (1, 2, 3):
        weight = chain_mean_weight(sigmas[i], sigmas[i - 1], schedule.kappa)
        assert weight.item() == pytest.approx((1 - eta[i - 1] / eta[i]).item(), rel=1e-9)
    assert chain_mean_weight(sigmas[0], torch.zeros(()).double(), schedule.kappa) == 1


def test_the_next_sigma_is_the_largest_below_also_between_entries():
    sigmas = torch.tensor([10.0, 5.0, 1.0, 0.0])
    found = {at: next_sigma(torch.tensor(at), sigmas).item() for at in (10.0, 7.0, 5.0, 1.0, 0.5)}
    assert found == {10.0: 5.0, 7.0: 5.0, 5.0: 1.0, 1.0: 0.0, 0.5: 0.0}
    rounded = torch.tensor(5.0) * (1 + 2e-7)
    assert next_sigma(rounded, sigmas) == 1.0


def test_the_best_share_is_where_a_linear_move_comes_nearest():
    before = torch.tensor([2.0, 2.0, 2.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    after = torch.tensor([-2.0, 1.0, 4.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    share = best_share(before, after)
    assert share.flatten().tolist() == [0.5, 1.0, 0.0]
    assert best_share(before, before).flatten().tolist() == [0, 0, 0]


@pytest.mark.parametrize("scale", [1.0, 4.0, 6.0, 8.0])
def test_the_rescaled_scale_is_the_references(scale):
    expected = golden_case("diffbir/schedules")[1][f"cfg_{scale}"]
    actual = rescaled_cfg_scale(scale, torch.arange(1000, dtype=torch.float64))
    assert_close(actual, expected, 1e-12)
