from __future__ import annotations

import pytest
import torch

from pack.images.labels import GAP, draw_label, label_grid


def flat(*colors: float, height: int = 20, width: int = 30) -> list[torch.Tensor]:
    return [torch.full((3, height, width), color) for color in colors]


def test_pictures_stand_in_rows_from_left_to_right():
    grid = label_grid(flat(0.1, 0.2, 0.3), ["", "", ""], 2, 0)
    assert grid.shape == (3, 2 * 20 + GAP, 2 * 30 + GAP)
    assert (grid[:, :20, :30] == 0.1).all()
    assert (grid[:, :20, 30 + GAP :] == 0.2).all()
    assert (grid[:, 20 + GAP :, :30] == 0.3).all()
    assert (grid[:, 20:, 30:] == 1).all()
    assert (grid[:, 20 : 20 + GAP] == 1).all()


def test_more_columns_than_pictures_leave_no_empty_ones():
    assert label_grid(flat(0.1, 0.2), ["", ""], 9, 0).shape == (3, 20, 2 * 30 + GAP)


def test_a_label_stands_over_its_picture():
    grid = label_grid(flat(0.5, 0.5), ["", "fidelity 1"], 2, 24)
    assert grid.shape == (3, 44, 2 * 30 + GAP)
    assert (grid[:, :24, :30] == 1).all()
    assert torch.equal(grid[:, :24, 30 + GAP :], draw_label("fidelity 1", 30, 24))
    assert (grid[:, 24:, :30] == 0.5).all()


def test_a_label_is_black_on_white_in_the_middle():
    label = draw_label("cfg 4", 200, 32)
    assert label.shape == (3, 32, 200)
    assert label.max() == 1
    assert label.min() == 0
    columns = (label[0] < 0.5).any(dim=0).nonzero()
    rows = (label[0] < 0.5).any(dim=1).nonzero()
    assert abs((columns.min() + columns.max()) / 2 - 100) < 4
    assert abs((rows.min() + rows.max()) / 2 - 16) < 5


@pytest.mark.parametrize("width", [60, 90, 150])
def test_a_long_label_gets_smaller_until_it_fits(width):
    columns = (draw_label("guidance scale 0.35", width, 40)[0] < 0.5).any(dim=0).nonzero()
    assert columns.min() > 0
    assert columns.max() < width - 1


def test_what_fits_at_no_size_is_cut():
    assert draw_label("guidance " * 20, 50, 30).shape == (3, 30, 50)
    assert draw_label("a", 1, 1).shape == (3, 1, 1)
