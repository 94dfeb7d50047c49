"""The pool of training pairs: degraded tiles and the teacher's restorations."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..images.degradation import PRESETS as DEGRADATIONS
from ..images.degradation import degrade
from .data import draw_tiles
from .teacher import restore

TILE = 64
SCALE = 4
TILES_PER_FILE = 96
PRESETS = ("real-esrgan", "heavy", "medium", "light")
PRESET_WEIGHTS = (0.25, 0.3, 0.2, 0.25)


def build_pool(
    folder: Path, photographs: list[Path], teacher: nn.Module, files: range, seed: int
) -> None:
    """Write the numbered files of the pool that are missing.

    Each file holds `TILES_PER_FILE` tiles as uint8: `lq` (N, 3, 64, 64) and `teacher`
    (N, 3, 256, 256). File k depends on `seed` and k alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in files:
        path = folder / f"tiles_{number:04d}.npz"
        if path.exists():
            continue
        start = time.monotonic()
        lq = _draw_degraded(photographs, np.random.default_rng([seed, number]))
        restored = torch.cat([restore(teacher, part) for part in lq.split(4)])
        partial = path.with_suffix(".part.npz")
        np.savez(partial, lq=_to_bytes(lq), teacher=_to_bytes(restored))
        partial.replace(path)
        print(
            f"{path.name}: {TILES_PER_FILE} tiles in {time.monotonic() - start:.0f} s", flush=True
        )


def _draw_degraded(photographs: list[Path], generator: np.random.Generator) -> Tensor:
    degraded = []
    while len(degraded) < TILES_PER_FILE:
        path = photographs[generator.integers(len(photographs))]
        for tile in draw_tiles(path, 3, TILE * SCALE, generator):
            preset = PRESETS[generator.choice(len(PRESETS), p=PRESET_WEIGHTS)]
            degraded.append(degrade(tile, DEGRADATIONS[preset], generator))
    return torch.stack(degraded)


def _to_bytes(images: Tensor) -> np.ndarray:
    return (images * 255).round().to(torch.uint8).numpy()


class Pool:
    """All tiles on disk, in memory as uint8; `refresh` picks up files written since."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._read: set[str] = set()
        self._parts: dict[str, list[Tensor]] = {"lq": [], "teacher": []}
        self.refresh()

    def refresh(self) -> None:
        """Read the files of the folder that have not been read yet."""
        for path in sorted(self.folder.glob("tiles_????.npz")):
            if path.name in self._read:
                continue
            with np.load(path) as arrays:
                for name, parts in self._parts.items():
                    parts.extend(torch.from_numpy(arrays[name]))
            self._read.add(path.name)

    def __len__(self) -> int:
        return len(self._parts["lq"])

    def draw(
        self, count: int, height: int, width: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return random crops, flipped and turned at random.

        Args:
            count: Number of crops.
            height: Height of the low-quality crops, at most `TILE`.
            width: Width of the low-quality crops, at most `TILE`.
            generator: Source of every choice.
        Returns:
            Low-quality `(N, 3, height, width)` and the teacher's four times as large, float in
            [0, 1].
        """

        def number(below: int) -> int:
            return int(torch.randint(below, (), generator=generator))

        drawn: dict[str, list[Tensor]] = {name: [] for name in self._parts}
        for _ in range(count):
            index, turns, flip = number(len(self)), number(4), number(2)
            rows, cols = (width, height) if turns % 2 else (height, width)
            top, left = number(TILE - rows + 1), number(TILE - cols + 1)
            for name, parts in self._parts.items():
                factor = 1 if name == "lq" else SCALE
                crop = parts[index][
                    :,
                    factor * top : factor * (top + rows),
                    factor * left : factor * (left + cols),
                ]
                crop = crop.rot90(turns, (1, 2))
                drawn[name].append(crop.flip(2) if flip else crop)
        lq, teacher = (torch.stack(parts).float() / 255 for parts in drawn.values())
        return lq, teacher
