from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pack.images.degradation import PRESETS, degrade
from pack.pipelines.degrade import METHODS, RANGES, SECOND_RANGES, degrade_image, set_ranges

pytestmark = pytest.mark.comfy

SECOND = "second order (ResShift)"
FIRST = "first order (DiffBIR)"
ROUND = "one round, medium"
# Nothing but the resizes is left of the first order.
BARE = {"blur": (0, 0), "reduction": (1, 1), "noise": (0, 0), "jpeg": (100, 100)}


def image(batch: int = 1, height: int = 48, width: int = 64, channels: int = 3) -> torch.Tensor:
    rows, cols = torch.meshgrid(
        torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij"
    )
    picture = torch.stack([rows.sin(), cols.cos(), (rows * cols).sin(), rows], dim=-1) / 2 + 0.5
    return picture[..., :channels].clamp(0, 1).expand(batch, -1, -1, -1)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_eight_bit_pictures_at_the_scale_and_repeats_itself(method):
    low = degrade_image(image(), method, 5, 2)
    assert low.shape == (1, 24, 32, 3)
    assert torch.equal((low * 255).round() / 255, low)
    assert torch.equal(low, degrade_image(image(), method, 5, 2))
    assert not torch.equal(low, degrade_image(image(), method, 6, 2))


@pytest.mark.parametrize("method", ["second order (ResShift)", "one round, heavy"])
def test_with_nothing_set_it_is_the_code_of_the_training(method):
    preset = {"second order (ResShift)": "real-esrgan", "one round, heavy": "heavy"}[method]
    wanted = degrade(image()[0].movedim(-1, 0), PRESETS[preset], np.random.default_rng(7))
    assert torch.equal(degrade_image(image(), method, 7, 4)[0].movedim(-1, 0), wanted)
    assert METHODS[method] is PRESETS[preset]


def test_picture_k_of_a_batch_draws_from_the_seed_plus_k():
    batch = degrade_image(image(3), SECOND, 10, 4)
    for k in range(3):
        assert torch.equal(batch[k : k + 1], degrade_image(image(), SECOND, 10 + k, 4))


def test_the_seed_turns_over_at_its_end():
    last = (1 << 64) - 1
    batch = degrade_image(image(2), ROUND, last, 4)
    assert torch.equal(batch[1:], degrade_image(image(), ROUND, 0, 4))


def test_alpha_is_dropped_and_grey_is_taken():
    assert torch.equal(
        degrade_image(image(channels=4), ROUND, 1, 4), degrade_image(image(), ROUND, 1, 4)
    )
    assert degrade_image(image(channels=1), ROUND, 1, 4).shape == (1, 12, 16, 3)


def test_the_size_can_be_kept():
    low = degrade_image(image(), ROUND, 3, 4).movedim(-1, 1)
    kept = degrade_image(image(), ROUND, 3, 4, keep_size=True).movedim(-1, 1)
    enlarged = F.interpolate(low, size=(48, 64), mode="bicubic", align_corners=False)
    assert torch.equal(kept, (enlarged.clamp(0, 1) * 255).round() / 255)


def test_sizes_that_are_no_multiple_of_the_scale_are_cut_and_kept_whole():
    assert degrade_image(image(1, 47, 61), ROUND, 0, 4).shape == (1, 11, 15, 3)
    assert degrade_image(image(1, 47, 61), ROUND, 0, 4, keep_size=True).shape == (1, 47, 61, 3)


def test_with_all_ranges_at_nothing_the_picture_stays():
    low = degrade_image(image(), FIRST, 0, 1, ranges=BARE)
    assert (low - image()).abs().mean() < 0.01
    assert torch.equal(low, degrade_image(image(), FIRST, 99, 1, ranges=BARE))


