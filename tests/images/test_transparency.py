from __future__ import annotations

import pytest
import torch

from pack.images.transparency import visible_planes


def cut_out(channels: int = 4, batch: int = 1) -> torch.Tensor:
    """Return an IMAGE of which the middle is visible, softly at its edge, and the rest black."""
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(batch, 13, 22, channels, generator=generator) * 0.5 + 0.25
    image[..., -1] = 0
    image[:, 4:9, 6:15, -1] = 0.5
    image[:, 5:8, 7:14, -1] = 1
    image[..., :-1] *= (image[..., -1:] > 0).float()
    return image


@pytest.mark.parametrize("channels", [2, 4])
def test_hidden_pixels_take_the_colours_of_the_visible_ones(channels):
    image = cut_out(channels)
    planes = visible_planes(image)
    visible = image[0, ..., -1] > 0
    colors = image[..., :-1].movedim(-1, 1).expand(-1, 3, -1, -1)
    assert planes.shape == (1, 3, 13, 22)
    assert torch.equal(planes[..., visible], colors[..., visible])
    assert planes.min() >= colors[..., visible].min()
    assert planes.max() <= colors[..., visible].max()


def test_next_to_the_edge_the_colour_is_that_of_the_edge():
    image = cut_out()
    image[0, :, :11, 0] = 1.0
    planes = visible_planes(image)
    assert planes[0, 0, 6, 4] > planes[0, 0, 6, 16] + 0.2


@pytest.mark.parametrize("channels", [1, 3])
def test_without_alpha_nothing_changes(channels):
    image = torch.rand(2, 5, 4, channels)
    assert torch.equal(visible_planes(image), image.movedim(-1, 1).expand(-1, 3, -1, -1))


def test_a_picture_of_which_nothing_is_visible_is_left_as_it_is():
    image = cut_out(batch=2)
    image[1, ..., -1] = 0
    planes = visible_planes(image)
    assert torch.equal(planes[1], image[1, ..., :3].movedim(-1, 0))
    assert torch.equal(planes[:1], visible_planes(image[:1]))
