#!/usr/bin/env python3
"""Measures what the pack adds to ComfyUI's start: `python dev.py bench --import`.

Every run is a new process that imports torch, then ComfyUI with its own nodes, then the pack, as
ComfyUI does when it starts. The least of the runs counts: the first ones wait for the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PACK_ROOT = Path(__file__).resolve().parents[1]
TARGET_S = 0.3
STAGES = {"torch": "torch", "comfyui": "ComfyUI with its own nodes", "pack": "this pack"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="processes")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args(argv)
    if not os.environ.get("COMFYUI_PATH"):
        print("Set COMFYUI_PATH, or use: python dev.py bench --import", file=sys.stderr)
        return 1
    runs = [run_worker() for _ in range(arguments.runs)]
    least = {stage: min(run[stage] for run in runs) for stage in STAGES}
    print(format_report(least))
    if arguments.json:
        arguments.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    return 0


def run_worker() -> dict[str, float]:
    """Return the seconds of each stage in a new process."""
    command = [sys.executable, str(Path(__file__).resolve()), "worker"]
    with tempfile.TemporaryDirectory(prefix="resshift-import-") as base:
        process = subprocess.run(
            command, cwd=base, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    return json.loads(process.stdout.splitlines()[-1])


def measure_import() -> dict[str, float]:
    """Import everything in this process and return the seconds of each stage."""
    sys.path[0] = os.environ["COMFYUI_PATH"]
    times = [time.perf_counter()]
    import torch

    times.append(time.perf_counter())
    from comfy.cli_args import args

    args.cpu = not torch.accelerator.is_available()
    args.base_directory = str(Path.cwd())
    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())
    times.append(time.perf_counter())
    if not asyncio.run(nodes.load_custom_node(str(PACK_ROOT), module_parent="custom_nodes")):
        raise ImportError("ComfyUI could not import the pack")
    times.append(time.perf_counter())
    seconds = (end - start for start, end in itertools.pairwise(times))
    return dict(zip(STAGES, seconds, strict=True))


def format_report(least: dict[str, float]) -> str:
    """Return a line for each stage, and whether the target is met."""
    lines = [
        f"{title:{max(map(len, STAGES.values()))}}  {least[stage]:6.3f} s"
        f"  {least[stage] / least['torch']:7.1%} of torch"
        for stage, title in STAGES.items()
    ]
    verdict = "met" if least["pack"] <= TARGET_S else "missed"
    return "\n".join([*lines, f"target for this pack: {TARGET_S} s, {verdict}"])


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        print(json.dumps(measure_import()))
    else:
        sys.exit(main())
