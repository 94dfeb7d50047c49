"""Faces cut out of pictures and put back."""

from __future__ import annotations

import pytest
import skimage.data
import torch

from pack.images.face_geometry import OUTSIDE, face_template
from pack.images.face_places import FacePlace, cut_face, put_face_back
from pack.images.warp import transform_points
from pack.tests.images.test_warp import similarity, smooth

LEAST_PSNR_DB = 45.0


def place_at(width: float, degrees: float, x: float, y: float) -> FacePlace:
    """Return the place of a face of this side around a point."""
    matrix = similarity(width / 512, degrees, 0, 0)
    center = torch.tensor([255.5, 255.5], dtype=torch.float64)
    matrix[:, 2] = torch.tensor([x, y], dtype=torch.float64) - matrix[:, :2] @ center
    return FacePlace(0, transform_points(matrix, face_template()))


@pytest.fixture(scope="module")
def astronaut() -> torch.Tensor:
    return torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).float() / 255


def put_back(picture: torch.Tensor, place: FacePlace, face: torch.Tensor, **how):
    changed, weight = picture.clone(), torch.zeros(picture.shape[-2:])
    settings = {"strength": 1.0, "mask": "soft square"} | how
    put_face_back(changed, weight, face, place, tuple(picture.shape[-2:]), **settings)
    return changed, weight


@pytest.mark.parametrize(
    ("width", "degrees", "x", "y"),
    [
        (12, 0, 220, 110),
        (60, 90, 220, 110),
        (166, 7, 222, 118),
        (166, 180, 222, 118),
        (300, -40, 256, 256),
        (450, 3, 250, 250),
        (200, 20, 20, 500),  # at a corner, partly outside
    ],
)
def test_an_untouched_face_comes_back_as_it_was(astronaut, width, degrees, x, y):
    place = place_at(width, degrees, x, y)
    changed, weight = put_back(astronaut, place, cut_face(astronaut, place, 512))
    inside = weight > 0
    error = (changed - astronaut)[:, inside].square().mean()
    assert -10 * error.log10() > LEAST_PSNR_DB
    assert torch.equal(changed[:, ~inside], astronaut[:, ~inside])


@pytest.mark.parametrize("factor", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_face_of_up_to_3000_pixels_comes_back_with_what_512_can_hold(factor: int):
    picture = smooth(400, 400).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    place = place_at(375 * factor, 10, 200 * factor, 200 * factor)
    face = cut_face(picture, place, 512)
    assert face.shape == (3, 512, 512)
    changed, weight = put_back(picture, place, face)
    # Steps of single pixels are not in 512 pixels of so many; the slopes are.
    assert (changed - picture)[:, weight > 0].abs().max() < 0.05


def test_a_face_is_aligned_upright_at_any_turn(astronaut):
    upright = cut_face(astronaut, place_at(166, 0, 222, 118), 256)
    turned = astronaut.rot90(1, (1, 2))  # the picture's right edge comes to the top
    found = cut_face(turned, place_at(166, -90, 118, 511 - 222), 256)
    assert (found - upright).abs().max() < 2e-3


def test_beyond_the_picture_an_aligned_face_is_grey(astronaut):
    face = cut_face(astronaut, place_at(200, 0, 0, 0), 128)
    assert torch.allclose(face[:, :40, :40], torch.tensor(OUTSIDE)[:, None, None], atol=1e-3)
    away = cut_face(astronaut, place_at(100, 0, -900, -900), 64)
    assert torch.allclose(away, torch.tensor(OUTSIDE)[:, None, None].expand(3, 64, 64))


def test_a_face_that_lies_outside_changes_nothing(astronaut):
    changed, weight = put_back(astronaut, place_at(100, 0, -900, 90), torch.rand(3, 64, 64))
    assert torch.equal(changed, astronaut)
    assert not weight.any()


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_face_lands_where_it_was_in_an_enlarged_background(factor: int):
    picture = smooth(120, 160)
    place = place_at(80, 15, 75, 60)
    face = cut_face(picture, place, 256)
    large = torch.nn.functional.interpolate(picture[None], scale_factor=factor, mode="bicubic")[0]
    changed, weight = large.clone(), torch.zeros(large.shape[-2:])
    put_face_back(changed, weight, face, place, (120, 160), strength=1.0, mask="soft square")
    assert (weight == 1).float().mean() > 0.15
    assert (changed - large).abs().max() < 0.01


def test_strength_blends_and_masks_limit(astronaut):
    place = place_at(166, 7, 222, 118)
    white = torch.ones(3, 128, 128)
    full, weight = put_back(astronaut, place, white)
    half, half_weight = put_back(astronaut, place, white, strength=0.5)
    assert torch.allclose(half, (full + astronaut) / 2, atol=1e-6)
    assert torch.allclose(half_weight, weight / 2)
    oval, oval_weight = put_back(astronaut, place, white, mask="face oval")
    assert (oval_weight <= weight).all()
    assert 0 < (oval_weight == 1).sum() < (weight == 1).sum()
    assert torch.equal(oval[:, oval_weight == 0], astronaut[:, oval_weight == 0])
    allowed = torch.zeros(512, 512)
    allowed[:100] = 1
    limited, limited_weight = put_back(astronaut, place, white, allowed=allowed)
    assert torch.equal(limited[:, 100:], astronaut[:, 100:])
    assert limited_weight[:100].any()


def test_the_size_of_a_restored_face_is_free(astronaut):
    place = place_at(166, 7, 222, 118)
    face = cut_face(astronaut, place, 512)
    small = torch.nn.functional.avg_pool2d(face, 2)
    large, _ = put_back(astronaut, place, face)
    reduced, _ = put_back(astronaut, place, small)
    assert (large - reduced).abs().mean() < 2e-3
