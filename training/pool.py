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
TILES_PER_CALL = 4  # on a processor; on a card all of a file
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
        general: Restores them too; where its picture is nearer, the teacher's is not to be trusted.
        features: Decides whose picture is nearer to the photograph.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        teacher: nn.Module,
        general: nn.Module,
        features: FeatureDistance,
    ):
        self.folder = folder
        self.device = device
        self.teacher = teacher
        self.general = general
        self.features = features
        self._read: set[str] = set()
        # With room for more, so that a card's memory is not asked for ever larger blocks.
        self._tiles: dict[str, Tensor] = {}
        self._trust = torch.zeros(0, device=device)

    def refresh(self, most: int = 1 << 30, seconds: float = float("inf")) -> None:
        """Read at most so many files that have not been read yet, for at most so many seconds."""
        end = time.monotonic() + seconds
        names = sorted(self.folder.glob("tiles_?????.npz"))
        for path in [path for path in names if path.name not in self._read][:most]:
            if time.monotonic() > end:
                break
            with np.load(path) as arrays:
                tiles = {name: torch.from_numpy(arrays[name]).to(self.device) for name in arrays}
            tiles["teacher"], trust = self._taught(path, tiles)
            for name, more in tiles.items():
                self._add(name, more)
            self._trust = torch.cat([self._trust, trust.to(self.device)])
            self._read.add(path.name)

    def _add(self, name: str, more: Tensor) -> None:
        """Put tiles behind those that are there, of which there are as many as trusts."""
        known, count = self._tiles.get(name), len(self)
        if known is None or len(known) < count + len(more):
            larger = more.new_empty((2 * (count + len(more)), *more.shape[1:]))
            if known is not None:
                larger[:count] = known[:count]
            known = self._tiles[name] = larger  # (room, 3, H, W)
        known[count : count + len(more)] = more

    @torch.no_grad()
    def _taught(self, path: Path, tiles: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        known = path.with_name(path.name.replace("tiles_", "taught_"))
        if known.exists():
            with np.load(known) as arrays:
                return torch.from_numpy(arrays["teacher"]).to(self.device), torch.from_numpy(
                    arrays["trust"]
                )
        restored, trust = [], []
        per_call = TILES_PER_CALL if self.device.type == "cpu" else TILES_PER_FILE
        pairs = (tiles[name].split(per_call) for name in ("lq", "photograph"))
        for lq, photograph in zip(*pairs, strict=True):
            lq, photograph = from_bytes(lq), from_bytes(photograph)
            taught = restore(self.teacher, lq)
            distance = self.features(taught, photograph)
            trust.append(distance < self.features(self.general(lq).clamp(0, 1), photograph))
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

        def chance() -> Tensor:
            return torch.randint(2, (count, 1, 1), generator=generator) > 0

        def corner(side: Tensor) -> Tensor:
            share = torch.rand((count, 1, 1), generator=generator)
            return (share * (TILE - side + 1)).long()

        index = torch.randint(len(self), (count,), generator=generator)
        turned, upside_down, mirrored = chance(), chance(), chance()
        rows, columns = (
            torch.where(turned, *sides) for sides in ((width, height), (height, width))
        )
        top, left = corner(rows), corner(columns)
        index, turned, upside_down, mirrored, top, left = (
            tensor.to(self.device, non_blocking=True)
            for tensor in (index, turned, upside_down, mirrored, top, left)
        )

        def crops(name: str) -> Tensor:
            scale = 1 if name == "lq" else SCALE
            down = torch.arange(scale * height, device=self.device).view(1, -1, 1)
            across = torch.arange(scale * width, device=self.device).view(1, 1, -1)
            down = torch.where(upside_down, scale * height - 1 - down, down)  # (N, height, 1)
            across = torch.where(mirrored, scale * width - 1 - across, across)  # (N, 1, width)
            row = scale * top + torch.where(turned, across, down)  # (N, height, width)
            column = scale * left + torch.where(turned, down, across)
            drawn = self._tiles[name][index.view(-1, 1, 1), :, row, column]  # (N, ..., 3)
            return from_bytes(drawn).permute(0, 3, 1, 2)

        return crops("lq"), crops("photograph"), crops("teacher"), self._trust[index]
