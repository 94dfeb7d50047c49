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
    assert "at most 5 %, missed" in folders.format_report({**report, "local": [1.0, 2.0]})


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


def test_two_workers_are_compared_with_the_one_that_is_left():
    told = [("a", 1.0), ("b", 2.0), ("a", 3.0), ("b", 3.5), ("a", 4.0), ("a", 6.0), ("a", 8.0)]
    outcomes = [
        Outcome(f"{number}.png", "done", worker=worker, finished=finished)
        for number, (worker, finished) in enumerate([*told, ("c", 9.0)])
    ]
    assert archive.worker_rates(outcomes, 4.0) == (3 / 2, 3 / 5)
