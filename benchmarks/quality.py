#!/usr/bin/env python3
"""Judges the bundled model's pictures: `python dev.py bench --quality`.

Restores photographs, degraded lightly and heavily, with the pack's own pipeline, and prints figures
beside those of bicubic enlargement and of two published networks, and which targets are met.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from worker import PACK_ROOT, require_comfyui, set_up

DOCS = PACK_ROOT / "docs"
CACHE = PACK_ROOT / ".dev" / "downloads"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    require_comfyui("--quality")
    set_up(None)
    # The pack and ComfyUI can be imported from here on.
    import torch

    from pack.benchmarks.judging import JudgeSettings, find_groups, run_judging

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder = DOCS if arguments.write_docs else arguments.output
    settings = JudgeSettings(
        arguments.model,
        arguments.dtype,
        CACHE,
        others=arguments.others,
        kappas=arguments.kappas,
        times_speed=not arguments.untimed,
    )
    groups = find_groups(CACHE, only_five=arguments.five)
    return 0 if run_judging(settings, groups, folder) or not arguments.strict else 1


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    written = parser.add_mutually_exclusive_group()
    written.add_argument("--write-docs", action="store_true", help="write page and sheet to docs/")
    written.add_argument("--output", type=Path, help="write page and sheet to this folder")
    parser.add_argument("--model", type=Path, help="another export, else the bundled model")
    parser.add_argument("--others", type=Path, nargs="+", default=(), help="more, a row for each")
    parser.add_argument(
        "--five", action="store_true", help="scikit-image's five pictures only: quick, needs no apt"
    )
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 for its default")
    parser.add_argument(
        "--kappas", type=parse_numbers, default=(), help="noise scales to judge too, like 0.5,1,3"
    )
    parser.add_argument("--untimed", action="store_true", help="leave the speed out")
    parser.add_argument("--strict", action="store_true", help="fail if a target is missed")
    return parser.parse_args(argv)


def parse_numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a list with commas."""
    return tuple(float(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
