from __future__ import annotations

import pytest
import torch

from pack.images.color import COLOR_FIXES, fix_color, is_grey, luminance, without_color
from pack.tests.support.golden import assert_close, golden_case

_, GOLDEN = golden_case("diffbir/color_fix")


@pytest.mark.parametrize("method", ["wavelet", "adain"])
@pytest.mark.parametrize("pair", ["rand", "nat"])
def test_colour_fixes_are_the_official_ones(pair, method):
    fixed = fix_color(GOLDEN[f"{pair}_content"], GOLDEN[f"{pair}_style"], method)
    assert_close(fixed, GOLDEN[f"{pair}_{method}"], 2e-6)


def ycbcr(image: torch.Tensor) -> torch.Tensor:
    """Return the full-range BT.601 YCbCr of `(B, 3, H, W)`, from its definition."""
    red, green, blue = image.split(1, dim=1)
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.cat([y, 0.5 + (blue - y) / 1.772, 0.5 + (red - y) / 1.402], dim=1)


def test_the_luminance_fix_keeps_the_images_y_and_takes_the_references_cb_and_cr():
    content, style = GOLDEN["nat_content"], GOLDEN["nat_style"]
    fixed = ycbcr(fix_color(content, style, "luminance"))
    assert_close(fixed[:, :1], ycbcr(content)[:, :1], 1e-6)
    assert_close(fixed[:, 1:], ycbcr(style)[:, 1:], 1e-6)
    assert_close(luminance(content), ycbcr(content)[:, :1], 1e-7)


@pytest.mark.parametrize("method", COLOR_FIXES)
def test_a_picture_is_its_own_reference(method):
    image = GOLDEN["nat_content"]
    assert_close(fix_color(image, image, method), image, 1e-6)


@pytest.mark.parametrize("method", COLOR_FIXES)
@pytest.mark.parametrize("size", [(1, 1), (7, 3)])
def test_every_method_takes_tiny_and_flat_pictures(method, size):
    image, reference = torch.full((1, 3, *size), 0.25), torch.full((1, 3, *size), 0.75)
    fixed = fix_color(image, reference, method)
    expected = image if method in ("none", "luminance") else reference
    assert_close(fixed, expected, 1e-6)


@pytest.mark.parametrize("method", ["wavelet", "adain", "luminance"])
def test_pictures_of_a_batch_do_not_touch_each_other(method):
    content, style = GOLDEN["rand_content"], GOLDEN["rand_style"]
    alone = torch.cat([fix_color(content[k : k + 1], style[k : k + 1], method) for k in (0, 1)])
    assert_close(fix_color(content, style, method), alone, 1e-6)


def test_a_reference_of_another_size_is_refused():
    with pytest.raises(ValueError, match="resize the reference to the size of the image"):
        fix_color(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5), "wavelet")


def test_an_unknown_method_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="none, wavelet, adain, luminance"):
        fix_color(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), "sepia")


def test_a_picture_is_grey_where_its_channels_are_as_near_as_decoders_leave_them():
    grey = GOLDEN["nat_content"][:1, :1].expand(-1, 3, -1, -1)
    rounded = grey + torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1) / 255
    tinted = grey.clone()
    tinted[0, 0, 0, 0] += 3 / 255
    found = is_grey(torch.cat([grey, rounded, tinted, GOLDEN["nat_content"][:1]]))
    assert found.tolist() == [True, True, False, False]


def test_without_colour_the_brightness_is_left():
    image = GOLDEN["nat_content"]
    grey = without_color(image)
    assert_close(grey[:, 1:2], luminance(image), 0)
    assert is_grey(grey).all()


@pytest.mark.parametrize(
    ("method", "is_local"), [("wavelet", True), ("luminance", True), ("adain", False)]
)
def test_what_is_in_one_corner_changes_the_colours_of_the_other_by_adain_alone(method, is_local):
    """In a video what comes in at the border would change contrast and colour of all the rest."""
    generator = torch.Generator().manual_seed(3)
    image, reference = torch.rand(2, 1, 3, 160, 160, generator=generator)
    other = image.clone()
    other[..., :32, :32] = 1
    before, after = (fix_color(given, reference, method) for given in (image, other))
    changed = (after - before)[..., 112:, 112:].abs().max()
    assert (changed < 1e-6) == is_local
