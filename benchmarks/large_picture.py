#!/usr/bin/env python3
"""Restores a photograph of 1920x1080 to 7680x4320: `python dev.py bench --large`.

The bundled model as its node takes it, in tiles. Prints seconds and peak memory besides the weights;
`--output FOLDER` keeps the whole result, reduced, and pieces of it at 1:1 where tiles meet, where a
border would show. The photograph is the flower of `photographs.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from worker import PACK_ROOT, require_comfyui, set_up

CACHE = PACK_ROOT / ".dev" / "downloads"
PHOTOGRAPH = "flower"
WIDTH, HEIGHT = 1920, 1080
SCALE = 4
TILE, OVERLAP = 1024, 256  # of the result, the node's own
PIECE = 480
COLUMNS, ROWS = 3, 2


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 for its default")
    parser.add_argument("--output", type=Path, help="keep the result and pieces of it here")
    arguments = parser.parse_args(argv)
    require_comfyui("--large")
    set_up(arguments.precision)
    # The pack and ComfyUI can be imported from here on.
    import comfy.model_management
    import comfy.utils
    import torch

    from pack.benchmarks.measuring import measure
    from pack.benchmarks.photographs import read_photographs
    from pack.images.conversion import image_to_planes, planes_to_image
    from pack.model_loaders.resshift import bundled_vae, load_bundled_model
    from pack.pipelines.restore_resshift import restore_with_resshift

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    comfy.utils.set_progress_bar_enabled(False)
    model, vae = load_bundled_model(dtype=arguments.precision), bundled_vae()
    photograph = read_photographs(CACHE)[PHOTOGRAPH][..., :HEIGHT, :WIDTH]
    image = planes_to_image(photograph)
    comfy.model_management.load_models_gpu([model])
    results = []

    def restore() -> None:
        results[:] = [restore_with_resshift(model, vae, image, seed=0)]

    found = measure(restore, comfy.model_management.get_torch_device(), seconds=0)
    peak = "-" if found["peak_bytes"] is None else f"{found['peak_bytes'] / 2**20:.0f} MiB"
    print(f"{WIDTH}x{HEIGHT} to {WIDTH * SCALE}x{HEIGHT * SCALE}, {arguments.precision}, "
          f"{torch.get_num_threads()} threads: {found['seconds']:.0f} s, {peak}")  # fmt: skip
    if arguments.output is not None:
        save_pieces(image_to_planes(results[0])[0], arguments.output)
    return 0


def save_pieces(result, folder: Path) -> None:
    """Write the result reduced to a quarter, and a sheet of pieces where four tiles meet."""
    import torch.nn.functional as F

    from pack.benchmarks.contact_sheet import to_image
    from pack.images.labels import label_grid
    from pack.samplers.tiles import tile_positions

    folder.mkdir(parents=True, exist_ok=True)
    to_image(F.avg_pool2d(result, SCALE)).save(folder / "whole.png")
    height, width = result.shape[-2:]
    corners = [  # middles of what four tiles share
        (top + OVERLAP // 2, left + OVERLAP // 2)
        for top, left in tile_positions(height, width, TILE, TILE - OVERLAP)
        if top > 0 and left > 0
    ]
    chosen = corners[:: max(1, len(corners) // (COLUMNS * ROWS))][: COLUMNS * ROWS]
    half = PIECE // 2
    pieces = [result[0, :, y - half : y + half, x - half : x + half] for y, x in chosen]
    labels = [f"about {x}, {y}" for y, x in chosen]
    to_image(label_grid(pieces, labels, COLUMNS, 22)[None]).save(folder / "meetings.png")


if __name__ == "__main__":
    sys.exit(main())
