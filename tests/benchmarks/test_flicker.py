"""The benchmark of flicker: its figures, and where they are written."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.comfy


def test_the_tables_hold_the_limits_and_the_found_flows():
    from pack.benchmarks.flicker_figures import measure_all

    lines = measure_all(2, only="nothing").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    head, _, original, bicubic, found = *cells[:4], cells[4]
    assert head == [
        "restoration",
        "pan",
        "zoom",
        "turn",
        "patch",
        "rough pan",
        "mean",
        "sharpness",
        "PSNR",
    ]
    assert original[-2:] == ["1.00", "inf"]
    assert original[4] == "0.00"  # a patch that moves by whole pixels
    assert bicubic[1:7] == ["1.00"] * 6
    assert float(bicubic[7]) < 0.8
    assert found == ["flow found by", "pan", "zoom", "turn", "patch", "rough pan"]
    errors = [float(cell.split(",")[0]) for cell in cells[6][1:]]
    assert max(errors) < 0.3


def test_tables_are_written_between_the_marks_of_the_page(monkeypatch, tmp_path: Path):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    flicker = importlib.import_module("flicker")
    assert all(mark in flicker.PAGE.read_text("utf-8") for mark in flicker.MARKS)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{flicker.MARKS[0]}\nold\n{flicker.MARKS[1]}\nafter\n", "utf-8")
    flicker.write_section(page, "new", flicker.MARKS)
    flicker.write_section(page, "newer", flicker.MARKS)
    expected = f"before\n{flicker.MARKS[0]}\nnewer\n{flicker.MARKS[1]}\nafter\n"
    assert page.read_text("utf-8") == expected
