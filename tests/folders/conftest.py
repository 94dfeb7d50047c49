"""ComfyUI's own folders, for tests that restore in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """An own folder for a test, with ComfyUI's input and temporary folders in it."""
    import folder_paths

    kept = folder_paths.get_input_directory(), folder_paths.get_temp_directory()
    output = folder_paths.get_output_directory()
    for name in ("comfy_input", "temp"):
        (tmp_path / name).mkdir()
    folder_paths.set_input_directory(str(tmp_path / "comfy_input"))
    folder_paths.set_temp_directory(str(tmp_path / "temp"))
    yield tmp_path
    folder_paths.set_input_directory(kept[0])
    folder_paths.set_temp_directory(kept[1])
    folder_paths.set_output_directory(output)
