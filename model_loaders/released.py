"""Where the files that their authors released come from."""

from __future__ import annotations

import json
from pathlib import Path

MANIFEST = Path(__file__).resolve().parents[1] / "model_files" / "manifest.json"


def download_advice(name: str) -> str:
    """Return a sentence, with a blank before it, on how to get a released file; else nothing.

    Args:
        name: File name; subfolders before it do not count.
    """
    for file in json.loads(MANIFEST.read_text(encoding="utf-8"))["files"]:
        if file["name"] == Path(name).name:
            command = f"python dev.py models get {file['name']}"
            return f" '{command}' downloads it (docs/models.md) from {file['mirrors'][0]}."
    return ""
