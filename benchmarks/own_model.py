#!/usr/bin/env python3
"""Trains the worked example of docs/own-model.md: `python dev.py bench --own-model`.

What is done is what the template restoration_train_model does, with the values that it holds, by the
pack's own functions.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from worker import PACK_ROOT, require_comfyui, set_up

DOCS = PACK_ROOT / "docs"
THUMBNAIL = PACK_ROOT / "workflows" / "restoration_train_model.jpg"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, help="training steps; else the template's")
    parser.add_argument("--output", type=Path, help="folder for the chart, pictures and figures")
    parser.add_argument(
        "--write-docs", action="store_true", help="write them to docs/, and the thumbnail"
    )
    arguments = parser.parse_args(argv)
    require_comfyui("--own-model")
    set_up(None)
    # The pack and ComfyUI can be imported from here on.
    from pack.benchmarks.own_model_example import run_example

    began = time.perf_counter()
    example = run_example(arguments.steps)
    page = example.page(time.perf_counter() - began)
    print(page)
    if arguments.write_docs:
        example.thumbnail.save(THUMBNAIL, quality=85, optimize=True)
    folder = DOCS if arguments.write_docs else arguments.output
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "own-model-figures.md").write_text(page, encoding="utf-8")
        example.chart.quantize(32).save(folder / "own-model-chart.png", optimize=True)
        example.sheet.save(folder / "own-model.jpg", quality=68, optimize=True, progressive=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
