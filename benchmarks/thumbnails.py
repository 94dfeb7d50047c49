#!/usr/bin/env python3
"""Makes the thumbnails of the workflows: `python dev.py bench --thumbnails`.

Left the input, enlarged, right what a run gives, where the models are at hand: the bundled one and
RealESRGAN_x4plus. Where they are not, the input alone. To be run again when the bundled model or the
sample picture has changed. That of restoration_train_model is made with the worked example; those of
aligned faces, of inpainting and of a LoRA are not made anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from worker import PACK_ROOT, require_comfyui, set_up

WORKFLOWS = PACK_ROOT / "workflows"
CACHE = PACK_ROOT / ".dev" / "downloads"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="workflows; by default all")
    parser.add_argument("--output", type=Path, default=WORKFLOWS, help="where to, else workflows")
    arguments = parser.parse_args(argv)
    require_comfyui("--thumbnails")
    set_up("fp32")
    # The pack and ComfyUI can be imported from here on.
    from pack.benchmarks.thumbnail_pictures import write_thumbnails

    for name, size in write_thumbnails(arguments.output, CACHE, arguments.names).items():
        print(f"{size:7,}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
