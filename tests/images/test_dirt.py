"""That a grid and blotches are caught, and that what only looks a little like them is not."""

from __future__ import annotations

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from torch import Tensor

from pack.images.dirt import blotches, grid_energy
from pack.images.resize import enlarge_bicubic, resize_bicubic

SIDE = 256


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def original() -> Tensor:
    """Return a face, hair and a wall."""
    pixels = torch.from_numpy(skimage.data.astronaut().copy())[:SIDE, 128 : 128 + SIDE]
    return pixels.permute(2, 0, 1)[None].float() / 255


def enlarged(original: Tensor) -> Tensor:
    small = resize_bicubic(original, SIDE // 4, SIDE // 4).clamp(0, 1)
    return enlarge_bicubic(small, 4).clamp(0, 1)


def noisy(picture: Tensor, levels: float) -> Tensor:
    return picture + levels / 255 * torch.randn(picture.shape, generator=generator())


def with_grid(picture: Tensor, levels: float, period: int = 4) -> Tensor:
    """Return the picture with a fixed pattern of a spread of so many grey levels."""
    pattern = torch.randn(1, 1, period, period, generator=generator())
    pattern = (pattern - pattern.mean()) / pattern.std()
    times = SIDE // period
    return (picture + levels / 255 * pattern.repeat(1, 1, times, times)).clamp(0, 1)


def with_blotches(picture: Tensor, levels: float, side: int = 12) -> Tensor:
    """Return the picture with smooth clouds of colour of a spread of so many grey levels."""
    clouds = torch.randn(1, 3, SIDE // side, SIDE // side, generator=generator())
    clouds = F.interpolate(clouds, size=(SIDE, SIDE), mode="bicubic")
    return (picture + levels / 255 * clouds / clouds.std()).clamp(0, 1)


def clean_pictures(original: Tensor) -> dict[str, Tensor]:
    sharpened = original + 0.5 * (
        original - F.avg_pool2d(original, 5, 1, 2, count_include_pad=False)
    )
    return {
        "bicubic": enlarged(original),
        "mild noise": noisy(original, 2),
        "sharpened": sharpened.clamp(0, 1),
        "another brightness": original * 0.9 + 0.05,
    }


def test_a_picture_is_as_clean_as_itself(original):
    assert grid_energy(original, original).item() == pytest.approx(1)
    assert blotches(original, original).item() == 0


@pytest.mark.parametrize("period", [2, 4])
def test_a_grid_is_caught_on_any_picture_before_it_is_seen(original, period):
    for name, picture in clean_pictures(original).items():
        clean = grid_energy(picture, original).item()
        assert clean < 4, name
        dotted = grid_energy(with_grid(picture, 1, period), original).item()
        assert dotted > 3 * max(1, clean), name


def test_a_grid_counts_the_more_the_stronger_it_is(original):
    found = [grid_energy(with_grid(original, levels), original).item() for levels in (0.5, 1, 2, 4)]
    assert found == sorted(found)


def test_patterns_of_other_periods_are_no_grid(original):
    for period in (8, 16, 32):
        pattern = torch.randn(1, 1, period, period, generator=generator())
        pattern = F.avg_pool2d(F.pad(pattern, [1] * 4, mode="circular"), 3, 1)
        pattern = (pattern - pattern.mean()) / pattern.std()
        tiled = original + 2 / 255 * pattern.repeat(1, 1, SIDE // period, SIDE // period)
        caught = grid_energy(with_grid(original, 2), original).item()
        assert grid_energy(tiled, original).item() < caught / 8


def test_blotches_are_caught_on_any_picture(original):
    for name, picture in clean_pictures(original).items():
        clean = blotches(picture, original).item()
        assert clean < 1.5, name
        assert blotches(with_blotches(picture, 4), original).item() > clean + 1, name


def test_a_change_of_the_whole_picture_and_grain_are_no_blotches(original):
    assert blotches(original + 0.05, original).item() < 0.05
    assert blotches(noisy(original, 6), original).item() < 0.6


def test_what_happens_where_the_original_is_not_flat_does_not_count(original):
    texture = torch.rand(1, 3, SIDE, SIDE, generator=generator())
    assert blotches(with_blotches(texture, 8), texture).item() == 0


def test_pictures_of_a_batch_are_measured_by_themselves(original):
    pair = torch.cat([with_grid(original, 1), with_blotches(original, 4)])
    both = original.expand(2, -1, -1, -1)
    for measure in (grid_energy, blotches):
        alone = [measure(picture[None], original).item() for picture in pair]
        assert measure(pair, both).tolist() == pytest.approx(alone)
