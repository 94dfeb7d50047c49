"""The figures of folders, as they are printed; no speed is judged."""

from __future__ import annotations

from pathlib import Path

from pack.benchmarks import archive, folders
from pack.folders.job import Outcome


def test_ratios_are_of_rounds_and_the_target_is_told():
    report = {"pictures": 2, "bare": [2.0, 4.0], "local": [1.96, 3.92], "http": [1.0, 2.0]}
    lines = folders.format_report(report)
    assert "the folder command: 2.940 pictures a second, +2.0 % time over the bare loop" in lines
    assert "at most 5 %, met" in lines
    assert "+100.0 % time" in lines
    assert "Ray" not in lines
    slow = {**report, "local": [1.0, 2.0], "ray_1": 1.0, "ray_2": 1.5}
    assert "at most 5 %, missed" in folders.format_report(slow)
    assert "one worker 1.000, two workers 1.500 pictures a second: 1.50 times" in (
        folders.format_report(slow)
    )


def test_an_archive_is_told_by_its_manifest(tmp_path: Path):
    lines = [
        Outcome(f"{number}.png", "done", outputs=((f"{number}.png", 10),), finished=float(number))
        for number in range(5)
    ]
    text = "".join(f"{outcome.to_line()}\n" for outcome in lines)
    (tmp_path / "manifest.jsonl").write_text(text + '{"input": "cut')
    said = archive.describe("alone", 9.0, tmp_path)
    assert said.startswith("alone: 9 s, 1.00 pictures a second")
    assert "5 lines, 5 names, {'done': 5}, by 1 processes" in said
