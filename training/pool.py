"""The pool of training crops: photographs, their degraded versions, the teacher's restorations."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..images.degradation import PRESETS as DEGRADATIONS
from ..images.degradation import degrade
from .data import draw_tiles
from .features import FeatureDistance
from .teacher import restore

TILE = 96
SCALE = 4
TILES_PER_FILE = 24
TILES_PER_CALL = 4
PRESETS = ("real-esrgan", "heavy", "medium", "light")
PRESET_WEIGHTS = (0.25, 0.3, 0.2, 0.25)


def tiles_path(folder: Path, number: int) -> Path:
    """Return where the tiles of a number lie."""
    return folder / f"tiles_{number:05d}.npz"


def write_tiles(folder: Path, photographs: list[Path], number: int, seed: int) -> None:
    """Write one file of `TILES_PER_FILE` tiles as uint8, unless it is there.

    It holds `lq` (N, 3, 96, 96) and `photograph` (N, 3, 384, 384), and depends on the photographs,
    `seed` and `number` alone.
    """
    path = tiles_path(folder, number)
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([seed, number])
    sharp, degraded = [], []
    while len(sharp) < TILES_PER_FILE:
        photograph = photographs[generator.integers(len(photographs))]
        for tile in draw_tiles(photograph, 3, TILE * SCALE, generator):
            preset = PRESETS[generator.choice(len(PRESETS), p=PRESET_WEIGHTS)]
            sharp.append(tile)
            degraded.append(degrade(tile, DEGRADATIONS[preset], generator))
    arrays = {"lq": torch.stack(degraded), "photograph": torch.stack(sharp)}
    _save(path, {name: to_bytes(tensor).numpy() for name, tensor in arrays.items()})


def to_bytes(images: Tensor) -> Tensor:
    """Return images in [0, 1] as uint8."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def from_bytes(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1]."""
    return images.float() / 255


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    partial = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
    np.savez(partial, **arrays)
    partial.replace(path)


class Pool:
    """All tiles on disk, on the device as uint8; `refresh` picks up files written since.

    Args:
        folder: Folder of `write_tiles`; the teacher's restorations are written there too.
        device: Where the tiles and the networks are.
        teacher: Restores tiles that have not been restored.
        start: The network whose picture the chain starts around.
        features: Decides whose picture is nearer to the photograph.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        teacher: nn.Module,
        start: nn.Module,
        features: FeatureDistance,
    ):
        self.folder = folder
        self.device = device
        self.teacher = teacher
        self.start = start
        self.features = features
        self._read: set[str] = set()
        self._tiles: dict[str, list[Tensor]] = {"lq": [], "photograph": [], "teacher": []}
        self._trust: list[float] = []

    def refresh(self, most: int = 1 << 30, seconds: float = float("inf")) -> None:
        """Read at most so many files that have not been read yet, for at most so many seconds."""
        end = time.monotonic() + seconds
        names = sorted(self.folder.glob("tiles_?????.npz"))
        for path in [path for path in names if path.name not in self._read][:most]:
            if time.monotonic() > end:
                return
            with np.load(path) as arrays:
                tiles = {name: torch.from_numpy(arrays[name]).to(self.device) for name in arrays}
            tiles["teacher"], trust = self._taught(path, tiles)
            for name, parts in self._tiles.items():
                parts.extend(tiles[name])
            self._trust.extend(trust.tolist())
            self._read.add(path.name)

    @torch.no_grad()
    def _taught(self, path: Path, tiles: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        known = path.with_name(path.name.replace("tiles_", "taught_"))
        if known.exists():
            with np.load(known) as arrays:
                return torch.from_numpy(arrays["teacher"]).to(self.device), torch.from_numpy(
                    arrays["trust"]
                )
        restored, trust = [], []
        pairs = (tiles[name].split(TILES_PER_CALL) for name in ("lq", "photograph"))
        for lq, photograph in zip(*pairs, strict=True):
            lq, photograph = from_bytes(lq), from_bytes(photograph)
            taught = restore(self.teacher, lq)
            distance = self.features(taught, photograph)
            trust.append(distance < self.features(self.start(lq).clamp(0, 1), photograph))
            restored.append(to_bytes(taught))
        teacher, trusted = torch.cat(restored), torch.cat(trust).float().cpu()
        _save(known, {"teacher": teacher.cpu().numpy(), "trust": trusted.numpy()})
        return teacher, trusted

    def __len__(self) -> int:
        return len(self._trust)

    def draw(
        self, count: int, height: int, width: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return random crops, flipped and turned at random.

        Args:
            count: Number of crops.
            height: Height of the low-quality crops, at most `TILE`.
            width: Width of the low-quality crops, at most `TILE`.
            generator: Source of every choice.
        Returns:
            Low-quality `(N, 3, height, width)`, the photograph's and the teacher's four times as
            large, float in [0, 1]; and `(N,)` 1 where the teacher's picture is to be trusted.
        """

        def number(below: int) -> int:
            return int(torch.randint(below, (), generator=generator))

        drawn: dict[str, list[Tensor]] = {name: [] for name in self._tiles}
        trust = []
        for _ in range(count):
            index, turns, flip = number(len(self)), number(4), number(2)
            rows, cols = (width, height) if turns % 2 else (height, width)
            top, left = number(TILE - rows + 1), number(TILE - cols + 1)
            trust.append(self._trust[index])
            for name, parts in self._tiles.items():
                factor = 1 if name == "lq" else SCALE
                crop = parts[index][
                    :,
                    factor * top : factor * (top + rows),
                    factor * left : factor * (left + cols),
                ]
                crop = crop.rot90(turns, (1, 2))
                drawn[name].append(crop.flip(2) if flip else crop)
        lq, photograph, teacher = (from_bytes(torch.stack(parts)) for parts in drawn.values())
        return lq, photograph, teacher, torch.tensor(trust, device=self.device)
