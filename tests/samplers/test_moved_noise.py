"""Noise along a flow: each value once, standard normal and white in every frame, still of the picture."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pack.samplers.moved_noise import MovedNoise, NoisePlaces, first_places, move_places

HEIGHT, WIDTH = 48, 64
PAN, SLOW_PAN, TURN, ZOOM_IN, ZOOM_OUT = "pan", "slow pan", "turn", "zoom in", "zoom out"


def flow(kind: str) -> Tensor:
    """Return a backward flow, `(2, H, W)`."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    x, y = columns - WIDTH / 2 + 0.5, rows - HEIGHT / 2 + 0.5
    return {
        PAN: torch.stack([torch.full_like(x, 2.0), torch.full_like(y, -1.0)]),
        SLOW_PAN: torch.stack([torch.full_like(x, 0.3), torch.full_like(y, 0.5)]),
        TURN: torch.stack([0.05 * y, -0.05 * x]),
        ZOOM_IN: torch.stack([-0.04 * x, -0.04 * y]),
        ZOOM_OUT: torch.stack([0.04 * x, 0.04 * y]),
    }[kind]


def followed(backward: Tensor, frames: int, trust: float = 1.0) -> list[NoisePlaces]:
    places = [first_places(*backward.shape[-2:])]
    for _ in range(frames - 1):
        places.append(move_places(places[-1], backward, torch.full_like(backward[:1], trust)))
    return places


def normal(channels: int = 4, height: int = HEIGHT, width: int = WIDTH, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, height, width, generator=generator)


@pytest.mark.parametrize("kind", [PAN, SLOW_PAN, TURN, ZOOM_IN, ZOOM_OUT])
@pytest.mark.parametrize("trust", [0.0, 1.0])
def test_every_frame_has_every_value_once(kind, trust):
    for places in followed(flow(kind), 8, trust):
        assert torch.equal(places.sources.flatten().sort().values, torch.arange(HEIGHT * WIDTH))


@pytest.mark.parametrize("kind", [PAN, SLOW_PAN, TURN, ZOOM_IN, ZOOM_OUT])
def test_every_frame_is_standard_normal_and_white(kind):
    # 16 channels of 3072 values: means of products spread by 1 / sqrt(49152) = 0.0045.
    moved = MovedNoise(torch.stack([p.sources for p in followed(flow(kind), 8)])).of(normal(16))
    for noise in moved:
        assert abs(noise.mean()) < 0.02
        assert abs(noise.var() - 1) < 0.03
        assert abs((noise**4).mean() / noise.var() ** 2 - 3) < 0.15
        for along in ((noise[..., 1:], noise[..., :-1]), (noise[:, 1:], noise[:, :-1])):
            assert abs((along[0] * along[1]).mean()) < 0.02


def test_under_a_pan_of_whole_pixels_the_noise_moves_exactly_with_the_picture():
    places = followed(flow(PAN), 6)
    moved = MovedNoise(torch.stack([p.sources for p in places])).of(normal())
    for before, after in itertools.pairwise(moved):
        assert torch.equal(after[:, 1:, :-2], before[:, :-1, 2:])


def test_a_slow_pan_moves_the_noise_where_the_sum_of_its_steps_rounds_to():
    places = followed(flow(SLOW_PAN), 11)  # 10 steps of 0.3 and 0.5
    noise = MovedNoise(torch.stack([p.sources for p in places])).of(normal())
    assert torch.equal(noise[10][:, 1:-6, 1:-4], noise[0][:, 6:-1, 4:-1])


@pytest.mark.parametrize("kind", [TURN, ZOOM_OUT])
def test_most_of_the_noise_follows_motion_that_is_no_pan(kind):
    backward = flow(kind)
    for before, after in zip(*(followed(backward, 6)[k:][:5] for k in (0, 1)), strict=True):
        rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
        was = torch.empty(HEIGHT * WIDTH, 2)
        was[before.sources.flatten()] = torch.stack([columns, rows], -1).flatten(0, 1).float()
        now = torch.stack([columns, rows], -1) + backward.movedim(0, -1)
        away = (was[after.sources] - now).abs().amax(-1)
        assert (away <= 2).float().mean() > 0.8


def test_what_is_not_trusted_takes_only_what_nobody_else_takes():
    # The right half slides over the left one, whose pixels at the seam are hidden.
    backward = torch.zeros(2, HEIGHT, WIDTH)
    backward[0, :, 32:] = 4.0
    backward[0, :, 24:32] = 12.0  # a wrong flow, to what the right half already takes
    trust = torch.ones(1, HEIGHT, WIDTH)
    trust[:, :, 24:32] = 0
    first = first_places(HEIGHT, WIDTH)
    after = move_places(first, backward, trust)
    assert torch.equal(after.sources[:, 32:60], first.sources[:, 36:64])
    assert torch.equal(after.sources[:, :24], first.sources[:, :24])


def test_without_motion_the_noise_stays():
    places = followed(torch.zeros(2, HEIGHT, WIDTH), 3, trust=0.0)
    assert torch.equal(places[-1].sources, places[0].sources)


def test_far_and_mad_flows_still_give_every_value_once():
    for scale in (30.0, 1e4):
        wild = scale * torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(3))
        places = move_places(first_places(9, 7), wild, torch.ones(1, 9, 7))
        assert torch.equal(places.sources.flatten().sort().values, torch.arange(63))


def test_a_folded_latents_noise_moves_by_pixels_of_the_picture():
    backward = torch.zeros(2, 16, 24)
    backward[0] = 1.0
    sources = torch.stack([p.sources for p in followed(backward, 2)])
    noise = normal(48, 4, 6)
    moved = MovedNoise(sources, fold=4).of(noise)
    assert moved.shape == (2, 48, 4, 6)
    assert torch.equal(moved[:1], noise)
    pictures = torch.nn.functional.pixel_shuffle(moved, 4)
    assert torch.equal(pictures[1][..., :-1], pictures[0][..., 1:])
