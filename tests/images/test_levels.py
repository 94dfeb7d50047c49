from __future__ import annotations

import pytest
import torch

from pack.images.levels import STRETCHINGS, stretch_levels


def faded() -> torch.Tensor:
    ramp = torch.linspace(0, 1, 400).view(1, 1, 20, 20)
    return torch.cat([0.3 + 0.4 * ramp, 0.4 + 0.4 * ramp, 0.2 + 0.3 * ramp], dim=1)


def test_each_channel_takes_fading_and_cast_away():
    made = stretch_levels(faded(), 1.0, "each channel", 0.0)
    assert made.amin((2, 3)).tolist() == [[0.0, 0.0, 0.0]]
    assert made.amax((2, 3)).tolist() == [[1.0, 1.0, 1.0]]
    torch.testing.assert_close(made[:, 0], made[:, 1], rtol=0, atol=1e-6)


def test_brightness_keeps_the_order_of_the_channels():
    made = stretch_levels(faded(), 1.0, "brightness", 0.0)
    assert (made[:, 1] >= made[:, 0]).all()
    assert (made[:, 0] >= made[:, 2]).all()
    assert made.max() - made.min() > 0.9


@pytest.mark.parametrize("stretching", STRETCHINGS)
def test_strength_goes_from_nothing_to_all(stretching):
    whole = stretch_levels(faded(), 1.0, stretching, 0.0)
    assert torch.equal(stretch_levels(faded(), 0.0, stretching, 0.0), faded())
    half = stretch_levels(faded(), 0.5, stretching, 0.0)
    torch.testing.assert_close(half, (faded() + whole) / 2)


@pytest.mark.parametrize("stretching", STRETCHINGS)
def test_a_flat_picture_stays_as_it_is(stretching):
    flat = torch.full((1, 3, 4, 4), 0.3)
    assert torch.equal(stretch_levels(flat, 1.0, stretching, 0.01), flat)


def test_clipped_pixels_do_not_decide_the_range():
    scratched = faded()
    scratched[..., 0, 0], scratched[..., 0, 1] = 1.0, 0.0
    made = stretch_levels(scratched, 1.0, "each channel", 0.01)
    rest = made.flatten(2)[..., 10:-10]
    assert rest.amax() - rest.amin() > 0.9


def test_each_picture_of_a_batch_has_its_own_levels():
    both = torch.cat([faded(), faded() * 0.5])
    made = stretch_levels(both, 1.0, "each channel", 0.0)
    torch.testing.assert_close(made[0], made[1], rtol=0, atol=1e-5)
