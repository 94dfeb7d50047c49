"""Trains the bundled model: `python training/train.py`. See docs/training.md."""

from __future__ import annotations

import argparse
from pathlib import Path

from bootstrap import PACK_ROOT, register_pack

CACHE = PACK_ROOT / "training" / ".cache"


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=95, help="length of the training")
    parser.add_argument("--pool-files", type=int, default=60, help="files of 24 tiles")
    parser.add_argument("--writers", type=int, default=1, help="processes that write tiles")
    parser.add_argument("--threads", type=int, default=0, help="torch threads, 0 for all cores")
    parser.add_argument("--run", default="default", help="name of the run; it resumes by itself")
    parser.add_argument("--rates", type=float, default=1.0, help="learning rates over the usual")
    parser.add_argument(
        "--share", action="append", default=[], help="share of a part of the loss, like energy=0.5"
    )
    parser.add_argument("--export-minutes", type=float, default=2, help="minutes between exports")
    parser.add_argument("--judge", action="store_true", help="print figures at every export")
    parser.add_argument("--compile", action="store_true", help="compile the network")
    parser.add_argument("--cache", type=Path, default=CACHE, help="downloads, tiles and states")
    parser.add_argument("--pack", type=Path, help="write what a training needs to this folder")
    parser.add_argument("--packed", type=Path, help="train from such a folder, without a network")
    part = parser.add_mutually_exclusive_group()
    part.add_argument(
        "--train-start", action="store_true", help="train the network that the chain starts from"
    )
    part.add_argument(
        "--start",
        type=Path,
        help="a file of --train-start, or a model's; else the start of --resume-from, else"
        " start_x4_photo",
    )
    part.add_argument(
        "--refit", type=Path, help="write an exported file with its last layer refitted"
    )
    parser.add_argument("--publish", type=Path, help="make an exported file the bundled one")
    parser.add_argument(
        "--residual", type=float, default=1.0, help="strength of what is published or refitted"
    )
    parser.add_argument("--write-tiles", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume-from", type=Path, help="start from an exported file's weights")
    arguments = parser.parse_args()
    if arguments.refit and arguments.resume_from:
        parser.error("--refit takes the file's own weights: leave --resume-from out")
    return arguments


if __name__ == "__main__":
    register_pack()
    from pack.training.session import run_session

    run_session(parse_arguments())
