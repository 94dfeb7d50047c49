"""Where the files that their authors released come from."""

from __future__ import annotations

import json
from pathlib import Path

PACK_ROOT = Path(__file__).resolve().parents[1]
MANIFEST = PACK_ROOT / "model_files" / "manifest.json"


def own_command(root: Path = PACK_ROOT) -> str:
    """Return how to call `dev.py models`, or its script where the registry left dev.py out.

    Args:
        root: The pack's folder.
    """
    if (root / "dev.py").is_file():
        return "python dev.py models"
    return f'python "{root / "model_files" / "run.py"}"'


def download_advice(name: str) -> str:
    """Return a sentence, with a blank before it, on how to get a released file; else nothing.

    Args:
        name: File name; subfolders before it do not count.
    """
    for file in json.loads(MANIFEST.read_text(encoding="utf-8"))["files"]:
        if file["name"] == Path(name).name:
            command = f"{own_command()} get {file['name']}"
            return f" '{command}' downloads it (docs/models.md) from {file['mirrors'][0]}."
    return ""


def licence_note(name: str) -> str:
    """Return the terms of a released file, in brackets with a blank before; else nothing.

    Args:
        name: File name; subfolders before it do not count. A converted file counts as the original.
    """
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    stem = Path(name).stem
    for file in manifest["files"]:
        if Path(file["name"]).stem == stem:
            licences = [manifest["licences"][key] for key in file["licences"]]
            told = "; ".join(f"{one['title']}: {one['terms']}" for one in licences)
            return f" ({told})"
    return ""
