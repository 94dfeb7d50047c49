#!/usr/bin/env python3
"""Makes the pictures of the help pages: `python dev.py bench --help-pictures`.

Photographs are scikit-image's and the samples of the workflows; what is done to them the pack's own
functions do, with the bundled model. To be run again when that model, or an operation that a picture
shows, has changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from worker import PACK_ROOT, require_comfyui, set_up

HELP = PACK_ROOT / "web" / "docs"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="node ids; by default all")
    parser.add_argument("--output", type=Path, default=HELP, help="where to write, else web/docs")
    arguments = parser.parse_args(argv)
    require_comfyui("--help-pictures")
    set_up("fp32")
    # The pack and ComfyUI can be imported from here on.
    from pack.benchmarks.illustrations import write_help_pictures

    written = write_help_pictures(arguments.output, arguments.names)
    for name, size in written.items():
        print(f"{size:7,}  {name}")
    print(f"{sum(written.values()):7,}  bytes together")
    return 0


if __name__ == "__main__":
    sys.exit(main())
