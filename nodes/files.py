"""The files behind the names that loader nodes list."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..model_loaders.released import download_advice


def find_file(name: str, *folders: str) -> Path:
    """Return the path of a file in the first of ComfyUI's model folders that has it.

    Args:
        name: Name as the node lists it.
        folders: ComfyUI's names of folders.
    Raises:
        FileNotFoundError: If none has it: it went away after the name was listed.
    """
    for folder in folders:
        path = folder_paths.get_full_path(folder, name)
        if path is not None:
            return Path(path)
    raise FileNotFoundError(
        f"'{name}' is not in models/{folders[0]} any more. Put it back or choose another file."
        f"{download_advice(name)}"
    )
