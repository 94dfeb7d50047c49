"""The command for a real card, with tiny networks on the CPU; no speed is judged."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from pack.benchmarks import device_page, device_report, run

FACTS = [
    {"part": "facts", "kind": "fact", "name": name, "value": value}
    for name, value in (("card", "A card"), ("driver", "580.1"), ("torch", "2.11.0"))
]
RATE = {**FACTS[0], "name": "matrix rate", "precision": "fp16", "value": 2e14}
PARITY = {
    "part": "parity ResShift",
    "kind": "parity",
    "name": "VQ encode",
    "precision": "fp16",
    "error": 0.002,
    "largest": 0.01,
    "bound": 0.01,
    "passed": True,
}
SPEED = {
    "part": "speed ResShift",
    "kind": "speed",
    "name": "ResShift 64 px, batch 4",
    "precision": "fp16",
    "how": "eager",
    "seconds": 0.1,
    "pictures": 4,
    "flops": 2e12,
    "peak_bytes": 3 << 20,
    "target": 0.03,
}
MODE = {**PARITY, "part": "mode --gpu-only", "first_seconds": 1.5, "seconds": 0.25, "loaded": 0.5}
ERROR = {"part": "compile", "kind": "error", "name": "part", "error": "a | b"}


@pytest.fixture
def device(monkeypatch):
    """Return the script as a module; beside it lies what it imports."""
    monkeypatch.syspath_prepend(str(Path(run.__file__).parent))
    return importlib.import_module("device")


def test_tables_hold_every_kind_of_row():
    text = device_page.render_section([*FACTS, RATE, PARITY, SPEED, MODE, ERROR])
    assert "- matrix rate fp16: 200 TFLOP/s" in text
    assert "| VQ encode | fp16 | 0.002 | 0.01 | 0.01 | passed |" in text
    assert "| ResShift 64 px, batch 4 | fp16 | eager | 25 | 10.0% | 3 | 30 | met |" in text
    assert "| --gpu-only | VQ encode | 0.002 | 0.01 | 1.5 | 0.25 | 50% | passed |" in text
    assert "| compile | part |  | a / b |" in text


def test_the_page_keeps_other_devices_and_replaces_its_own():
    page = device_page.render_page("", [*FACTS, PARITY])
    other = [{**FACTS[0], "value": "Another card"}, *FACTS[1:]]
    page = device_page.render_page(page, [*other, SPEED])
    page = device_page.render_page(page, [*FACTS, MODE])
    assert page.count("## A card, driver 580.1, torch 2.11.0") == 1
    assert "## Another card, driver 580.1, torch 2.11.0" in page
    assert "ResShift 64 px, batch 4" in page
    assert "### Parity" not in page
    assert device_page.render_page(page, [*FACTS, MODE]) == page


def test_an_error_becomes_a_row_and_an_interrupt_goes_on(tmp_path):
    report = device_report.Report("speed", tmp_path / "rows")
    with report.attempt("a case", "bf16"):
        raise ValueError("too small")
    with pytest.raises(KeyboardInterrupt), report.attempt("a case"):
        raise KeyboardInterrupt
    (row,) = device_report.read_rows(tmp_path / "rows")
    assert (row["kind"], row["name"], row["error"]) == ("error", "a case", "ValueError: too small")


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    file = tmp_path / "rows"
    file.write_text(json.dumps(PARITY) + '\n{"part": "spe', encoding="utf-8")
    assert device_report.read_rows(file) == [PARITY]


def test_every_part_has_its_own_name(device):
    names = [part.name for group in device.GROUPS for part in group]
    assert len(set(names)) == len(names)


def test_earlier_results_are_shown_without_a_run(device, tmp_path, capsys):
    file = tmp_path / "results.jsonl"
    file.write_text("\n".join(map(json.dumps, [*FACTS, PARITY])), encoding="utf-8")
    assert device.main(["--results", str(file)]) == 0
    assert "VQ encode" in capsys.readouterr().out
    file.write_text(json.dumps({**PARITY, "passed": False}), encoding="utf-8")
    assert device.main(["--results", str(file)]) == 1
    assert device.main(["--results", str(tmp_path / "missing")]) == 1
    assert "holds no rows" in capsys.readouterr().err


@pytest.mark.comfy
@pytest.mark.slow
def test_parts_for_which_no_time_is_left_are_named(device, tmp_path):
    assert device.main(["--tiny", "--minutes", "0", "--output", str(tmp_path)]) == 1
    rows = device_report.read_rows(tmp_path / device.RESULTS)
    assert {row["error"] for row in rows} == {"left out: no time was left"}


@pytest.mark.comfy
@pytest.mark.slow
def test_everything_runs_with_tiny_networks(device, tmp_path, capsys):
    assert device.main(["--tiny", "--output", str(tmp_path)]) == 0, capsys.readouterr().out
    rows = device_report.read_rows(tmp_path / device.RESULTS)
    tiny = {part.name for group in device.GROUPS for part in group if part.in_tiny}
    assert {row["part"] for row in rows} == tiny
    assert {row["kind"] for row in rows} == {"fact", "note", "parity", "speed"}
    assert (tmp_path / "profile-ResShift.txt").is_file()
    assert "### Memory modes" in (tmp_path / device.PAGE).read_text(encoding="utf-8")
