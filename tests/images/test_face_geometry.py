"""Five points and the transform that aligns them."""

from __future__ import annotations

import pytest
import torch

from pack.images.face_geometry import (
    EYE_CORNERS,
    MOUTH_CORNERS,
    NOSE_TIP,
    eye_distance,
    face_template,
    fit_similarity,
    fit_similarity_robustly,
    five_points,
)
from pack.images.warp import invert_transform, transform_points
from pack.tests.images.test_warp import similarity

TURNS = (0, 30, 90, 180, -137)
WIDTHS = (12, 200, 3000)


@pytest.mark.parametrize("degrees", TURNS)
@pytest.mark.parametrize("width", WIDTHS)
def test_an_exact_transform_is_recovered(degrees: int, width: int):
    # As a photograph has it: a face of this width, turned, 300 px from the corner.
    place = similarity(width / 512, degrees, 300, 300)
    seen = transform_points(place, face_template())
    for fit in (fit_similarity, fit_similarity_robustly):
        found = fit(seen, face_template())
        corners = torch.tensor([[0.0, 0], [511, 0], [0, 511]], dtype=torch.float64)
        there = transform_points(invert_transform(found), corners)
        assert (there - transform_points(place, corners)).abs().max() < 1e-4


@pytest.mark.parametrize("outlier", range(5))
@pytest.mark.parametrize("distance", [30.0, 4000.0])
def test_one_wrong_point_of_five_does_not_move_the_fit(outlier: int, distance: float):
    place = similarity(0.3, 25, 100, 50)
    seen = transform_points(place, face_template())
    wrong = seen.clone()
    wrong[outlier] += torch.tensor([distance, -distance / 2])
    found = fit_similarity_robustly(wrong, face_template())
    kept = [k for k in range(5) if k != outlier]
    assert (transform_points(found, seen) - face_template())[kept].abs().max() < 1e-4
    plain = fit_similarity(wrong, face_template())
    assert (transform_points(plain, seen) - face_template())[kept].abs().max() > 1


def test_two_points_in_one_place_do_not_count_as_a_pair():
    seen = transform_points(similarity(0.3, 25, 100, 50), face_template())
    seen[4] = seen[3]
    found = fit_similarity_robustly(seen, face_template())
    assert (transform_points(found, seen) - face_template())[:4].abs().max() < 1e-4


def test_points_with_noise_are_fitted_together():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    found = fit_similarity_robustly(face_template() + noise, face_template())
    moved = transform_points(found, face_template() + noise) - face_template()
    assert moved.square().sum(1).median().sqrt() < 2


def test_a_mirrored_face_is_turned_and_not_mirrored():
    mirrored = face_template() * torch.tensor([-1.0, 1.0])
    found = fit_similarity(mirrored, face_template())
    assert torch.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize("count", [468, 478])
def test_five_points_are_taken_from_the_mesh(count: int):
    mesh = torch.zeros(count, 2)
    for side, corners in enumerate(EYE_CORNERS):
        mesh[corners[0]] = torch.tensor([10.0 + 40 * side, 20])
        mesh[corners[1]] = torch.tensor([20.0 + 40 * side, 22])
    mesh[NOSE_TIP] = torch.tensor([35.0, 40])
    mesh[list(MOUTH_CORNERS)] = torch.tensor([[20.0, 60], [50.0, 61]])
    points = five_points(mesh)
    assert points.tolist() == [[15, 21], [55, 21], [35, 40], [20, 60], [50, 61]]
    assert eye_distance(points) == 40
