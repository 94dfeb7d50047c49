#!/usr/bin/env python3
"""Checks and measures the pack on a real card: `python dev.py bench --device`.

Needs torch, ComfyUI's sources (COMFYUI_PATH) and of ComfyUI's requirements what its core imports;
nothing is downloaded. Every part runs in a process of its own with a time limit, the most important
first, and writes what it finds as it finds it, so that an end at any moment loses nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_page import PAGE, device_title, render_section, write_page
from device_report import Report, read_rows

WORKER = Path(__file__).with_name("device_worker.py")
DOCS = WORKER.parents[1] / "docs"
RESULTS = "results.jsonl"
LOG = "log.txt"
# What ComfyUI's core imports of its requirements, and what only some parts need.
NEEDED = (
    "torch", "torchsde", "torchvision", "numpy", "einops", "transformers", "tokenizers",
    "safetensors", "yaml", "PIL", "scipy", "tqdm", "psutil", "comfy_kitchen", "comfy_aimdo",
)  # fmt: skip
SPANDREL = "spandrel"
COMPILE = "comfy_api.torch_helpers"
# A part that starts later cannot get as far as its first result.
LEAST_SECONDS = 10


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        name: What it is called.
        function: `module:function` in this folder.
        limit: Seconds after which it is ended.
        cores: Share of the CPU's cores for what runs on the CPU even where there is a card; 0 runs
            on the card.
        needs: A module without which it is left out.
        flags: ComfyUI's options.
        dynamic: Whether memory is dynamic, ComfyUI's default on NVIDIA.
        cuda_malloc: Whether torch allocates as under ComfyUI's `main.py`.
        in_tiny: Whether `--tiny` runs it.
    """

    name: str
    function: str
    limit: float
    cores: float = 0
    needs: str = ""
    flags: tuple[str, ...] = ()
    dynamic: bool = False
    cuda_malloc: bool = True
    in_tiny: bool = True


def mode(name: str, *flags: str, **options: Any) -> Part:
    """Return the part of a memory mode."""
    function = "device_modes:try_mode"
    return Part(f"mode {name}", function, 40, needs=SPANDREL, flags=flags, **options)


# Parts of a group run at the same time; with tiny networks all but the first group do. What measures
# speed runs alone, but for the compiled networks, whose compiler works longer than the mode beside
# it.
GROUPS: tuple[tuple[Part, ...], ...] = (
    (
        Part("facts", "device_facts:report_facts", 60),
        Part("reference ResShift", "device_parity:write_resshift_reference", 90, 0.4),
        Part("reference DiffBIR", "device_diffbir:write_diffbir_reference", 90, 0.4, SPANDREL),
        Part("reference modes", "device_modes:write_modes_reference", 90, 0.1, SPANDREL),
    ),
    (
        Part("parity ResShift", "device_parity:compare_resshift", 60),
        Part("parity DiffBIR", "device_diffbir:compare_diffbir", 75, needs=SPANDREL),
    ),
    (Part("speed ResShift", "device_speed:time_resshift", 75),),
    (Part("profile", "device_speed:profile_resshift", 40, cuda_malloc=False),),
    (Part("speed DiffBIR", "device_diffbir:time_diffbir", 60, needs=SPANDREL),),
    (
        mode("dynamic memory", dynamic=True, in_tiny=False),
        mode("normal"),
        mode("--gpu-only", "gpu_only", in_tiny=False),
        mode("--novram", "novram", in_tiny=False),
    ),
    (
        Part("compile", "device_compile:compile_networks", 120, needs=COMPILE, cuda_malloc=False),
        mode("partly loaded"),
    ),
)


class DeviceError(Exception):
    """The tool cannot run; the message says what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        if arguments.results:
            rows = read_rows(arguments.results)
            if not rows:
                raise DeviceError(f"{arguments.results} holds no rows; name a {RESULTS} of a run.")
        else:
            rows = measure(arguments)
    except DeviceError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"\n## {device_title(rows)}\n\n{render_section(rows)}")
    if arguments.write_docs:
        write_page(DOCS / PAGE, rows)
    return 1 if any(is_bad(row) for row in rows) else 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8, help="time limit of everything")
    parser.add_argument("--output", type=Path, help="write results and profiles to this folder")
    parser.add_argument("--only", default="", help="parts whose name holds this text")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: checks the tool only")
    parser.add_argument("--results", type=Path, help="run nothing, take this file of a run")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"put the device's section into docs/{PAGE}"
    )
    return parser.parse_args(argv)


def is_bad(row: dict[str, Any]) -> bool:
    """Return whether a row says that something is wrong."""
    return row["kind"] == "error" or (row["kind"] == "parity" and not row["passed"])


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all parts and return their rows."""
    check_environment(arguments.tiny)
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="resshift-device-") as folder:
        output = arguments.output or Path(folder)
        output.mkdir(parents=True, exist_ok=True)
        for name in (RESULTS, LOG):
            (output / name).unlink(missing_ok=True)
        for group in (GROUPS[0], sum(GROUPS[1:], ())) if arguments.tiny else GROUPS:
            parts = [part for part in group if is_chosen(part, arguments)]
            run_group(parts, Path(folder), output.resolve(), arguments.tiny, end)
            rows = read_rows(output / RESULTS)
            if arguments.output:
                title = f"# {device_title(rows)}\n\n"
                (output / PAGE).write_text(title + render_section(rows), encoding="utf-8")
        return rows


