"""DiffBIR with networks of their released size, over ComfyUI's HTTP API."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.comfy, pytest.mark.slow, pytest.mark.heavy]

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
NEEDED_BYTES = 13 * 2**30


@pytest.mark.skipif(
    psutil.virtual_memory().total < NEEDED_BYTES,
    reason="needs 13 GiB of memory for float32 weights",
)
def test_released_sizes_load_and_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """SD 2.1, LAControlNet v2 and SwinIR, random, in 16 bit: the workflow of v2 in two steps."""
    from pack.tests.support.comfy_client import Server
    from pack.tests.support.released_diffbir import write_full_size_files

    write_full_size_files(tmp_path / "models")
    shutil.copytree(WORKFLOWS / "inputs", tmp_path / "input")
    prompt = json.loads((WORKFLOWS / "api" / "diffbir_face.json").read_text("utf-8"))
    prompt["2"]["inputs"]["control_net_name"] = "v2.safetensors"
    prompt["9"]["inputs"]["model_name"] = "general_swinir_v1.ckpt"
    prompt["5"]["inputs"]["steps"] = 2
    with Server(tmp_path) as server:
        run = server.run(prompt)
        assert run.end == "execution_success", run.of("execution_error") or server.log()[-2000:]
        assert server.picture(run, "8").size == (512, 512)
        peak = peak_bytes(server.pid)
        assert "missing" not in server.log().lower(), "a file lacks weights"
    with capsys.disabled():
        sys.stdout.write(f"\npeak memory of the server: {peak / 2**30:.2f} GiB\n")
    assert peak < NEEDED_BYTES


def test_students_of_released_size_load_and_run(tmp_path: Path):
    """HYPIR on SD 2.1 and a student of RSD, random, in 16 bit, on a small picture."""
    from PIL import Image

    from pack.tests.support.comfy_client import Server
    from pack.tests.support.released import write_full_size_student
    from pack.tests.support.released_diffbir import write_full_size_hypir

    write_full_size_hypir(tmp_path / "models")
    write_full_size_student(tmp_path / "models")
    (tmp_path / "input").mkdir()
    Image.new("RGB", (64, 64), (90, 120, 60)).save(tmp_path / "input" / "small.png")
    prompts = {
        name: json.loads((WORKFLOWS / "api" / f"{name}.json").read_text("utf-8"))
        for name in ("hypir_sampler_custom", "resshift_one_step")
    }
    for prompt in prompts.values():
        prompt["3"]["inputs"]["image"] = "small.png"
    prompts["hypir_sampler_custom"]["4"]["inputs"]["scale_by"] = 2.0
    prompts["resshift_one_step"]["1"]["inputs"]["model_name"] = "rsd_student_12k.safetensors"
    with Server(tmp_path) as server:
        for prompt, side in zip(prompts.values(), (128, 256), strict=True):
            run = server.run(prompt)
            assert run.end == "execution_success", run.of("execution_error") or server.log()[-2000:]
            assert server.picture(run, "8").size == (side, side)
        log = server.log()
    assert "HYPIR, 257 modules (SupPixel's licence of HYPIR: non-commercial use only)" in log
    assert "non-commercial use only, changed versions" in log
    assert "lora key not loaded" not in log
    assert "missing" not in log.lower(), "a file lacks weights"


def peak_bytes(pid: int) -> int:
    """Return the most memory a process has held, or what it holds where that is not told."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        (line,) = (t for t in status.read_text().splitlines() if t.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return psutil.Process(pid).memory_info().rss
