"""Sampling along similarity transforms, and how transforms combine."""

from __future__ import annotations

import math

import pytest
import torch

from pack.images.warp import (
    chain_transforms,
    enlarging_transform,
    invert_transform,
    transform_points,
    transform_scale,
    warp,
)

GREY = torch.tensor([0.2, 0.4, 0.6])


def similarity(scale: float, degrees: float, x: float, y: float) -> torch.Tensor:
    cos, sin = (f(math.radians(degrees)) * scale for f in (math.cos, math.sin))
    return torch.tensor([[cos, -sin, x], [sin, cos, y]], dtype=torch.float64)


def smooth(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([0.5 + 0.3 * (f * x / 9 + y / 13).sin() for f in (0.5, 1, 1.5)])


def test_an_inverse_undoes_a_transform_and_a_chain_does_both():
    first, second = similarity(1.7, 33, 4, -9), similarity(0.4, -120, 1, 2)
    points = torch.rand(6, 2, dtype=torch.float64) * 100
    there = transform_points(first, points)
    assert torch.allclose(transform_points(invert_transform(first), there), points)
    both = transform_points(chain_transforms(first, second), points)
    assert torch.allclose(both, transform_points(second, there))
    assert transform_scale(second) == pytest.approx(0.4)


def test_the_identity_gives_the_picture_back():
    picture = smooth(20, 30)
    assert torch.allclose(warp(picture, similarity(1, 0, 0, 0), 20, 30, GREY), picture, atol=1e-6)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_right_angles_move_pixels_whole(degrees: int):
    picture = torch.rand(3, 15, 15)
    turn = similarity(1, degrees, 0, 0)
    turn[:, 2] = 7 - turn[:, :2] @ torch.tensor([7.0, 7.0], dtype=torch.float64)
    turned = warp(picture, turn, 15, 15, GREY)
    assert torch.allclose(turned, picture.rot90(-degrees // 90, (1, 2)), atol=1e-5)


@pytest.mark.parametrize("scale", [1 / 7.3, 0.5, 1.0, 3.2])
def test_a_gradient_lies_where_the_transform_puts_it(scale: float):
    x = torch.arange(300.0)
    picture = (x / 300).expand(3, 300, 300)
    side = max(16, int(60 * scale))
    matrix = similarity(scale, 20, 0, 0)
    middle = torch.full((2,), 149.5, dtype=torch.float64)
    matrix[:, 2] = side / 2 - matrix[:, :2] @ middle
    seen = warp(picture, matrix, side, side, GREY)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = transform_points(invert_transform(matrix), torch.stack([columns, rows], dim=-1))
    reach = 4 * max(1, 1 / scale)
    inside = ((places > reach) & (places < 299 - reach)).all(-1)
    assert inside.any()
    # The cubic with a = -0.75 bends a slope by an eighth of its step at most.
    assert torch.allclose(seen[0].double()[inside], places[..., 0][inside] / 300, atol=5e-4)


def test_a_reduction_takes_means_and_makes_no_pattern():
    board = ((torch.arange(240)[:, None] + torch.arange(240)) % 2).float().expand(3, -1, -1)
    reduced = warp(board, similarity(1 / 6, 10, 10, 0), 20, 20, torch.full((3,), 0.5))
    assert (reduced - 0.5).abs().max() < 0.02


def test_beyond_the_picture_lies_the_colour_asked_for():
    away = warp(torch.rand(3, 8, 8), similarity(2, 0, 500, 500), 6, 6, GREY)
    assert torch.equal(away, GREY[:, None, None].expand(3, 6, 6))
    beside = warp(torch.rand(3, 8, 8), similarity(1, 0, 20, 0), 8, 30, GREY)
    assert torch.allclose(beside[..., :15], GREY[:, None, None].expand(3, 8, 15), atol=1e-6)


def test_an_enlargement_keeps_edges_in_place():
    edges = torch.tensor([[-0.5, -0.5], [9.5, 19.5]], dtype=torch.float64)
    moved = transform_points(enlarging_transform(4, 2), edges)
    assert moved.tolist() == [[-0.5, -0.5], [39.5, 39.5]]
