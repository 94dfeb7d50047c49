"""What holds of the image operations at any size, batch and dtype."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pack.images.color import COLOR_FIXES, fix_color
from pack.images.conversion import (
    collect_pictures,
    image_to_planes,
    mask_to_plane,
    planes_to_image,
)
from pack.images.degradation import PRESETS, degrade
from pack.images.labels import label_grid
from pack.images.metrics import gmsd, psnr, ssim
from pack.images.padding import reflect_pad_to_multiple
from pack.images.resize import (
    enlarge_bicubic,
    quantize_8bit,
    resize_bicubic,
    resize_bicubic_8bit,
    scaled_size,
    short_edge_size,
)
from pack.tests.support.properties import EVERY, batches, dtypes, noise, seeds, sides

large = st.integers(1, 20000)


@EVERY
@given(batches, sides, sides, st.integers(1, 4), dtypes, seeds)
def test_planes_are_rgb_in_float32_and_go_back(batch, height, width, channels, dtype, seed):
    image = noise(seed, batch, height, width, channels, dtype=dtype)
    planes, alpha = image_to_planes(image)
    assert planes.shape == (batch, 3, height, width)
    assert planes.dtype == torch.float32
    assert (alpha is not None) == (channels in (2, 4))
    back = planes_to_image(planes, alpha)
    assert back.is_contiguous()
    colors = image if alpha is None else image[..., :-1]
    assert torch.equal(back[..., :3], colors.float().expand(-1, -1, -1, 3))
    if alpha is not None:
        assert torch.equal(back[..., 3], image[..., -1].float())


@EVERY
@given(batches, sides, sides, st.booleans(), dtypes, st.floats(-3, 3), seeds)
def test_a_mask_serves_every_picture_within_its_range(
    batch, height, width, is_one, dtype, shift, seed
):
    mask = noise(seed, 1 if is_one else batch, height, width) + shift
    plane = mask_to_plane(mask.to(dtype), batch, height, width)
    assert plane.shape == (batch, 1, height, width)
    assert plane.dtype == torch.float32
    assert 0 <= plane.min() <= plane.max() <= 1


@EVERY
@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), sides, seeds)
def test_collected_parts_are_the_joined_parts(lengths, side, seed):
    parts = [noise(seed + k, length, side, 2, 3) for k, length in enumerate(lengths)]
    assert torch.equal(collect_pictures(iter(parts), sum(lengths)), torch.cat(parts))


@EVERY
@given(batches, sides, sides, st.integers(1, 64), dtypes, seeds)
def test_padding_keeps_the_picture_and_adds_only_its_values(
    batch, height, width, multiple, dtype, seed
):
    x = noise(seed, batch, 3, height, width, dtype=dtype)
    padded = reflect_pad_to_multiple(x, multiple)
    assert padded.dtype == dtype
    assert torch.equal(padded[..., :height, :width], x)
    for side, given_side in zip(padded.shape[-2:], (height, width), strict=True):
        assert side % multiple == 0
        assert given_side <= side < given_side + multiple
    assert padded.min() == x.min()
    assert padded.max() == x.max()


@EVERY
@given(batches, sides, sides, sides, sides, seeds)
def test_resizing_gives_the_size_and_stays_near_the_range(
    batch, height, width, new_height, new_width, seed
):
    x = noise(seed, batch, 3, height, width)
    size = (batch, 3, new_height, new_width)
    resized, rounded = (f(x, new_height, new_width) for f in (resize_bicubic, resize_bicubic_8bit))
    assert resized.shape == rounded.shape == size
    assert -0.5 <= resized.min() <= resized.max() <= 1.5  # the overshoot of bicubic
    assert 0 <= rounded.min() <= rounded.max() <= 1
    assert torch.equal(quantize_8bit(rounded), rounded)
    assert rounded.is_contiguous()


@EVERY
@given(batches, sides, sides, st.integers(1, 4), st.floats(0, 1))
def test_a_flat_picture_stays_flat_when_enlarged(batch, height, width, scale, value):
    x = torch.full((batch, 3, height, width), value)
    enlarged = enlarge_bicubic(x, scale)
    assert enlarged.shape == (batch, 3, height * scale, width * scale)
    assert (enlarged - value).abs().max() < 1e-6  # weights sum to 1 but for rounding


@EVERY
@given(large, large, st.integers(1, 4096), st.floats(0.1, 16))
def test_sizes_follow_the_shorter_side_and_the_scale(height, width, minimum, scale):
    grown = short_edge_size(height, width, minimum)
    assert min(grown) == max(min(height, width), minimum)
    assert all(new >= old for new, old in zip(grown, (height, width), strict=True))
    scaled = scaled_size(height, width, scale)
    assert all(0 <= old * scale - new < 1 for new, old in zip(scaled, (height, width), strict=True))


@EVERY
@given(batches, sides, sides, st.sampled_from(COLOR_FIXES), seeds)
def test_colours_of_the_picture_itself_change_nothing(batch, height, width, method, seed):
    x = noise(seed, batch, 3, height, width)
    fixed = fix_color(x, x, method)
    assert fixed.shape == x.shape
    assert (fixed - x).abs().max() < 1e-5  # what is taken away and put back, rounded


@EVERY
@given(batches, sides, sides, st.sampled_from(COLOR_FIXES[1:]), seeds)
def test_colour_fixes_make_finite_pictures_of_any_two(batch, height, width, method, seed):
    x, reference = (noise(seed + k, batch, 3, height, width) for k in range(2))
    assert torch.isfinite(fix_color(x, reference, method)).all()
    flat = torch.zeros_like(x)
    assert torch.isfinite(fix_color(flat, reference, method)).all()
    assert torch.isfinite(fix_color(x, flat, method)).all()


@EVERY
@given(batches, st.integers(11, 40), st.integers(11, 40), seeds)
def test_measures_tell_equal_pictures_and_are_bounded(batch, height, width, seed):
    x, y = (noise(seed + k, batch, 3, height, width) for k in range(2))
    assert psnr(x, x).isinf().all()
    assert torch.allclose(ssim(x, x), torch.ones(batch, dtype=torch.float64))
    assert not gmsd(x, x).any()
    assert torch.isfinite(psnr(x, y)).all()
    assert (ssim(x, y).abs() <= 1).all()
    assert ((gmsd(x, y) >= 0) & (gmsd(x, y) <= 1)).all()
    assert torch.allclose(ssim(x, y), ssim(y, x))


@EVERY
@given(sides, sides, st.sampled_from(sorted(PRESETS)), seeds)
def test_degraded_pictures_have_their_size_on_8_bit(height, width, name, seed):
    settings = PRESETS[name]
    height, width = (max(side, settings.scale) for side in (height, width))
    x = noise(seed, 3, height, width)
    made, again = (degrade(x, settings, np.random.default_rng(seed)) for _ in range(2))
    assert made.shape == (3, height // settings.scale, width // settings.scale)
    assert made.dtype == torch.float32
    assert torch.equal(quantize_8bit(made), made)
    assert torch.equal(made, again)


@EVERY
@given(st.integers(1, 6), sides, sides, st.integers(1, 8), st.integers(0, 20), st.text(max_size=20))
def test_a_grid_holds_every_picture_under_any_label(
    count, height, width, columns, label_height, label
):
    line = " ".join(label.split())
    pictures = [noise(k, 3, height, width) for k in range(count)]
    grid = label_grid(pictures, [line] * count, columns, label_height)
    used = min(columns, count)
    assert grid.shape[-1] == used * (width + 8) - 8
    last = grid[:, -height:, (count - 1) % used * (width + 8) :][..., :width]
    assert torch.equal(last, pictures[-1])
    assert 0 <= grid.min() <= grid.max() <= 1