@pytest.mark.parametrize(
    ("name", "little", "much"),
    [
        ("blur", (0.5, 0.5), (6, 6)),
        ("reduction", (1.5, 1.5), (8, 8)),
        ("noise", (2, 2), (40, 40)),
        ("jpeg", (90, 90), (5, 5)),
    ],
)
def test_more_of_a_range_is_further_from_the_picture(name, little, much):
    errors = [
        (degrade_image(image(), FIRST, 1, 1, ranges=BARE | {name: pair}) - image()).abs().mean()
        for pair in (little, much)
    ]
    assert errors[1] > 1.5 * errors[0]


@pytest.mark.parametrize("name", [*RANGES, *SECOND_RANGES])
def test_every_range_changes_the_second_order(name):
    sharp = image()
    ends = {"jpeg": (3, 4), "reduction": (5, 6), "poisson": (15, 16)}
    pair = ends.get(name.removeprefix("second_"), (20, 21))
    method = "second order (DiffBIR v2.1)"
    changed = [
        not torch.equal(
            degrade_image(sharp, method, seed, 4),
            degrade_image(sharp, method, seed, 4, ranges={name: pair}),
        )
        for seed in range(6)
    ]
    assert any(changed)


def test_ranges_reach_their_places():
    pairs = {name: (2 + k, 3 + k) for k, name in enumerate((*RANGES, *SECOND_RANGES))}
    settings = set_ranges(METHODS[SECOND], 2, pairs)
    first, second = settings.first, settings.second
    assert [first.sigma, first.reduction, first.gaussian_sigma] == [(2, 3), (3, 4), (4, 5)]
    assert [first.poisson_scale, first.jpeg_quality] == [(5, 6), (6, 7)]
    assert [second.sigma, second.reduction, second.gaussian_sigma] == [(7, 8), (8, 9), (9, 10)]
    assert [second.poisson_scale, settings.final_jpeg_quality] == [(10, 11), (11, 12)]
    assert settings.scale == 2


def test_an_end_left_alone_is_that_of_the_method():
    settings = set_ranges(METHODS[FIRST], 1, {"blur": (-1, 5), "jpeg": (50, -1)})
    assert settings.first.sigma == (0.1, 5)
    assert settings.first.jpeg_quality == (50, 100)
    nothing = dict.fromkeys((*RANGES, *SECOND_RANGES), (-1, -1))
    for method in METHODS.values():
        assert set_ranges(method, method.scale, nothing) == method


def test_one_round_reduces_by_the_scale_and_has_its_jpeg_last():
    settings = set_ranges(METHODS[ROUND], 2, {"jpeg": (20, 30)})
    assert settings.first.resize == (0.5, 0.5)
    assert settings.final_jpeg_quality == (20, 30)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"method": "worst"}, "unknown method 'worst'; choose one of second order"),
        ({"scale": 49}, "choose a smaller scale or a larger image"),
        ({"ranges": {"blur": (4, 2)}}, "'blur_min' is 4, which is more than 'blur_max', 2"),
        ({"ranges": {"blur": (-1, 0.05)}}, "'blur_min' is 0.1, which is more than .* or set both"),
        ({"ranges": {"jpeg": (0, 50)}}, "'jpeg' is 0 to 50 and has to lie within 1 to 100; -1"),
        ({"ranges": {"reduction": (0, 2)}}, "has to lie within 0.5 to 32"),
        ({"ranges": {"noise": (float("nan"), 2)}}, "has to lie within 0 to 255"),
        ({"ranges": {"second_noise": (1, 2)}}, "no second stage, so 'second_noise' cannot be set"),
        ({"ranges": {"poisson": (1, 2)}}, "no Poisson noise, so 'poisson' cannot be set"),
        ({"image": torch.full((1, 8, 8, 3), float("nan"))}, "run that model in float32"),
        ({"image": torch.zeros(0, 8, 8, 3)}, "'image' is empty"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, remedy):
    settings = {"image": image(), "method": FIRST, "seed": 0, "scale": 1}
    with pytest.raises(ValueError, match=remedy):
        degrade_image(**{**settings, **arguments})
