"""What the shipped workflows need, laid out for a ComfyUI: sample pictures and stand-in weights."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pack.tests.support.released import write_released_files
from pack.tests.support.released_diffbir import write_diffbir_files

if TYPE_CHECKING:
    import pytest

PICTURES = Path(__file__).resolve().parents[2] / "workflows" / "inputs"


def furnish(base: Path) -> Path:
    """Put pictures and weights under a base directory of ComfyUI and return it."""
    shutil.copytree(PICTURES, base / "input", dirs_exist_ok=True)
    write_released_files(base / "models")
    write_diffbir_files(base / "models")
    return base


@contextlib.contextmanager
def furnished(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A furnished base directory, removed at the end: its files take more than a gigabyte."""
    base = furnish(factory.mktemp(name))
    yield base
    shutil.rmtree(base, ignore_errors=True)  # Windows keeps files that a process still maps
