#!/usr/bin/env python3
"""Times the pack beside the plain published networks: `python dev.py bench --side-by-side`.

Both sides of a row hold the same random weights of the released sizes and take turns in one
process, so that what else the machine does slows both. What the networks make is compared as well;
the whole chains draw noise of their own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import worker

COLUMNS = (
    "what",
    "precision",
    "plain s",
    "pack s",
    "times as fast",
    "bf16 over plain fp32",
    "error",
)
CHAIN = "x4 in 4 steps"
PARTS = ("UNet", "VQ encode", "VQ decode", CHAIN, "SwinIR")
PRECISIONS = ("fp32", "bf16")
STAGE_ONE = "SwinIR"  # official in fp32 only


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny networks: checks the tool only")
    parser.add_argument("--seconds", type=float, default=20, help="least time spent on a row")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.job:
        print(json.dumps(run_part(**json.loads(arguments.job))))
        return 0
    worker.require_comfyui("--side-by-side")
    rows = []
    with tempfile.TemporaryDirectory(prefix="resshift-bench-") as folder:
        for part in PARTS:
            for precision in PRECISIONS[: 1 if part == STAGE_ONE else 2]:
                job = {"part": part, "precision": precision, "folder": folder}
                rows.append(
                    run_alone({**job, "tiny": arguments.tiny, "seconds": arguments.seconds})
                )
                print(f"{part}, {precision}: {rows[-1]['pack']:.3g} s", file=sys.stderr, flush=True)
    print("\n".join(format_rows(rows)))
    return 0


def run_alone(job: dict[str, Any]) -> dict[str, Any]:
    """Return one row, measured in a new process."""
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(process.stdout.splitlines()[-1])


def run_part(part: str, precision: str, folder: str, tiny: bool, seconds: float) -> dict[str, Any]:
    """Return one row: both sides' fastest seconds, and how far apart their results are."""
    worker.set_up(precision)
    import torch

    torch.manual_seed(0)
    plain, pack = build(part, precision, Path(folder), tiny=tiny)
    with torch.inference_mode():
        error = relative_error(pack(), plain())  # the first calls warm up
        best = {"plain": float("inf"), "pack": float("inf")}
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for name, call in (("plain", plain), ("pack", pack)):
                start = time.perf_counter()
                call()
                best[name] = min(best[name], time.perf_counter() - start)
    return {"part": part, "precision": precision, "error": error, **best}


def relative_error(made: Any, expected: Any) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    return ((made - expected).float().norm() / expected.float().norm()).item()


def build(
    part: str, precision: str, folder: Path, *, tiny: bool
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return the plain side's call and the pack's, on the same weights and input."""
    import comfy.model_management
    import comfy.utils
    import torch

    from pack.benchmarks import plain, weights
    from pack.benchmarks.diffbir import stage_one_network
    from pack.model_loaders.record import PRESETS
    from pack.model_loaders.resshift import load_resshift, load_vq_vae
    from pack.pipelines.restore_resshift import restore_with_resshift
    from pack.pipelines.stage_one import remove_degradation

    comfy.utils.set_progress_bar_enabled(False)
    dtype = weights.DTYPES[precision]
    if part == STAGE_ONE:
        network = stage_one_network("swinir", tiny=tiny)
        image = torch.rand(1, 3, 512, 512)  # stage 1 enlarges what is smaller
        bare = network.model
        return (
            lambda: bare(image).movedim(1, -1),
            lambda: remove_degradation(network, image.movedim(1, -1), scale=1.0).image,
        )
    if not (folder / weights.UNET_FILE).is_file():
        weights.write_checkpoints(folder, tiny=tiny)
    record = PRESETS[weights.PRESET]
    unet = plain.UNet(weights.TINY_UNET if tiny else weights.RELEASED_UNET)
    vq = plain.VQ(weights.TINY_VQ if tiny else weights.RELEASED_VQ)
    for network, name in ((unet, weights.UNET_FILE), (vq, weights.VQ_FILE)):
        network.load_state_dict(comfy.utils.load_torch_file(str(folder / name)))
        network.to(dtype).eval()
    model = load_resshift(folder / weights.UNET_FILE, preset=weights.PRESET, dtype=precision)
    vae = load_vq_vae(folder / weights.VQ_FILE, dtype=precision)
    comfy.model_management.load_models_gpu([model, vae.patcher])
    side = 16 if tiny else 64  # of the latent
    if part == "UNet":
        x, lq = torch.randn(1, 3, side, side, dtype=dtype), torch.rand(1, 3, side, side).to(dtype)
        index = torch.tensor([2])
        inner = model.model.diffusion_model
        return lambda: unet(x, index, lq), lambda: inner(x, index.to(dtype), lq=lq)
    large = torch.rand(1, 3, 4 * side, 4 * side)
    if part == "VQ encode":
        picture = large.movedim(1, -1)
        return lambda: vq.encode((large * 2 - 1).to(dtype)).float(), lambda: vae.encode(picture)
    if part == "VQ decode":
        latent = torch.randn(1, 3, side, side)
        return (
            lambda: (vq.decode(latent.to(dtype)).float() / 2 + 0.5).clamp(0, 1).movedim(1, -1),
            lambda: vae.decode(latent),
        )
    small = torch.rand(1, 3, side, side)

    def run_plain() -> Any:
        restored = plain.restore(unet, vq, record.schedule, (small * 2 - 1).to(dtype), record.scale)
        return (restored.float() / 2 + 0.5).clamp(0, 1).movedim(1, -1)

    return run_plain, lambda: restore_with_resshift(model, vae, small.movedim(1, -1), seed=0)


def format_rows(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a Markdown table: each precision against itself, and bf16 against plain fp32."""
    exact = {row["part"]: row["plain"] for row in rows if row["precision"] == "fp32"}
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for row in rows:
        against = f"{exact[row['part']] / row['pack']:.2f}" if row["precision"] == "bf16" else "-"
        cells = (
            row["part"], row["precision"], f"{row['plain']:.3g}", f"{row['pack']:.3g}",
            f"{row['plain'] / row['pack']:.2f}", against,
            "-" if row["part"] == CHAIN else f"{row['error']:.1e}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
