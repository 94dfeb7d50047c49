#!/usr/bin/env python3
"""Compares what systems cost: `python dev.py bench --one-call`.

Each restores the same picture, enlarged four times, IMAGE to IMAGE, in a process of its own, with
random weights of the released sizes. Seconds are given as ratios to the fastest, for the machine
decides the rest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pages import write_section
from run import BenchError, in_mib, run_worker
from worker import require_comfyui

PAGE = Path(__file__).resolve().parents[1] / "docs" / "one-call.md"
# Steps of systems that would take minutes; cost is linear in them, so that two short runs tell.
LONG = {"DiffBIR v2, 50 steps": 50, "DiffBIR v2.1, 10 steps": 10}
SHORT_RUNS = (2, 3)
SIDE = 128
TINY_SIDE = 16
PRECISION = "bf16"
SYSTEMS = (
    *LONG,
    "HYPIR",
    "ResShift, 15 steps",
    "ResShift, 4 steps",
    "SinSR",
    "RSD",
    "bundled model",
)
HEADER = ("system", "calls", "TFLOP", "time, bundled model = 1", "peak MiB", "weights MiB")
MARKS = "<!-- measured -->", "<!-- end -->"

Found = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    require_comfyui("--one-call")
    systems = [name for name in SYSTEMS if arguments.only in name]
    try:
        machine, found = measure(systems, arguments)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    side = TINY_SIDE if arguments.tiny else SIDE
    text = format_table(machine, found, side)
    print(text)
    if arguments.write_docs:
        write_section(PAGE, text, MARKS)
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="systems whose name holds this text")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: checks the tool only")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 for its default")
    parser.add_argument("--seconds", type=float, default=5, help="least time spent on a system")
    parser.add_argument("--whole", action="store_true", help="runs of many steps in full")
    parser.add_argument("--write-docs", action="store_true", help=f"write the table to {PAGE.name}")
    return parser.parse_args(argv)


def measure(systems: Sequence[str], arguments: argparse.Namespace) -> tuple[Found, list[Found]]:
    """Return the machine, and what was found out about each system."""
    found = []
    with tempfile.TemporaryDirectory(prefix="resshift-bench-") as folder:
        job = {"folder": folder, "tiny": arguments.tiny, "threads": arguments.threads}
        job["precision"] = PRECISION
        machine = run_worker(job)
        size = TINY_SIDE if arguments.tiny else SIDE
        for name in systems:
            print(f"{name}: ", end="", file=sys.stderr, flush=True)
            wanted = {"kind": "system", "name": name, "size": size, "seconds": arguments.seconds}
            if name in LONG and not arguments.whole:
                runs = [run_worker({**job, **wanted, "steps": steps}) for steps in SHORT_RUNS]
                found.append({"name": name, "extended": True, **extend(*runs, LONG[name])})
            else:
                one = run_worker({**job, **wanted, "steps": 0})
                found.append({"name": name, "extended": False, **one})
            print(f"{found[-1]['seconds']:.3g} s", file=sys.stderr, flush=True)
    return machine, found


def extend(first: Found, second: Found, steps: int) -> Found:
    """Return what a run of so many steps costs, from two of `SHORT_RUNS` steps."""
    more = (steps - SHORT_RUNS[0]) / (SHORT_RUNS[1] - SHORT_RUNS[0])
    grown = {
        key: first[key] + more * (second[key] - first[key]) for key in ("seconds", "flops", "calls")
    }
    peaks = [run["peak_bytes"] for run in (first, second)]
    return {**second, **grown, "peak_bytes": None if None in peaks else max(peaks)}


def format_table(machine: Found, found: Sequence[Found], side: int) -> str:
    """Return a paragraph on the machine and a table of what was found."""
    fastest = min(found, key=lambda one: one["seconds"])
    header = [cell.replace("bundled model", fastest["name"]) for cell in HEADER]
    lines = [
        f"A picture of {side}x{side} to {4 * side}x{4 * side}, {PRECISION}, {machine['device']},"
        f" {machine['threads']} thread{'s' * (machine['threads'] > 1)}, torch {machine['torch']}, ComfyUI {machine['comfyui']}:",
        "",
        f"| {' | '.join(header)} |",
        "|---|" + "---:|" * (len(HEADER) - 1),
    ]
    for one in found:
        cells = (
            one["name"] + ("*" if one["extended"] else ""),
            f"{one['calls']:.0f}",
            f"{one['flops'] / 1e12:.3g}",
            format_ratio(one["seconds"] / fastest["seconds"]),
            in_mib(one["peak_bytes"]),
            in_mib(one["weights_bytes"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    if any(one["extended"] for one in found):
        steps = " and ".join(map(str, SHORT_RUNS))
        lines += ["", f"\\* extended from runs of {steps} steps, whose cost is linear."]
    return "\n".join(lines)


def format_ratio(ratio: float) -> str:
    """Return a ratio in three digits, or in whole numbers."""
    return f"{ratio:.3g}" if ratio < 1000 else f"{ratio:.0f}"


if __name__ == "__main__":
    sys.exit(main())
