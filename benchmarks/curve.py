#!/usr/bin/env python3
"""Measures how cost grows with the picture: `python dev.py bench --curve`.

Restores square pictures with the bundled model and the tiling that its node has by default, from
256 to 4096 pixels of the result, and prints seconds and memory of each. Every size runs in a
process of its own, as in `run.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from run import PRECISIONS, BenchError, run_worker
from worker import require_comfyui

DOCS = Path(__file__).resolve().parents[1] / "docs"
PLOT = "speed-curve.png"
SCALE = 4
SIDES = (256, 512, 1024, 2048, 4096)  # of the result
COLUMNS = ("result", "precision", "seconds", "s per megapixel", "peak MiB")

Point = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    require_comfyui("--curve")
    precisions = (arguments.precision,) if arguments.precision else PRECISIONS
    job = {"folder": "", "tiny": False, "threads": arguments.threads, "kind": "bundled", "batch": 1}
    points = []
    try:
        for precision in precisions:
            for side in (side for side in SIDES if side <= arguments.largest):
                print(f"{side} px, {precision}: ", end="", file=sys.stderr, flush=True)
                wanted = {"size": side // SCALE, "precision": precision}
                found = run_worker({**job, **wanted, "seconds": arguments.seconds})
                points.append({"side": side, "precision": precision, **found})
                print(f"{found['seconds']:.3g} s", file=sys.stderr, flush=True)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    print(format_table(points))
    folder = DOCS if arguments.write_docs else arguments.output
    if folder is not None:
        draw_plot(points, folder / PLOT)
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    written = parser.add_mutually_exclusive_group()
    written.add_argument("--write-docs", action="store_true", help="write the plot to docs/")
    written.add_argument("--output", type=Path, help="write the plot to this folder")
    parser.add_argument("--precision", choices=PRECISIONS, help="one precision, else both")
    parser.add_argument("--largest", type=int, default=SIDES[-1], help="largest side of a result")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 for its default")
    parser.add_argument("--seconds", type=float, default=5, help="least time spent on a size")
    return parser.parse_args(argv)


def format_table(points: Sequence[Point]) -> str:
    """Return the points as an aligned table."""
    rows = [COLUMNS]
    for point in points:
        per_megapixel = point["seconds"] / (point["side"] ** 2 / 1e6)
        peak = point["peak_bytes"]
        rows.append(
            (
                f"{point['side']}x{point['side']}",
                point["precision"],
                f"{point['seconds']:.3g}",
                f"{per_megapixel:.3g}",
                "-" if peak is None else f"{peak / 2**20:.0f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def draw_plot(points: Sequence[Point], path: Path) -> None:
    """Draw seconds and memory over the pixels of the result, both on logarithmic axes."""
    import matplotlib.pyplot as plt  # only who asks for the plot needs it

    plt.switch_backend("Agg")
    figure, (times, memory) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for precision in dict.fromkeys(point["precision"] for point in points):
        mine = [point for point in points if point["precision"] == precision]
        megapixels = [point["side"] ** 2 / 1e6 for point in mine]
        (line,) = times.loglog(megapixels, [p["seconds"] for p in mine], "o-", label=precision)
        last = mine[-1]["seconds"] / megapixels[-1]
        times.loglog(
            megapixels,
            [last * each for each in megapixels],
            "--",
            color=line.get_color(),
            alpha=0.5,
            label=f"linear, {last:.2g} s per megapixel",
        )
        known = [(x, p["peak_bytes"]) for x, p in zip(megapixels, mine, strict=True)]
        known = [(x, peak / 2**20) for x, peak in known if peak is not None]
        if known:
            memory.loglog(*zip(*known, strict=True), "o-", label=precision)
    times.set_ylabel("seconds")
    memory.set_ylabel("peak memory besides the weights, MiB")
    for axes in (times, memory):
        axes.set_xlabel("megapixels of the result")
        axes.grid(True, which="both", alpha=0.3)
        axes.legend()
    figure.suptitle("Bundled model, x4, tiles of 1024 pixels")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
