#!/usr/bin/env python3
"""Measures the pack's speed and memory: `python dev.py bench`, or this file with COMFYUI_PATH set.

Every case runs in a process of its own (`worker.py`), so that its peak memory is its own. What is
fast is relative to the machine: each time is also given as a fraction of the matrix-product rate
measured in the same run at the same precision.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
BUNDLED = WORKER.parents[1] / "model_loaders" / "bundled" / "resshift_x4_photo.safetensors"
PRECISIONS = ("fp32", "bf16")
COLUMNS = ("case", "precision", "seconds", "TFLOP", "GFLOP/s", "of rate", "peak MiB", "estimated")


KIND_NAMES = {
    "encode": "vq encode",
    "decode": "vq decode",
    "restore": "pipeline x4",
    "swinir": "stage 1 SwinIR",
    "bsrnet": "stage 1 BSRNet x4",
    "step": "DiffBIR step",
    "guided step": "DiffBIR guided step",
    "ten steps": "DiffBIR ten steps",
}


class BenchError(Exception):
    """A case could not be measured; the message says why."""


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        kind: `unet`, `encode`, `decode`, `restore` or `bundled` of ResShift; `swinir`, `bsrnet`,
            `step`, `guided step` or `ten steps` of DiffBIR.
        size: Side of the latent for `unet`, of the large image for `encode` and `decode`, of the
            small image otherwise.
        batch: Pictures at once.
    """

    kind: str
    size: int
    batch: int = 1

    @property
    def name(self) -> str:
        """What the table calls it."""
        kind = KIND_NAMES.get(self.kind, self.kind)
        unit = " latent" if self.kind == "unet" else " px"
        return f"{kind} {self.size}{unit}" + (f" batch {self.batch}" if self.batch > 1 else "")


FULL = (
    Case("unet", 64),
    Case("unet", 64, 4),
    Case("unet", 128),
    Case("encode", 256),
    Case("decode", 256),
    Case("encode", 512),
    Case("decode", 512),
    Case("encode", 1024),
    Case("decode", 1024),
    Case("restore", 64),
    Case("restore", 128),
    Case("bundled", 256),
    Case("swinir", 512),
    Case("bsrnet", 128),
    Case("step", 512),
    Case("guided step", 512),
    Case("ten steps", 512),
)
QUICK = (
    Case("unet", 64),
    Case("encode", 256),
    Case("decode", 256),
    Case("restore", 64),
    Case("bundled", 64),
)
TINY = (
    Case("unet", 16),
    Case("unet", 16, 2),
    Case("encode", 64),
    Case("decode", 64),
    Case("restore", 16),
)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    cases = QUICK if arguments.quick else TINY if arguments.tiny else FULL
    cases = tuple(case for case in cases if arguments.only in case.name)
    if not BUNDLED.is_file():
        cases = tuple(case for case in cases if case.kind != "bundled")
    if not cases:
        print(f"No case's name holds '{arguments.only}'.", file=sys.stderr)
        return 1
    if not os.environ.get("COMFYUI_PATH"):
        print("Set COMFYUI_PATH, or use: python dev.py bench", file=sys.stderr)
        return 1
    try:
        report = measure(cases, arguments)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    print(format_report(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases and small pictures")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: checks the tool only")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--precision", choices=PRECISIONS, help="one precision, else both")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 for its default")
    parser.add_argument("--seconds", type=float, default=5, help="least time spent on a case")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    return parser.parse_args(argv)


def measure(cases: Sequence[Case], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the whole report: machine, rates and one result for each case and precision."""
    precisions = (arguments.precision,) if arguments.precision else PRECISIONS
    results = []
    with tempfile.TemporaryDirectory(prefix="resshift-bench-") as folder:
        job = {"folder": folder, "tiny": arguments.tiny, "threads": arguments.threads}
        machine = run_worker(job)
        for precision in precisions:
            for case in cases:
                print(f"{case.name}, {precision}: ", end="", file=sys.stderr, flush=True)
                wanted = {**asdict(case), "precision": precision}
                found = run_worker({**job, **wanted, "seconds": arguments.seconds})
                results.append({"name": case.name, **wanted, **found})
                print(f"{found['seconds']:.3g} s", file=sys.stderr, flush=True)
        codes = None
        if "bf16" in precisions and any(case.kind in ("encode", "decode") for case in cases):
            wanted = {"kind": "codes", "size": 64 if arguments.tiny else 256, "precision": "bf16"}
            codes = {**wanted, **run_worker({**job, **wanted})}
    # The best of all: other work on the machine slows a single measurement.
    rates = {
        precision: max(one["matmul"] for one in results if one["precision"] == precision)
        for precision in precisions
    }
    for result in results:
        result["flops_per_second"] = result["flops"] / result["seconds"]
        result["fraction"] = result["flops_per_second"] / rates[result["precision"]]
    return {
        "machine": machine,
        "matmul_flops_per_second": rates,
        "results": results,
        "codes": codes,
    }


def run_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Return what a new process found out about one job."""
    environment = dict(os.environ)
    if job["threads"]:
        environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(job["threads"])
    process = subprocess.run(
        [sys.executable, str(WORKER), json.dumps(job)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if process.returncode:
        raise BenchError(f"{job} failed:\n{process.stderr[-3000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def format_report(report: dict[str, Any]) -> str:
    """Return the machine, the rates and the table as text."""
    machine = report["machine"]
    rates = report["matmul_flops_per_second"].items()
    lines = [
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']},"
        f" ComfyUI {machine['comfyui']}, attention of the VAE: {machine['vae_attention']}",
        "matrix product: " + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates),
        "",
    ]
    rows = [COLUMNS, *(format_row(result) for result in report["results"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        lines.append("  ".join(cells))
    codes = report.get("codes")
    if codes:
        lines += [
            "",
            f"vq {codes['size']} px in {codes['precision']}: {codes['changed_codes']:.1%} of the codes"
            f" changed, one latent decoded {codes['decoded_db']:.1f} dB from fp32",
        ]
    return "\n".join(lines)


def format_row(result: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of one result, in the order of `COLUMNS`."""
    return (
        result["name"],
        result["precision"],
        f"{result['seconds']:.3g}",
        f"{result['flops'] / 1e12:.3g}",
        f"{result['flops_per_second'] / 1e9:.0f}",
        f"{result['fraction']:.0%}",
        in_mib(result["peak_bytes"]),
        in_mib(result["estimated_bytes"]),
    )


def in_mib(size: float | None) -> str:
    """Return bytes as whole MiB, or a dash where nothing was measured."""
    return "-" if size is None else f"{size / 2**20:.0f}"


if __name__ == "__main__":
    sys.exit(main())
