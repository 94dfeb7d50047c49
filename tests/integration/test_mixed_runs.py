"""Many runs of every kind in one server: nothing grows."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from PIL import Image

from pack.tests.support.bad_input_runs import CASES
from pack.tests.support.interrupting import run_interrupted
from pack.tests.support.videos import write_video

if TYPE_CHECKING:
    from pack.tests.support.bad_input_graphs import Prompt
    from pack.tests.support.comfy_client import Server

pytestmark = [pytest.mark.comfy, pytest.mark.slow, pytest.mark.heavy]

API = Path(__file__).resolve().parents[2] / "workflows" / "api"
RUNS = 200
# Kept in every prompt, so that only small files are read again and again.
COSTLY = ("CheckpointLoaderSimple", "CLIPTextEncode")
SMALL = (24, 16)
ROOM_BYTES = 96 * 2**20  # what the allocator keeps of a run of another kind


def small_prompts() -> list[Prompt]:
    """Return the shipped workflows with two steps and no enlargement to 512 pixels."""
    shipped = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(API.glob("*.json"))]
    kept: Prompt = {}
    for number, prompt in enumerate(shipped):
        for key, node in prompt.items():
            inputs = node["inputs"]
            inputs |= {"steps": 2} if "steps" in inputs else {}
            inputs |= {"rules": "none"} if "rules" in inputs else {}
            # Not every processor computes bfloat16 in good time.
            inputs |= {"training_dtype": "fp32"} if "training_dtype" in inputs else {}
            inputs |= {"crop": 64, "count": 4} if "crop" in inputs else {}
            if node["class_type"] in COSTLY:
                kept[f"kept_{number}_{key}"] = {**node, "inputs": renamed(inputs, number)}
    return [{**kept, **prompt} for prompt in shipped]


def renamed(inputs: dict[str, Any], number: int) -> dict[str, Any]:
    """Return inputs whose links lead to the kept nodes of a workflow."""
    return {
        name: [f"kept_{number}_{value[0]}", value[1]] if isinstance(value, list) else value
        for name, value in inputs.items()
    }


def with_seed(prompt: Prompt, seed: int) -> Prompt:
    """Return a prompt whose noise nothing has drawn yet."""
    return {
        key: {
            **node,
            "inputs": {
                name: seed if name in ("seed", "noise_seed") else value
                for name, value in node["inputs"].items()
            },
        }
        for key, node in prompt.items()
    }


def shrink_samples(folder: Path) -> None:
    """Make the sample pictures and the sample clip small."""
    for path in folder.rglob("restoration_*.*"):
        if path.suffix == ".mp4":
            write_video(path, 4, width=SMALL[0], side=SMALL[1])
            continue
        with Image.open(path) as picture:
            small = picture.resize(SMALL)
        small.save(path)


def test_many_mixed_runs_leave_memory_files_and_threads_as_they_were(
    wrong_use_server: Server,
):
    server = wrong_use_server
    shrink_samples(server.base / "input")
    workflows = small_prompts()
    cases: dict[str, list] = {"error": [], "interrupted": []}
    for row, node_id in CASES.values():
        cases.get(row.kind, []).append((row, node_id))
    process = psutil.Process(server.pid)
    count_files = process.num_handles if psutil.WINDOWS else process.num_fds
    resident, files, threads = [], [], []
    for number in range(RUNS):
        kind = {3: "error", 6: "interrupted"}.get(number % 8, "good")
        if kind == "good":
            run = server.run(with_seed(workflows[number % len(workflows)], 5000 + number))
            assert run.end == "execution_success", run.of("execution_error")
        else:
            row, node_id = cases[kind][number // 8 * 7 % len(cases[kind])]
            follow = run_interrupted if kind == "interrupted" else type(server).run
            run = follow(server, row.prompt(node_id))
            assert run.end == f"execution_{kind}", run.of("execution_error")
        resident.append(process.memory_info().rss)
        files.append(count_files())
        threads.append(process.num_threads())
    middle, end = slice(RUNS * 3 // 8, RUNS * 5 // 8), slice(RUNS * 3 // 4, RUNS)
    growth = median(resident[end]) - median(resident[middle])
    assert growth < ROOM_BYTES, f"grew by {growth / 2**20:.0f} MiB"
    assert min(files[end]) <= min(files[middle])
    assert min(threads[end]) <= min(threads[middle])
