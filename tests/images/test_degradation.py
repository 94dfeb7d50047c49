"""Degradations: kernels, ranges, determinism."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from pack.images.degradation import (
    KERNELS,
    PRESETS,
    SECOND_STAGE,
    Degradation,
    Stage,
    degrade,
    draw_kernel,
    filter_image,
    gaussian_kernel,
    jpeg_compress,
    sinc_kernel,
)

QUIET = Stage(
    blur_probability=0.0, resize_weights=(0, 0, 1), noise_probability=0.0, jpeg_probability=0.0
)
CLEAN = Degradation(
    first=QUIET,
    second_probability=0.0,
    final_filters=("area",),
    final_sinc_probability=0.0,
    final_jpeg_quality=None,
)


def photograph_like(height: int = 64, width: int = 96) -> torch.Tensor:
    rows, cols = torch.meshgrid(
        torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij"
    )
    return torch.stack([rows.sin(), cols.cos(), (rows * cols).sin()]) / 2 + 0.5


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_returns_eight_bit_levels_at_its_scale(preset):
    low = degrade(photograph_like(), PRESETS[preset], np.random.default_rng(0))
    scale = 1 if preset.startswith("first order") else 4
    assert low.shape == (3, 64 // scale, 96 // scale)
    assert low.dtype == torch.float32
    assert torch.equal((low * 255).round() / 255, low)
    assert 0 <= low.min() < low.max() <= 1


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_generator_state_gives_the_same_picture(preset):
    image = photograph_like()
    first, again, other = (
        degrade(image, PRESETS[preset], np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state().clone()
    first = degrade(photograph_like(), PRESETS["real-esrgan"], np.random.default_rng(1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(
        first, degrade(photograph_like(), PRESETS["real-esrgan"], np.random.default_rng(1))
    )


def test_with_everything_off_the_picture_is_only_reduced():
    image = photograph_like()
    expected = torch.nn.functional.avg_pool2d(image, 4)
    low = degrade(image, CLEAN, np.random.default_rng(0))
    assert (low - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_sizes_that_are_no_multiple_of_the_scale_are_cut():
    assert degrade(photograph_like(67, 41), CLEAN, np.random.default_rng(0)).shape == (3, 16, 10)


def test_the_picture_given_is_not_changed():
    image = photograph_like()
    kept = image.clone()
    degrade(image, PRESETS["heavy"], np.random.default_rng(0))
    assert torch.equal(image, kept)


def test_noise_has_the_strength_that_was_asked_for():
    noisy = replace(QUIET, noise_probability=1.0, gaussian_probability=1.0, gaussian_sigma=(10, 10))
    image = torch.full((3, 256, 256), 0.5)
    low = degrade(image, replace(CLEAN, scale=1, first=noisy), np.random.default_rng(0))
    assert low.std() * 255 == pytest.approx(10, rel=0.05)


def test_gray_noise_is_the_same_in_all_channels():
    noisy = replace(QUIET, noise_probability=1.0, gray_probability=1.0)
    image = torch.full((3, 64, 64), 0.5)
    low = degrade(image, replace(CLEAN, scale=1, first=noisy), np.random.default_rng(0))
    assert low.std() > 0
    assert torch.equal(low[0], low[1])


def test_poisson_noise_grows_with_brightness():
    noisy = replace(
        QUIET,
        noise_probability=1.0,
        gaussian_probability=0.0,
        poisson_scale=(1.0, 1.0),
        gray_probability=0.0,
    )
    image = torch.full((3, 64, 128), 0.1)
    image[..., 64:] = 0.6
    image[:, ::2, ::2] += torch.rand(32, 64, generator=torch.Generator().manual_seed(0)) * 0.02
    low = degrade(image, replace(CLEAN, scale=1, first=noisy), np.random.default_rng(0))
    assert low[..., 64:].std() > 1.5 * low[..., :64].std()


def test_lower_jpeg_quality_is_further_from_the_picture():
    image = photograph_like()[None]
    errors = [(jpeg_compress(image, quality) - image).abs().mean() for quality in (90, 50, 10)]
    assert errors == sorted(errors)
    assert errors[0] < 0.02


@pytest.mark.parametrize("size", [3, 7, 13, 21])
def test_kernels_sum_to_one(size):
    for cutoff in (math.pi / 3, math.pi):
        assert sinc_kernel(size, cutoff).sum() == pytest.approx(1)
    for plateau in (False, True):
        kernel = gaussian_kernel(size, 2.0, 0.7, 0.4, beta=1.3, plateau=plateau)
        assert kernel.shape == (size, size)
        assert kernel.sum() == pytest.approx(1)
        assert (kernel >= 0).all()


def test_equal_sigmas_make_a_round_kernel_and_unequal_ones_a_long_one():
    round_kernel = gaussian_kernel(13, 1.5, 1.5)
    assert np.allclose(round_kernel, round_kernel.T)
    long_kernel = gaussian_kernel(13, 3.0, 0.5)
    assert long_kernel[6, 10] > 100 * long_kernel[10, 6]
    turned = gaussian_kernel(13, 3.0, 0.5, math.pi / 2)
    assert np.allclose(turned, long_kernel.T)


@pytest.mark.parametrize("kind", range(len(KERNELS)))
def test_every_kind_of_kernel_can_be_drawn(kind):
    weights = tuple(float(k == kind) for k in range(len(KERNELS)))
    stage = replace(SECOND_STAGE, kernel_weights=weights, sinc_probability=0.0)
    kernel = draw_kernel(stage, np.random.default_rng(kind))
    assert kernel.shape[0] == kernel.shape[1]
    assert 3 <= kernel.shape[0] <= 13
    assert kernel.shape[0] % 2 == 1


def test_a_sinc_of_full_band_keeps_more_contrast_than_one_of_a_third():
    stripes = (torch.arange(64) % 4 < 2).float().expand(1, 3, 64, 64)
    wide, narrow = (filter_image(stripes, sinc_kernel(21, c)).std() for c in (math.pi, math.pi / 3))
    assert wide > 2 * narrow


def test_filtering_keeps_a_flat_picture_flat_to_its_border():
    flat = torch.full((1, 3, 20, 20), 0.3)
    assert torch.allclose(filter_image(flat, gaussian_kernel(19, 3, 1, 0.3)), flat, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "border"), [(16, 9, "mirror"), (9, 16, "mirror"), (8, 16, "nearest")]
)
def test_filters_see_the_picture_reflected_at_its_border(height, width, border):
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    kernel = np.random.default_rng(0).random((17, 17))  # a picture of its radius is too small
    expected = [[convolve(plane, kernel, mode=border) for plane in x] for x in image.numpy()]
    assert np.allclose(filter_image(image, kernel), expected, rtol=1e-5)


def test_pictures_smaller_than_the_kernel_are_filtered():
    assert filter_image(torch.rand(1, 3, 4, 5), sinc_kernel(21, 2.0)).shape == (1, 3, 4, 5)


class Recorded:
    """A generator that keeps the ends of what it draws evenly."""

    def __init__(self, seed: int):
        self.inner = np.random.default_rng(seed)
        self.uniforms: set[tuple[float, float]] = set()

    def uniform(self, low: float, high: float) -> float:
        self.uniforms.add((low, high))
        return self.inner.uniform(low, high)

    def __getattr__(self, name: str):
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    ("preset", "drawn"),
    [
        ("first order", {(0.1, 12), (1, 12), (0, 15), (30, 100)}),
        ("first order, faces", {(0.1, 10), (0.8, 8), (0, 20), (60, 100)}),
    ],
)
def test_the_first_order_draws_from_the_published_ranges_and_nothing_else(preset, drawn):
    found = set()
    for seed in range(6):
        generator = Recorded(seed)
        degrade(photograph_like(), PRESETS[preset], generator)
        found |= generator.uniforms
    assert found - {(-math.pi, math.pi)} == drawn


def test_the_first_order_is_the_chain_of_its_parts():
    stage = replace(
        PRESETS["first order"].first,
        kernel_weights=(1, 0, 0, 0, 0, 0),
        sigma=(2, 2),
        reduction=(3, 3),
        gaussian_sigma=(0, 0),
        jpeg_quality=(50, 50),
    )
    image = photograph_like()
    x = filter_image(image[None], gaussian_kernel(41, 2, 2))
    x = torch.nn.functional.interpolate(x, size=(21, 32), mode="bilinear", align_corners=False)
    x = jpeg_compress(x, 50)
    x = torch.nn.functional.interpolate(x, size=(64, 96), mode="bilinear", align_corners=False)
    low = degrade(image, replace(PRESETS["first order"], first=stage), np.random.default_rng(0))
    assert torch.equal(low, (x[0].clamp(0, 1) * 255).round() / 255)


# Options of Real-ESRGAN's published training, under their names there.
REAL_ESRGAN = {
    "kernel_prob": (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
    "sinc_prob": 0.1,
    "blur_sigma": (0.2, 3),
    "betag_range": (0.5, 4),
    "betap_range": (1, 2),
    "resize_prob": (0.2, 0.7, 0.1),
    "resize_range": (0.15, 1.5),
    "gaussian_noise_prob": 0.5,
    "noise_range": (1, 30),
    "poisson_scale_range": (0.05, 3),
    "gray_noise_prob": 0.4,
    "jpeg_range": (30, 95),
}
REAL_ESRGAN_2 = {
    **REAL_ESRGAN,
    "blur_sigma": (0.2, 1.5),
    "resize_prob": (0.3, 0.4, 0.3),
    "resize_range": (0.3, 1.2),
    "noise_range": (1, 25),
    "poisson_scale_range": (0.05, 2.5),
}
FIELDS = {
    "kernel_prob": "kernel_weights",
    "sinc_prob": "sinc_probability",
    "blur_sigma": "sigma",
    "betag_range": "generalized_beta",
    "betap_range": "plateau_beta",
    "resize_prob": "resize_weights",
    "resize_range": "resize",
    "gaussian_noise_prob": "gaussian_probability",
    "noise_range": "gaussian_sigma",
    "poisson_scale_range": "poisson_scale",
    "gray_noise_prob": "gray_probability",
    "jpeg_range": "jpeg_quality",
}


@pytest.mark.parametrize("preset", ["real-esrgan", "diffbir v2.1"])
def test_the_second_order_has_real_esrgans_published_options(preset):
    settings = PRESETS[preset]
    for stage, options in ((settings.first, REAL_ESRGAN), (settings.second, REAL_ESRGAN_2)):
        assert {name: getattr(stage, FIELDS[name]) for name in options} == options
    assert (settings.first.blur_probability, settings.second.blur_probability) == (1, 0.8)
    assert (settings.final_sinc_probability, settings.final_jpeg_quality) == (0.8, (30, 95))
    # the second stage's JPEG is the last one
    assert (settings.first.jpeg_probability, settings.second.jpeg_probability) == (1, 0)
    assert settings.final_jpeg_last_probability == 0.5
    assert settings.scale == 4
    sides = (settings.first.kernel_sizes, settings.second.kernel_sizes, settings.final_sinc_sizes)
    if preset == "diffbir v2.1":  # as Real-ESRGAN's kernel_range, 7 to 21
        assert sides == ((7, 21), (7, 21), (7, 21))
        assert settings.second_probability == 1
    else:  # ResShift's are smaller
        assert sides == ((3, 19), (3, 13), (3, 13))
        assert settings.second_probability == 0.5


@pytest.mark.parametrize(
    ("preset", "drawn"),
    [
        ("heavy", {(0.8, 3.0), (4.0, 18.0), (40.0, 75.0)}),
        ("medium", {(0.3, 2.0), (1.0, 8.0), (60.0, 90.0)}),
        ("light", {(0.2, 1.0), (0.0, 3.0), (80.0, 96.0)}),
    ],
)
def test_one_round_draws_from_its_own_ranges_and_nothing_else(preset, drawn):
    found, gaussian = set(), 0
    for seed in range(40):
        generator = Recorded(seed)
        degrade(photograph_like(16, 16), PRESETS[preset], generator)
        found |= generator.uniforms
        gaussian += (0.05, 0.3) not in generator.uniforms
    reduction, poisson = (0.25, 0.25), (0.05, 0.3)
    assert found - {(-math.pi, math.pi)} == {*drawn, reduction, poisson}
    assert 30 <= gaussian < 40  # nine of ten
    assert PRESETS[preset].first.gray_probability == 0.2


def test_a_picture_is_reduced_to_one_pixel_at_least():
    stage = replace(QUIET, reduction=(32, 32), filters=("area",))
    low = degrade(photograph_like(8, 8), replace(CLEAN, scale=1, first=stage), Recorded(0))
    assert torch.equal(low, low[:, :1, :1].expand_as(low))


@pytest.mark.parametrize(
    ("kind", "drawn"),
    [
        ("iso", set()),
        ("aniso", {(-math.pi, math.pi)}),
        ("generalized_iso", {(0.5, 1.0), (1.0, 4.0)}),
        ("generalized_aniso", {(-math.pi, math.pi), (0.5, 1.0), (1.0, 4.0)}),
        ("plateau_iso", {(1.0, 1.0), (1.0, 2.0)}),
        ("plateau_aniso", {(-math.pi, math.pi), (1.0, 1.0), (1.0, 2.0)}),
    ],
)
def test_a_kind_of_kernel_draws_its_own_numbers(kind, drawn):
    weights = tuple(float(name == kind) for name in KERNELS)
    stage = replace(SECOND_STAGE, kernel_weights=weights, sinc_probability=0.0)
    found = set()
    for seed in range(12):
        generator = Recorded(seed)
        draw_kernel(stage, generator)
        found |= generator.uniforms
    assert found == drawn | {stage.sigma}


@pytest.mark.parametrize(("side", "lowest"), [(11, math.pi / 3), (13, math.pi / 5)])
def test_a_sinc_in_place_of_a_kernel_keeps_more_of_the_band_where_it_is_small(side, lowest):
    stage = replace(SECOND_STAGE, kernel_sizes=(side, side), sinc_probability=1.0)
    generator = Recorded(0)
    assert draw_kernel(stage, generator).shape == (side, side)
    assert generator.uniforms == {(lowest, math.pi)}


def test_sides_of_kernels_are_odd_and_reach_both_ends():
    stage = replace(SECOND_STAGE, kernel_sizes=(3, 9), sinc_probability=0.0)
    generator = np.random.default_rng(0)
    assert {len(draw_kernel(stage, generator)) for _ in range(60)} == {3, 5, 7, 9}


@pytest.mark.parametrize(
    ("weights", "drawn"),
    [((1, 0, 0), {(1.0, 1.2)}), ((0, 1, 0), {(0.3, 1.0)}), ((0, 0, 1), set())],
)
def test_a_picture_is_enlarged_reduced_or_kept(weights, drawn):
    stage = replace(QUIET, resize_weights=weights, resize=(0.3, 1.2))
    generator = Recorded(0)
    degrade(photograph_like(16, 16), replace(CLEAN, first=stage), generator)
    assert generator.uniforms == drawn


def test_a_reduction_makes_the_picture_that_many_times_smaller_on_the_way():
    image = photograph_like()
    stage = replace(QUIET, reduction=(2, 8), filters=("area",))
    errors = []
    for times in (2, 8):
        fixed = replace(stage, reduction=(times, times))
        low = degrade(image, replace(CLEAN, scale=1, first=fixed), np.random.default_rng(0))
        errors.append((low - image).abs().mean())
    drawn = degrade(image, replace(CLEAN, scale=1, first=stage), np.random.default_rng(0))
    assert errors[0] < (drawn - image).abs().mean() < errors[1]
