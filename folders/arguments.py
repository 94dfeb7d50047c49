"""The folder command's command line."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .listing import Shard

DESCRIPTION = (
    "Restores every picture of a folder with a workflow in API form, and goes on where it stopped."
)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line; `comfyui_arguments` holds what follows `--`."""
    argv = list(argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog=os.environ.get("PACK_COMMAND", f'python "{sys.argv[0]}"'),
        description=DESCRIPTION,
        epilog="After -- come arguments for ComfyUI, such as --cpu.",
    )
    parser.add_argument("workflow", type=Path, help="a workflow that the page exported (API)")
    parser.add_argument("source", type=Path, metavar="in", help="the folder of pictures")
    parser.add_argument("target", type=Path, metavar="out", help="the folder of results")
    which = parser.add_argument_group("which pictures")
    text = "only files that fit, as in '*.tif' or 'box 1/*'; may be given several times"
    which.add_argument("--include", action="append", default=[], metavar="GLOB", help=text)
    which.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="not these")
    which.add_argument("--limit", type=_positive, metavar="N", help="at most N of what is left")
    text = "the K-th of N parts, for N commands on N machines"
    which.add_argument("--shard", type=_shard, default=Shard(1, 1), metavar="K/N", help=text)
    text = "read every picture to see whether it changed; otherwise size and time tell"
    which.add_argument("--checksum", action="store_true", help=text)
    text = "only tell what would be done"
    which.add_argument("--dry-run", action="store_true", help=text)
    how = parser.add_argument_group("the workflow")
    text = "loads the picture: id, title, or NODE.input (default: the one Load Image)"
    how.add_argument("--input-node", metavar="NODE", help=text)
    text = "its images are saved (default: every Save Image); may be given several times"
    how.add_argument("--output-node", action="append", default=[], metavar="NODE", help=text)
    text = "change a value, as in 5.steps=4; may be given several times"
    how.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help=text)
    text = "the workflow's seed for every picture; otherwise each has its own, made from it"
    how.add_argument("--same-seed", action="store_true", help=text)
    text = "frames of a video that are one batch (default: %(default)s)"
    how.add_argument("--frames-at-once", type=_positive, default=8, metavar="N", help=text)
    results = parser.add_argument_group("the results")
    text = "of pictures (default: %(default)s)"
    results.add_argument("--format", choices=("png", "jpg", "webp"), default="png", help=text)
    text = "1 to 100, of jpg, webp and videos (default: %(default)s)"
    results.add_argument("--quality", type=_quality, default=92, metavar="Q", help=text)
    text = "take EXIF and ICC profile over"
    results.add_argument("--keep-metadata", action="store_true", help=text)
    ray = parser.add_argument_group("many cards and machines, by Ray")
    text = 'restore with Ray, on this machine or at --ray-address; needs pip install "ray[data]"'
    ray.add_argument("--ray", action="store_true", help=text)
    text = "of a running cluster: HOST:PORT, or auto on one of its machines"
    ray.add_argument("--ray-address", metavar="ADDRESS", help=text)
    text = "at least and at most (default: from 1 to one for each card)"
    ray.add_argument("--workers", type=_workers, default=(1, None), metavar="N[:M]", help=text)
    text = "cards of a worker; 0.5 puts two on one (default: 1 where there are cards)"
    ray.add_argument("--gpus-per-worker", type=_share, metavar="X", help=text)
    text = "processor cores of a worker (default: %(default)s)"
    ray.add_argument("--cpus-per-worker", type=_share, default=1, metavar="X", help=text)
    arguments = parser.parse_args(argv[:cut])
    arguments.comfyui_arguments = tuple(argv[cut + 1 :])
    return arguments


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return share


def _quality(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 100")
    return number


def _shard(text: str) -> Shard:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text} is not K/N with K from 1 to N, as 1/3")
    return Shard(int(number), int(count))


def _workers(text: str) -> tuple[int, int]:
    smallest, colon, largest = text.partition(":")
    bounds = _positive(smallest), _positive(largest if colon else smallest)
    if bounds[0] > bounds[1]:
        raise argparse.ArgumentTypeError(f"{text} has more at least than at most")
    return bounds
