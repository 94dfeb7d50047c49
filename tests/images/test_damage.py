from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pack.images.damage import COPYING, DAMAGES, MAKING_AND_AGEING, damage, scratch

FUNCTIONS = {**MAKING_AND_AGEING, **COPYING}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(height: int = 48, width: int = 64) -> Tensor:
    rows = torch.linspace(0.1, 0.9, height)[:, None]
    columns = torch.linspace(0, 6, width)[None]
    waves = [0.5 + 0.4 * torch.sin(columns * k + rows * 5) for k in (1, 2, 3)]
    return torch.stack(waves)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_strength_of_zero_changes_nothing_but_the_levels(name):
    made, where = damage(picture(), {name: 0.0}, generator())
    assert torch.equal(made, (picture() * 255).round() / 255)
    assert not where.any()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_at_zero_is_the_picture_itself(name):
    made = FUNCTIONS[name](picture(), 0.0, generator())
    torch.testing.assert_close(made, picture(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", DAMAGES)
def test_more_strength_is_more_damage(name):
    large = picture(192, 256)
    errors = [
        (damage(large, {name: strength}, generator(1))[0] - large).square().mean().item()
        for strength in (0.2, 0.6, 1.0)
    ]
    assert errors[0] > 1e-6
    assert errors == sorted(errors)
    assert errors[2] > 1.3 * errors[0]


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize(("height", "width"), [(48, 64), (7, 5), (1, 1), (33, 64)])
def test_size_range_and_levels_are_kept(name, height, width):
    made, where = damage(picture(height, width), {name: 1.0}, generator())
    assert made.shape == (3, height, width)
    assert where.shape == (height, width)
    assert made.min() >= 0
    assert made.max() <= 1
    assert torch.equal((made * 255).round() / 255, made)


@pytest.mark.parametrize("name", DAMAGES)
def test_the_seed_decides(name):
    large = picture(96, 128)
    first, again, other = (damage(large, {name: 0.8}, generator(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_damage_leaves_the_random_numbers_of_the_others():
    _, alone = damage(picture(), {"scratches": 1.0}, generator(3))
    _, mixed = damage(picture(), {"scratches": 1.0, "grain": 0.5, "halftone": 0.3}, generator(3))
    assert alone.any()
    assert torch.equal(alone, mixed)


def test_the_mask_says_where_scratches_are_and_nothing_else_changed():
    made, where = scratch(picture(192, 256), 1.0, generator(5))
    changed = (made - picture(192, 256)).abs().amax(0) > 1e-6
    assert changed.any()
    assert not (changed & (where == 0)).any()
    assert 0.0005 < where.mean() < 0.05


def test_printed_dots_keep_the_tone():
    grey = torch.full((3, 96, 96), 0.4)
    made = FUNCTIONS["halftone"](grey, 1.0, generator())
    assert made.std() > 0.2
    assert made.mean(dim=(1, 2)).tolist() == pytest.approx([0.4] * 3, abs=0.02)


def test_interlacing_moves_one_field_and_leaves_the_other():
    made = FUNCTIONS["interlacing"](picture(), 1.0, generator())
    kept = [torch.equal(made[:, k::2], picture()[:, k::2]) for k in (0, 1)]
    assert sorted(kept) == [False, True]


def test_a_cast_changes_hue_and_keeps_the_brightness():
    grey = torch.full((3, 8, 8), 0.5)
    made = FUNCTIONS["color_cast"](grey, 1.0, generator())[:, 0, 0]
    assert made.max() - made.min() > 0.1
    assert made.mean().item() == pytest.approx(0.5, abs=0.08)


def test_fringes_leave_green_where_it_is():
    made = FUNCTIONS["chromatic_shift"](picture(), 1.0, generator())
    assert torch.equal(made[1], picture()[1])
    assert not torch.equal(made[0], picture()[0])


def test_grain_is_weakest_at_black_and_white():
    def spread(value: float) -> float:
        made = FUNCTIONS["grain"](torch.full((3, 64, 64), value), 0.5, generator())
        return made.std().item()

    assert spread(0.5) > 3 * spread(0.02)
    assert spread(0.5) > 3 * spread(0.98)
