"""The benchmark's table and JSON, with tiny networks; no speed is judged."""

from __future__ import annotations

import importlib
import json
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
    arguments = ["--largest", "256", "--precision", "bf16", "--seconds", "0", "--threads", "1"]
    assert curve.main([*arguments, "--output", str(tmp_path)]) == 0
    assert "256x256" in capsys.readouterr().out
    assert (tmp_path / curve.PLOT).is_file()
