"""The benchmark's table and JSON, with tiny networks; no speed is judged."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from pack.benchmarks import run

RESULT = {
    "name": "unet 64 latent",
    "precision": "fp32",
    "seconds": 0.5,
    "flops": 1e11,
    "flops_per_second": 2e11,
    "fraction": 0.8,
    "peak_bytes": 3 * 2**20,
    "estimated_bytes": None,
}
MACHINE = {
    "device": "A processor",
    "threads": 2,
    "torch": "2.11.0",
    "comfyui": "0.30.0",
    "vae_attention": "normal_attention",
}


def test_the_table_is_aligned_and_holds_every_figure():
    report = {
        "machine": MACHINE,
        "matmul_flops_per_second": {"fp32": 2.5e11},
        "results": [RESULT, {**RESULT, "name": "bundled 256 px", "peak_bytes": None}],
    }
    lines = run.format_report(report).splitlines()
    assert lines[1] == "matrix product: fp32 250 GFLOP/s"
    assert lines[4].split() == [
        "unet",
        "64",
        "latent",
        "fp32",
        "0.5",
        "0.1",
        "200",
        "80%",
        "3",
        "-",
    ]
    assert lines[5].split()[-2:] == ["-", "-"]
    assert len({len(line) for line in lines[3:]}) == 1


def test_every_case_has_its_own_name():
    for cases in (run.FULL, run.QUICK, run.TINY):
        assert len({case.name for case in cases}) == len(cases)


@pytest.mark.comfy
@pytest.mark.parametrize("case", run.TINY, ids=lambda case: case.name)
def test_a_tiny_case_runs(case, tmp_path):
    from pack.benchmarks import cases, measuring, weights

    weights.write_checkpoints(tmp_path, tiny=True)
    built = cases.build(case.kind, case.size, case.batch, "fp32", tmp_path)
    measured = measuring.measure(built.call, torch.device("cpu"), 0)
    assert measured["flops"] > 0
    assert measured["seconds"] == min(measured["runs"])
    assert (built.estimated_bytes is None) == (case.kind == "restore")


@pytest.mark.comfy
def test_the_command_writes_a_table_and_json(tmp_path, capsys):
    file = tmp_path / "report.json"
    arguments = ["--tiny", "--only", "decode", "--precision", "bf16", "--seconds", "0"]
    assert run.main([*arguments, "--threads", "1", "--json", str(file)]) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["machine"]["threads"] == 1
    assert set(report["machine"]) == set(MACHINE)
    (result,) = report["results"]
    assert set(result) >= set(RESULT)
    assert (result["name"], result["batch"]) == ("vq decode 64 px", 1)
    rate = report["matmul_flops_per_second"]["bf16"]
    assert result["fraction"] == pytest.approx(result["flops"] / result["seconds"] / rate)
    assert 0 <= report["codes"]["changed_codes"] < 0.5
    printed = capsys.readouterr().out
    assert "vq decode 64 px" in printed
    assert "of the codes changed" in printed


def test_a_case_that_does_not_exist_is_an_error(capsys):
    assert run.main(["--only", "nothing of the kind"]) == 1
    assert "nothing of the kind" in capsys.readouterr().err


POINTS = [
    {"side": side, "precision": "fp32", "seconds": seconds, "peak_bytes": peak}
    for side, seconds, peak in ((256, 0.5, 40 << 20), (512, 2.0, None))
]


@pytest.fixture
def curve(monkeypatch):
    """Return the script as a module; beside it lies what it imports."""
    monkeypatch.syspath_prepend(str(Path(run.__file__).parent))
    return importlib.import_module("curve")


def test_the_curves_table_holds_seconds_for_each_megapixel(curve):
    lines = [line.split() for line in curve.format_table(POINTS).splitlines()]
    assert lines[1] == ["256x256", "fp32", "0.5", "7.63", "40"]
    assert lines[2] == ["512x512", "fp32", "2", "7.63", "-"]


def test_the_curve_is_drawn(curve, tmp_path):
    curve.draw_plot(POINTS, tmp_path / curve.PLOT)
    width, height = Image.open(tmp_path / curve.PLOT).size
    assert width > height > 300


@pytest.mark.comfy
@pytest.mark.slow
def test_the_command_measures_the_curve(curve, tmp_path, capsys):
    arguments = ["--largest", "256", "--precision", "fp32", "--seconds", "0", "--threads", "1"]
    assert curve.main([*arguments, "--output", str(tmp_path)]) == 0
    assert "256x256" in capsys.readouterr().out
    assert (tmp_path / curve.PLOT).is_file()


@pytest.fixture(scope="module")
def one_call():
    """The comparison, which is started from its own folder."""
    folder = str(Path(run.__file__).parent)
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("one_call")
    finally:
        sys.path.remove(folder)


SYSTEM = {
    "name": "RSD",
    "extended": False,
    "calls": 1,
    "seconds": 2.0,
    "flops": 3e12,
    "peak_bytes": 2**20,
    "weights_bytes": 5 * 2**20,
}


def test_short_runs_are_extended_in_proportion(one_call):
    first = {**SYSTEM, "calls": 2, "seconds": 5.0, "flops": 10.0, "peak_bytes": 7}
    second = {**SYSTEM, "calls": 3, "seconds": 7.0, "flops": 13.0, "peak_bytes": 6}
    extended = one_call.extend(first, second, 50)
    assert (extended["calls"], extended["seconds"], extended["flops"]) == (50, 101.0, 154.0)
    assert extended["peak_bytes"] == 7


def test_the_comparison_gives_times_as_ratios_to_the_fastest(one_call, tmp_path):
    slow = {**SYSTEM, "name": "HYPIR", "extended": True, "seconds": 5.0, "peak_bytes": None}
    text = one_call.format_table(MACHINE, [slow, SYSTEM], 128)
    assert "128x128 to 512x512" in text
    assert "| HYPIR* | 1 | 3 | 2.5 | - | 5 |" in text
    assert "| RSD | 1 | 3 | 1 | 1 | 5 |" in text
    assert "RSD = 1" in text
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    one_call.write_section(page, text, one_call.MARKS)
    written = page.read_text("utf-8")
    assert text in written
    assert "old" not in written
    assert written.startswith("before\n")
    assert written.endswith("after\n")


@pytest.mark.comfy
@pytest.mark.parametrize("name", ["SinSR", "RSD"])
def test_a_tiny_system_is_measured(name, tmp_path):
    from pack.benchmarks import systems, weights

    weights.write_checkpoints(tmp_path, tiny=True)
    system = systems.build_system(name, 16, "fp32", tmp_path, tiny=True)
    found = systems.measure_system(system, torch.device("cpu"), 0)
    assert found["calls"] == 1
    assert found["flops"] > 0
    assert found["weights_bytes"] > 2**20
