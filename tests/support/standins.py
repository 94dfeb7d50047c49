"""What the shipped workflows need, laid out for a ComfyUI: sample pictures and stand-in weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from pack.tests.support.released import write_released_files
from pack.tests.support.released_diffbir import write_diffbir_files

PICTURES = Path(__file__).resolve().parents[2] / "workflows" / "inputs"


def furnish(base: Path) -> Path:
    """Put pictures and weights under a base directory of ComfyUI and return it."""
    shutil.copytree(PICTURES, base / "input", dirs_exist_ok=True)
    write_released_files(base / "models")
    write_diffbir_files(base / "models")
    return base
