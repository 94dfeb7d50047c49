"""From the detector's numbers to faces."""

from __future__ import annotations

import math

import pytest
import torch

from pack.images.face_detection import (
    ANCHORS,
    DETECTOR_PX,
    Level,
    corners_of,
    cut_tiles,
    decode_faces,
    distinct_boxes,
    face_levels,
    in_picture,
    merge_faces,
    mesh_square,
    whole_faces,
)
from pack.images.warp import transform_points


@pytest.mark.parametrize("size", [(100, 100), (471, 600), (1, 900), (2000, 300)])
def test_every_level_covers_the_picture(size: tuple[int, int]):
    levels = list(face_levels(*size, 24))
    assert len(levels[0].corners) == 1
    for level in levels:
        seen = torch.zeros(level.height, level.width, dtype=torch.bool)
        for top, left in level.corners:
            assert min(top, left) >= 0
            seen[top : top + DETECTOR_PX, left : left + DETECTOR_PX] = True
        assert seen.all()
        assert max(level.height, level.width) <= 2 * max(size)


def test_smaller_faces_need_more_levels():
    counts = [len(list(face_levels(1000, 1500, smallest))) for smallest in (400, 100, 24, 8)]
    assert counts == sorted(set(counts))
    assert counts[0] == 1


def test_tiles_are_pieces_of_the_resized_picture():
    picture = torch.rand(3, 200, 400)
    level = Level(200, 400, ((0, 0), (8, 208)))
    tiles = cut_tiles(picture, level)
    assert torch.allclose(tiles[1] / 2 + 0.5, picture[:, 8:200, 208:400], atol=1e-6)
    narrow = cut_tiles(picture[:, :50], Level(50, 400, ((0, 0),)))
    assert (narrow[0, :, 50:] == -1).all()


def test_numbers_become_boxes_and_points_around_their_anchor():
    numbers, scores = torch.zeros(ANCHORS**2, 16), torch.full((ANCHORS**2, 1), -20.0)
    place = 10 * ANCHORS + 30
    numbers[place, :4] = torch.tensor([0.0, 0.0, 19.2, 38.4])
    numbers[place, 4:6] = torch.tensor([-1.92, 1.92])
    scores[place] = 5
    faces, sure = decode_faces(numbers, scores, 0.5)
    center = torch.tensor([30.5, 10.5]) / ANCHORS
    assert torch.allclose(faces[0, 0], center - torch.tensor([0.05, 0.1]))
    assert torch.allclose(faces[0, 1], center + torch.tensor([0.05, 0.1]))
    assert torch.allclose(faces[0, 2], center + torch.tensor([-0.01, 0.01]))
    assert sure.tolist() == pytest.approx([1 / (1 + math.exp(-5))])


def test_a_face_at_an_edge_counts_only_where_the_picture_ends():
    face = torch.full((1, 8, 2), 0.5)
    face[0, 0], face[0, 1] = torch.tensor([0.0, 0.3]), torch.tensor([0.4, 0.7])
    level = Level(400, 400, ())
    assert whole_faces(face, level, (100, 0)).tolist() == [True]
    assert whole_faces(face, level, (100, 100)).tolist() == [False]
    mirrored = face.clone()
    mirrored[0, 0], mirrored[0, 1] = 1 - face[0, 1], 1 - face[0, 0]
    assert whole_faces(mirrored, level, (100, 208)).tolist() == [True]
    assert whole_faces(mirrored, level, (100, 200)).tolist() == [False]


def test_points_of_a_tile_come_to_their_place_in_the_picture():
    level = Level(400, 800, ())
    middle = in_picture(torch.full((1, 8, 2), 0.5), level, (100, 300), (800, 1600))
    assert middle[0, 0].tolist() == [2 * (300 + 96) - 0.5, 2 * (100 + 96) - 0.5]


def test_overlapping_boxes_are_one_face_and_the_surest_leads():
    boxes = torch.tensor([[0, 0, 10, 10], [50, 50, 60, 60], [1, 1, 11, 11], [3, 3, 6, 6.0]])
    assert distinct_boxes(boxes, torch.tensor([0.6, 0.7, 0.9, 0.5])) == [[2, 0, 3], [1]]
    assert distinct_boxes(torch.zeros(0, 4), torch.zeros(0)) == []


def test_merged_faces_are_means_by_score():
    faces = torch.zeros(2, 8, 2)
    faces[0, 1], faces[1, 1] = 10, 12
    ((mean, best, sure),) = merge_faces(faces, torch.tensor([0.25, 0.75]))
    assert mean[1].tolist() == [11.5, 11.5]
    assert torch.equal(best, faces[1])
    assert sure == 0.75


@pytest.mark.parametrize("degrees", [0, 30, 180, -75])
def test_the_mesh_sees_faces_upright_and_whole(degrees: int):
    turn = math.radians(degrees)
    matrix = torch.tensor(
        [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64
    )
    corners = corners_of((-30, -40, 30, 40)) @ matrix.T + 200
    eyes = torch.tensor([[-15.0, -10], [15, -10]], dtype=torch.float64) @ matrix.T + 200
    square = mesh_square(corners, eyes)
    left, right = transform_points(square, eyes).tolist()
    assert left[1] == pytest.approx(right[1])
    assert left[0] < right[0]
    seen = transform_points(square, corners)
    assert torch.allclose(seen.mean(0), torch.full((2,), 127.5, dtype=torch.float64))
    assert (seen[:, 1].max() - seen[:, 1].min()).item() == pytest.approx(256 / 1.5)
