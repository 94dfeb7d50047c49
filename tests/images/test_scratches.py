from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor

from pack.images.damage import scratch
from pack.images.scratches import find_scratches, grow

BOTH = "light and dark"


def plane(value: float = 0.5, height: int = 64, width: int = 80) -> Tensor:
    return torch.full((1, 3, height, width), value)


def with_line(value: float, slope: int = 1) -> tuple[Tensor, Tensor]:
    """Return a grey picture with a line two pixels wide, and where it is."""
    image, truth = plane(), torch.zeros(64, 80, dtype=torch.bool)
    for row in range(8, 56):
        column = 20 + row // slope if slope else 40
        truth[row, column : column + 2] = True
    image[0, :, truth] = value
    return image, truth


@pytest.mark.parametrize("slope", [0, 1, 2, 5])
@pytest.mark.parametrize(("value", "shade"), [(0.9, "light"), (0.1, "dark")])
def test_a_line_is_found_in_every_direction_and_little_else(slope, value, shade):
    image, truth = with_line(value, slope)
    found = find_scratches(image, 0.5, 3, shade, specks=False)[0, 0] > 0
    assert found[truth].float().mean() > 0.9
    assert (found & ~(grow(truth[None, None].float(), 2)[0, 0] > 0)).sum() == 0
    other = {"light": "dark", "dark": "light"}[shade]
    assert not find_scratches(image, 0.5, 3, other, specks=False)[0, 0][truth].any()


def test_an_edge_and_a_wide_stripe_are_no_scratches():
    edge, stripe = plane(), plane()
    edge[..., 40:] = 0.9
    stripe[..., 30:50] = 0.9
    for image in (edge, stripe, plane(0.0), plane(1.0)):
        assert not find_scratches(image, 0.5, 3, BOTH, specks=True).any()


def test_specks_are_found_by_choice():
    image = plane()
    image[..., 30:32, 40:42] = 1.0
    assert find_scratches(image, 0.5, 3, BOTH, specks=True)[0, 0, 30:32, 40:42].all()
    assert not find_scratches(image, 0.5, 3, BOTH, specks=False).any()


def test_more_sensitivity_finds_fainter_lines():
    image, truth = with_line(0.6)
    found = [find_scratches(image, value, 3, BOTH, False)[0, 0][truth].mean() for value in (0, 1)]
    assert found[0] == 0
    assert found[1] > 0.9


@pytest.mark.parametrize("pixels", [0, 1, 7])
def test_a_mask_grows_by_a_square(pixels):
    mask = torch.zeros(1, 1, 40, 50)
    mask[..., 20, 30] = mask[..., 3, 2] = 1
    expected = torch.zeros_like(mask)
    for row, column in ((20, 30), (3, 2)):
        rows, columns = (slice(max(0, k - pixels), k + pixels + 1) for k in (row, column))
        expected[..., rows, columns] = 1
    assert torch.equal(grow(mask, pixels), expected)


def test_pictures_of_a_few_pixels_have_a_mask_too():
    assert find_scratches(torch.rand(2, 3, 1, 5), 0.5, 3, BOTH, specks=True).shape == (2, 1, 1, 5)


def test_most_scratches_of_a_photograph_are_found():
    photograph = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1).float() / 255
    scratched, where = scratch(photograph[:, :200, :240], 1.0, np.random.default_rng(3))
    found = grow(find_scratches(scratched[None], 0.3, 3, BOTH, specks=True), 1)[0, 0]
    hidden = where > 0.5
    assert hidden.any()
    assert found[hidden].mean() > 0.8
    assert found.mean() < 0.15
