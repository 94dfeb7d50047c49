from __future__ import annotations

import pytest
import torch

from pack.images.labels import GAP, draw_label
from pack.pipelines.sweep import compare_pictures

pytestmark = pytest.mark.comfy


def image(color: float, height: int = 20, width: int = 30, batch: int = 1, channels: int = 3):
    return torch.full((batch, height, width, channels), color)


def test_all_stand_in_one_row_and_under_their_labels():
    grid = compare_pictures([image(0.2), image(0.4), image(0.6)], "a\n\nc\n", 0, 16)
    assert grid.shape == (1, 36, 3 * 30 + 2 * GAP, 3)
    assert torch.equal(grid[0, :16, :30].movedim(-1, 0), draw_label("a", 30, 16))
    assert (grid[0, :16, 30 + GAP : 60 + GAP] == 1).all()
    for place, color in enumerate((0.2, 0.4, 0.6)):
        left = place * (30 + GAP)
        torch.testing.assert_close(grid[0, 16:, left : left + 30], image(color)[0])


@pytest.mark.parametrize(("labels", "height"), [("", 32), (" \n", 32), ("a\nb", 0)])
def test_without_text_or_height_there_are_no_labels(labels, height):
    assert compare_pictures([image(0.2), image(0.4)], labels, 1, height).shape[1] == 40 + GAP


def test_pictures_get_the_size_of_the_first_and_lose_alpha():
    grid = compare_pictures([image(0.2), image(0.4, 7, 90, channels=4)], "", 0, 0)
    assert grid.shape == (1, 20, 60 + GAP, 3)
    torch.testing.assert_close(grid[0, :, 30 + GAP :], image(0.4)[0])


def test_every_picture_of_a_batch_has_its_grid_and_one_stands_in_all():
    several = torch.cat([image(0.1), image(0.3)])
    grid = compare_pictures([image(0.5), several], "", 0, 0)
    assert grid.shape[0] == 2
    assert (grid[:, :, :30] == 0.5).all()
    torch.testing.assert_close(grid[0, :, 30 + GAP :], several[0])
    torch.testing.assert_close(grid[1, :, 30 + GAP :], several[1])


@pytest.mark.parametrize(
    ("images", "labels", "remedy"),
    [
        ([], "", "connect at least one image"),
        ([image(0.1), image(0.2)], "a", "1 lines for 2 images; write one line for each"),
        ([image(0.1)], "a\nb", "2 lines for 1 images; write one line for each"),
        (
            [image(0.1, batch=2), image(0.2, batch=3)],
            "",
            "'image0' has 2 pictures .*give each one picture or as many",
        ),
        ([image(float("nan"))], "", "run that model in float32"),
    ],
)
def test_what_does_not_fit_is_refused(images, labels, remedy):
    with pytest.raises(ValueError, match=remedy):
        compare_pictures(images, labels, 0, 16)
