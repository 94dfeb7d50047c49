"""Trains the bundled model: `python training/train.py`. See docs/training.md."""

from __future__ import annotations

import argparse
from pathlib import Path

from bootstrap import PACK_ROOT, register_pack

CACHE = PACK_ROOT / "training" / ".cache"
BUNDLED = PACK_ROOT / "model_loaders" / "bundled" / "resshift_x4_photo.safetensors"


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=95, help="length of the training")
    parser.add_argument("--pool-files", type=int, default=32, help="files of 96 teacher tiles")
    parser.add_argument("--threads", type=int, default=0, help="torch threads, 0 for all cores")
    parser.add_argument("--run", default="default", help="name of the run; it resumes by itself")
    parser.add_argument("--resume-from", type=Path, help="start from an exported file's weights")
    parser.add_argument("--export", type=Path, default=BUNDLED, help="where the best is written")
    parser.add_argument("--cache", type=Path, default=CACHE, help="downloads, tiles and states")
    parser.add_argument("--prepare-only", action="store_true", help="stop when the pool is there")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    register_pack()
    from pack.training.session import run_session

    run_session(parse_arguments())
