from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pack.images.resize import (
    enlarge_bicubic,
    quantize_8bit,
    resize_bicubic,
    resize_bicubic_8bit,
    scaled_size,
    short_edge_size,
)
from pack.tests.support.golden import assert_close, golden_case

RULES, DIFFBIR = golden_case("diffbir/resize_pad")


def test_enlarging_is_the_references():
    for name in ("d1_sample_sf4_s15", "d2_sample_sf4_s4_rect"):
        _, golden = golden_case(f"resshift/{name}")
        assert_close(enlarge_bicubic(golden["lq"], 4), golden["lq_upsampled"], 1e-6)


def test_enlarging_once_is_the_image_itself():
    x = torch.rand(1, 3, 4, 5)
    assert enlarge_bicubic(x, 1) is x


def test_overshoot_is_kept():
    x = torch.zeros(1, 1, 1, 8)
    x[..., 4:] = 1
    enlarged = enlarge_bicubic(x, 2)
    assert enlarged.min() < 0
    assert enlarged.max() > 1


def test_resizing_is_antialiased_as_in_pillow():
    x = torch.rand(1, 1, 40, 60, generator=torch.Generator().manual_seed(0))
    for width, height in ((17, 11), (90, 55)):
        resized = Image.fromarray(x[0, 0].numpy()).resize((width, height), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.array(resized))[None, None]
        # both round their weights to float32, in different places
        assert_close(resize_bicubic(x, height, width), expected, 5e-6)


def test_a_picture_of_the_right_size_is_not_resized():
    x = torch.rand(1, 3, 4, 5)
    assert resize_bicubic(x, 4, 5) is x


@pytest.mark.parametrize("rule", RULES["rules"], ids=lambda rule: str(rule["input_hw"]))
def test_the_short_edge_rule_is_diffbirs(rule):
    assert list(short_edge_size(*rule["input_hw"], 512)) == rule["after_short_edge"]


def test_a_short_edge_that_is_larger_shrinks_where_asked():
    assert short_edge_size(800, 900, 512) == (800, 900)
    assert short_edge_size(800, 900, 512, shrinks=True) == (512, 576)
    assert short_edge_size(900, 512, 512, shrinks=True) == (900, 512)


@pytest.mark.parametrize("rule", RULES["upscale"], ids=lambda rule: str(rule["scale"]))
def test_enlarged_sizes_are_truncated_as_by_diffbir(rule):
    width, height = rule["input_wh"]
    assert list(reversed(scaled_size(height, width, rule["scale"]))) == rule["output_wh"]


@pytest.mark.parametrize(("name", "minimum"), [("short_edge_64", 64), ("down_20x31", None)])
def test_float_resizing_is_diffbirs(name, minimum):
    x = DIFFBIR["in"]
    size = (20, 31) if minimum is None else short_edge_size(*x.shape[-2:], minimum)
    assert_close(resize_bicubic(x, *size), DIFFBIR[name], 1e-6)


def test_8_bit_enlarging_is_diffbirs():
    x = DIFFBIR["pil_in"].permute(2, 0, 1)[None].float() / 255
    enlarged = resize_bicubic_8bit(x, *scaled_size(37, 53, 2.5))
    levels = (enlarged * 255).round().to(torch.uint8)[0].permute(1, 2, 0)
    assert torch.equal(levels, DIFFBIR["pil_bicubic_x2_5"])
    assert torch.equal(enlarged, levels.permute(2, 0, 1)[None].float() / 255)


def test_8_bit_enlarging_rounds_and_clamps_first():
    x = torch.tensor([-0.5, 0.5 / 255 + 1e-4, 1.5]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    expected = torch.tensor([0, 1 / 255, 1]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    assert torch.equal(resize_bicubic_8bit(x, 1, 3), expected)
    assert torch.equal(quantize_8bit(x), expected)


def test_pictures_of_a_batch_are_enlarged_one_by_one():
    x = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([resize_bicubic_8bit(x[k : k + 1], 9, 12) for k in (0, 1)])
    assert torch.equal(resize_bicubic_8bit(x, 9, 12), alone)
