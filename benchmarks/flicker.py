#!/usr/bin/env python3
"""Measures what flickers: `python dev.py bench --flicker`.

Clips whose motion is known are reduced four times and restored frame by frame; the warping error
along the true motion is given as the ratio to that of the bicubic enlargement.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pages import write_section
from worker import PACK_ROOT, require_comfyui, set_up

PAGE = PACK_ROOT / "docs" / "video.md"
MARKS = "<!-- flicker measured -->", "<!-- flicker end -->"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    require_comfyui("--flicker")
    set_up(None)
    # The pack and ComfyUI can be imported from here on.
    import torch

    from pack.benchmarks.flicker_figures import measure_all

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    text = measure_all(arguments.frames, arguments.only)
    print(text)
    if arguments.write_docs:
        write_section(PAGE, text, MARKS)
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=6, help="frames of each clip, 2 or more")
    parser.add_argument("--only", default="", help="restorations whose name holds this text")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 for its default")
    parser.add_argument("--write-docs", action="store_true", help=f"write them to {PAGE.name}")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
