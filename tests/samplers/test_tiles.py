from __future__ import annotations

import pytest
import torch

from pack.samplers.tiles import (
    TILE_BLENDS,
    blend_weights,
    cut_tile,
    gaussian_weights,
    merge_tiles,
    sliding_windows,
    tile_positions,
)
from pack.tests.support.golden import assert_close, golden_case

DESCRIPTION, GOLDEN = golden_case("resshift/e_tiling")
DIFFBIR, DIFFBIR_GOLDEN = golden_case("diffbir/tiling")


@pytest.mark.parametrize("name", list(DESCRIPTION["configs"]))
def test_tiles_are_cut_counted_and_merged_as_by_the_reference(name):
    case = DESCRIPTION["configs"][name]
    (height, width), size, scale = case["size"], case["pch_size"], case["sf"]
    x = GOLDEN[f"{name}.x"]
    positions = tile_positions(height, width, size, case["stride"])
    assert [list(position) for position in positions] == GOLDEN[f"{name}.starts"].tolist()

    tiles = [
        cut_tile(x, position, size).repeat_interleave(scale, -2).repeat_interleave(scale, -1)
        for position in positions
    ]
    scaled = [(row * scale, column * scale) for row, column in positions]
    changed = [(1 + 0.1 * k) * tile for k, tile in enumerate(tiles)]
    merged = merge_tiles(changed, scaled, height * scale, width * scale)
    assert_close(merged, GOLDEN[f"{name}.gather"], 1e-6)

    # one tile alone adds 1 / count where it lies
    count = torch.zeros(1, 1, height * scale, width * scale)
    for k in range(len(tiles)):
        alone = [torch.full_like(tile[:1, :1], float(j == k)) for j, tile in enumerate(tiles)]
        count += (merge_tiles(alone, scaled, height * scale, width * scale) > 0).float()
    assert torch.equal(count, GOLDEN[f"{name}.count"].float())


def test_merging_unchanged_tiles_gives_the_picture_back():
    x = torch.rand(2, 3, 37, 53, generator=torch.Generator().manual_seed(0))
    positions = tile_positions(37, 53, 16, 11)
    tiles = [cut_tile(x, position, 16) for position in positions]
    assert_close(merge_tiles(tiles, positions, 37, 53), x, 1e-6)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 100])
@pytest.mark.parametrize(("size", "stride"), [(8, 8), (8, 5), (8, 1), (16, 12)])
def test_tiles_cover_every_length_without_repeats_and_stay_inside(length, size, stride):
    starts = sliding_windows(length, size, stride)
    covered = {start + k for start in starts for k in range(min(size, length))}
    assert covered == set(range(length))
    assert starts == sorted(set(starts))


@pytest.mark.parametrize("name", list(DIFFBIR["windows"]))
def test_windows_are_those_of_diffbir(name):
    height, width, size, stride = map(int, name.replace("x", "_").split("_"))
    windows = [
        [row, row + size, column, column + size]
        for row, column in tile_positions(height, width, size, stride)
    ]
    assert windows == DIFFBIR["windows"][name]


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [("weights_16", 16, 16), ("weights_64", 64, 64), ("weights_24x16", 16, 24)],
)
def test_gaussian_weights_are_those_of_diffbir(name, height, width):
    weights = gaussian_weights(height, width)
    assert weights.dtype == torch.float64
    assert_close(weights, DIFFBIR_GOLDEN[name], 1e-12)


def toy(tile):
    rows = torch.arange(tile.shape[-2], dtype=tile.dtype)[:, None]
    columns = torch.arange(tile.shape[-1], dtype=tile.dtype)
    return 0.5 * tile + 0.01 * columns + 0.02 * rows


@pytest.mark.parametrize(
    ("name", "stride", "scale"),
    [("tiled_16_8", 8, 1), ("tiled_uniform_16_8", 8, 1), ("tiled_up2_16_12", 12, 2)],
)
def test_tiles_are_blended_as_by_diffbir(name, stride, scale):
    x = DIFFBIR_GOLDEN["x"]
    positions = tile_positions(40, 52, 16, stride)
    tiles = (toy(cut_tile(x, position, 16)) for position in positions)
    tiles = (t.repeat_interleave(scale, -2).repeat_interleave(scale, -1) for t in tiles)
    scaled = [(row * scale, column * scale) for row, column in positions]
    weights = None if "uniform" in name else gaussian_weights(16 * scale, 16 * scale)
    merged = merge_tiles(tiles, scaled, 40 * scale, 52 * scale, weights)
    assert_close(merged, DIFFBIR_GOLDEN[name], 1e-6)


@pytest.mark.parametrize("blend", TILE_BLENDS)
def test_weighted_merging_of_unchanged_tiles_gives_the_picture_back(blend):
    x = torch.rand(2, 3, 37, 53, generator=torch.Generator().manual_seed(0))
    positions = tile_positions(37, 53, 16, 11)
    tiles = [cut_tile(x, position, 16) for position in positions]
    merged = merge_tiles(tiles, positions, 37, 53, blend_weights(16, 16, 5, blend))
    assert_close(merged, x, 1e-6)


def test_linear_weights_of_two_tiles_fade_into_each_other_and_are_flat_within():
    weights = blend_weights(12, 12, 4, "linear")[6]
    assert torch.allclose(weights[-4:] + weights[:4], torch.ones(4, dtype=torch.float64))
    assert torch.equal(weights[4:8], torch.ones(4, dtype=torch.float64))
    assert torch.equal(weights, weights.flip(0))


def test_an_unknown_blend_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="linear, gaussian"):
        blend_weights(8, 8, 2, "cosine")


def test_every_tile_needs_a_position():
    with pytest.raises(ValueError, match="zip"):
        merge_tiles([torch.zeros(1, 1, 4, 4)], [(0, 0), (0, 2)], 4, 6)
