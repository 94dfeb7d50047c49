"""A ComfyUI for the tests of this folder, in process and as a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pack.tests.support.comfy_client import Server
    from pack.tests.support.running import InProcessComfy

PACK_ROOT = Path(__file__).resolve().parents[2]
PICTURES = PACK_ROOT / "workflows" / "inputs"


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> InProcessComfy:
    """A real ComfyUI in this process with this pack, sample pictures and stand-in weights."""
    from pack.tests.support.released import write_released_files
    from pack.tests.support.released_diffbir import write_diffbir_files
    from pack.tests.support.running import InProcessComfy

    base = tmp_path_factory.mktemp("comfy")
    made = InProcessComfy(base)
    shutil.copytree(PICTURES, base / "input", dirs_exist_ok=True)
    write_released_files(base / "models")
    write_diffbir_files(base / "models")
    return made


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real ComfyUI server with this pack, sample pictures and stand-in weights."""
    from pack.tests.support.comfy_client import Server
    from pack.tests.support.released import write_released_files
    from pack.tests.support.released_diffbir import write_diffbir_files

    base = tmp_path_factory.mktemp("server")
    shutil.copytree(PICTURES, base / "input")
    write_released_files(base / "models")
    write_diffbir_files(base / "models")
    with Server(base) as running:
        yield running