def check_environment(tiny: bool) -> None:
    """Make sure that ComfyUI can be imported and that there is a card.

    Raises:
        DeviceError: If not.
    """
    comfyui = os.environ.get("COMFYUI_PATH")
    if not comfyui or not (Path(comfyui) / "comfy" / "model_base.py").is_file():
        raise DeviceError(
            "Set COMFYUI_PATH to a folder with ComfyUI's sources, or use: python dev.py bench --device"
        )
    missing = [name for name in NEEDED if not is_importable(name)]
    if missing:
        raise DeviceError(f"ComfyUI needs what is not installed here: {', '.join(missing)}.")
    if tiny:
        return
    import torch  # only here: an accelerator held by this process would be in every part's way

    if not torch.accelerator.is_available():
        raise DeviceError("torch sees no card here; --tiny checks the tool itself on the CPU.")


def is_importable(name: str) -> bool:
    """Return whether there is such a module, here or in ComfyUI."""
    if importlib.util.find_spec(name.partition(".")[0]) is not None and "." not in name:
        return True
    return (Path(os.environ["COMFYUI_PATH"]) / name.replace(".", "/") / "__init__.py").is_file()


def is_chosen(part: Part, arguments: argparse.Namespace) -> bool:
    """Return whether a part runs; what others rest on always does."""
    if part.needs and not is_importable(part.needs):
        print(f"{part.name} is left out: there is no {part.needs}.", flush=True)
        return False
    if arguments.tiny and not part.in_tiny:
        return False
    return arguments.only in part.name or part.cores > 0


def run_group(parts: Sequence[Part], folder: Path, output: Path, tiny: bool, end: float) -> None:
    """Run parts at the same time; end those that take too long, and say so in their stead."""
    start = time.monotonic()
    if end - start < LEAST_SECONDS:
        for part in parts:
            report = Report(part.name, output / RESULTS)
            report.add("error", "part", error="left out: no time was left")
        return
    running: list[tuple[Part, subprocess.Popen[bytes]]] = []
    with (output / LOG).open("ab") as log:
        try:
            running += ((part, start_part(part, folder, output, tiny, log)) for part in parts)
            for part, process in running:
                limit = end if tiny else min(start + part.limit, end)
                wait_for(process, start, limit, Report(part.name, output / RESULTS))
        finally:
            for _, process in running:
                process.kill()
                process.wait()


def wait_for(process: subprocess.Popen[bytes], start: float, limit: float, report: Report) -> None:
    """Wait until a part is done or its time is over, and report how it ended."""
    try:
        status = process.wait(max(0.1, limit - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        report.add("error", "part", error=f"ended after {time.monotonic() - start:.0f} s")
        return
    if status:
        report.add("error", "part", error=f"exit status {status}; see {LOG}")
    report.add("note", "part", seconds=time.monotonic() - start)


def start_part(
    part: Part, folder: Path, output: Path, tiny: bool, log: Any
) -> subprocess.Popen[bytes]:
    """Start the process of a part."""
    threads = 1 if tiny else 0  # 0 leaves the number to torch
    if part.cores and not tiny:
        threads = max(1, int(part.cores * (os.cpu_count() or 1)))
    job = {
        "part": part.name,
        "function": part.function,
        "folder": str(folder),
        "output": str(output),
        "results": str(output / RESULTS),
        "tiny": tiny,
        "cpu": tiny or part.cores > 0,
        "threads": threads,
        "mode": part.name.removeprefix("mode "),
        "flags": part.flags,
        "dynamic": part.dynamic and not tiny,
        "cuda_malloc": part.cuda_malloc,
    }
    command = [sys.executable, str(WORKER), json.dumps(job)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)} if threads else None
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=environment)


if __name__ == "__main__":
    sys.exit(main())
