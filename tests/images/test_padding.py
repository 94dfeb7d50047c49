from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pack.images.padding import multiple_above, reflect_pad_to, reflect_pad_to_multiple


@pytest.mark.parametrize(
    ("length", "multiple", "expected"), [(1, 8, 8), (8, 8, 8), (9, 8, 16), (64, 64, 64), (5, 1, 5)]
)
def test_the_multiple_above_is_the_smallest_that_holds_the_length(length, multiple, expected):
    assert multiple_above(length, multiple) == expected


@pytest.mark.parametrize("size", [(5, 7), (9, 7), (5, 13), (9, 13), (8, 12)])
def test_one_reflection_is_that_of_torch(size):
    x = torch.rand(2, 3, 5, 7)
    expected = F.pad(x, (0, size[1] - 7, 0, size[0] - 5), mode="reflect")
    assert torch.equal(reflect_pad_to(x, *size), expected)


def test_short_sides_are_reflected_back_and_forth():
    x = torch.tensor([[0.0, 1.0, 2.0]])
    assert reflect_pad_to(x, 1, 10).tolist() == [[0, 1, 2, 1, 0, 1, 2, 1, 0, 1]]
    assert reflect_pad_to(x.T, 10, 1).T.tolist() == [[0, 1, 2, 1, 0, 1, 2, 1, 0, 1]]
    repeated = F.pad(F.pad(x[None], (0, 2), mode="reflect"), (0, 4), mode="reflect")
    assert torch.equal(reflect_pad_to(x[None], 1, 9), repeated)


def test_a_single_pixel_is_repeated():
    x = torch.tensor([[[3.0]], [[4.0]]])
    assert torch.equal(reflect_pad_to(x, 8, 8), x.expand(2, 8, 8))


def test_sizes_that_fit_are_returned_untouched():
    x = torch.rand(1, 3, 16, 32)
    assert reflect_pad_to_multiple(x, 16) is x


def test_padding_goes_to_the_right_and_the_bottom():
    x = torch.rand(1, 3, 13, 20)
    padded = reflect_pad_to_multiple(x, 16)
    assert padded.shape == (1, 3, 16, 32)
    assert torch.equal(padded[..., :13, :20], x)
    assert torch.equal(padded, F.pad(x, (0, 12, 0, 3), mode="reflect"))
