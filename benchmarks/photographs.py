"""Photographs that nothing is trained on, besides the five of the training's validation.

Those of Debian's package `libjxl-testdata` are CC0 (Wesaturate: rocks, tulips, blossom) and
BSD-3-Clause (the JPEG XL project's authors: flower, room); scikit-image's `camera`, a person, is CC0.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..training.download import Package, fetch
from ..training.validation import read_picture, to_picture

PACKAGE = Package(
    "apt",
    "libjxl-testdata",
    "0.0~git20230110.d6168ff-1",
    "libjxl-testdata_0.0~git20230110.d6168ff-1_all.deb",
    "a58523413f486760a0f3cbc931142a27e3aa25f77315b862046f089ed34aa2c7",
)
FOLDER = "usr/share/libjxl-testdata"
FILES = {
    "rocks": "external/wesaturate/500px/cvo9xd_keong_macan_srgb8.png",
    "tulips": "external/wesaturate/500px/tmshre_riaphotographs_srgb8.png",
    "blossom": "external/wesaturate/500px/u76c0g_bliznaca_srgb8.png",
    "flower": "jxl/flower/flower.png",
    "room": "jxl/hdr_room.png",
}
LONGEST_SIDE = 768


def read_photographs(cache: Path) -> dict[str, Tensor]:
    """Return the photographs by name, `(1, 3, H, W)` in [0, 1].

    Args:
        cache: Folder of downloads; the package is fetched with apt where it is missing.
    """
    unpacked = cache / PACKAGE.name
    if not unpacked.exists():
        archive = fetch(PACKAGE, cache)
        subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True)
    photographs = {"camera": read_picture("camera")}
    for name, file in FILES.items():
        with Image.open(unpacked / FOLDER / file) as opened:
            photographs[name] = to_picture(np.asarray(opened.convert("RGB")))
    return photographs
