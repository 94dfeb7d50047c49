"""The plain published networks, which the pack's speed is held against, and their table."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch


@pytest.fixture
def side_by_side(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("side_by_side")


@pytest.mark.comfy
@pytest.mark.parametrize("part", ["UNet", "VQ encode", "VQ decode"])
def test_the_plain_networks_are_the_packs(side_by_side, tmp_path, part):
    torch.manual_seed(0)
    plain, pack = side_by_side.build(part, "fp32", tmp_path, tiny=True)
    with torch.inference_mode():
        made, expected = pack(), plain()
    assert made.shape == expected.shape
    assert side_by_side.relative_error(made, expected) < 1e-5


@pytest.mark.comfy
def test_both_chains_make_a_picture_of_one_size(side_by_side, tmp_path):
    plain, pack = side_by_side.build(side_by_side.CHAIN, "fp32", tmp_path, tiny=True)
    with torch.inference_mode():
        assert plain().shape == pack().shape == (1, 64, 64, 3)


def test_bf16_is_also_held_against_plain_fp32(side_by_side):
    rows = [
        {"part": "UNet", "precision": "fp32", "plain": 3.0, "pack": 2.0, "error": 1e-6},
        {"part": "UNet", "precision": "bf16", "plain": 1.5, "pack": 1.0, "error": 0.01},
        {"part": side_by_side.CHAIN, "precision": "fp32", "plain": 1, "pack": 1, "error": 0.9},
    ]
    table = side_by_side.format_rows(rows)
    assert table[2:] == [
        "| UNet | fp32 | 3 | 2 | 1.50 | - | 1.0e-06 |",
        "| UNet | bf16 | 1.5 | 1 | 1.50 | 3.00 | 1.0e-02 |",
        "| x4 in 4 steps | fp32 | 1 | 1 | 1.00 | - | - |",
    ]
