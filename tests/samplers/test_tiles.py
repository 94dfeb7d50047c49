from __future__ import annotations

import pytest
import torch

from pack.samplers.tiles import cut_tile, merge_tiles, tile_positions, tile_starts
from pack.tests.support.golden import assert_close, golden_case

DESCRIPTION, GOLDEN = golden_case("resshift/e_tiling")


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
    starts = tile_starts(length, size, stride)
    covered = {start + k for start in starts for k in range(min(size, length))}
    assert covered == set(range(length))
    assert starts == sorted(set(starts))
