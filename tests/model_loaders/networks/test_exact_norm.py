from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pack.model_loaders.networks.exact_norm import make_norms_exact
from pack.tests.support.golden import assert_close


def norm(channels: int = 64) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    made = nn.GroupNorm(32, channels, eps=1e-6)
    made.weight.data = torch.rand(channels, generator=generator) + 0.5
    made.bias.data = torch.randn(channels, generator=generator)
    return made.requires_grad_(False)


def maps(mean: float, spread: float, size: tuple[int, ...] = (2, 64, 50, 70)) -> torch.Tensor:
    return mean + spread * torch.randn(size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (3.0, 0.1), (-40.0, 2.0)])
def test_channels_last_maps_are_normed_as_exactly_as_plain_ones(mean, spread):
    exact, x = norm(), maps(mean, spread)
    reference = copy.deepcopy(exact).double()(x.double())
    plain_error = (exact(x).double() - reference).abs().max().item()
    make_norms_exact(exact)
    turned = x.to(memory_format=torch.channels_last)
    made = exact(turned)
    assert made.is_contiguous(memory_format=torch.channels_last)
    # the same numbers in another order: twice the error of the plain layout at most
    assert_close(made.double(), reference, 2 * plain_error)


def test_other_maps_are_left_to_torch():
    exact, plain = norm(), norm()
    make_norms_exact(exact)
    for x in (maps(1, 1), maps(1, 1).bfloat16(), maps(1, 1, (2, 64, 9))):
        for module in (exact, plain):
            module.to(x.dtype)
        assert torch.equal(exact(x), plain(x))


def test_copies_have_weights_of_their_own():
    exact = norm()
    make_norms_exact(exact)
    other = copy.deepcopy(exact)
    other.weight.data.zero_()
    other.bias.data.zero_()
    turned = maps(0, 1).to(memory_format=torch.channels_last)
    assert other(turned).abs().max() == 0
    assert exact(turned).abs().max() > 1


def test_keys_stay_as_they_are():
    exact = nn.Sequential(norm(), nn.Conv2d(64, 8, 1))
    keys = list(exact.state_dict())
    make_norms_exact(exact)
    assert list(exact.state_dict()) == keys
