"""Starts the folder command with the Python that runs ComfyUI: `python folders/run.py WORKFLOW IN OUT`.

The pack is importable as `pack`, without loading its nodes.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

if __name__ == "__main__":
    pack = types.ModuleType("pack")
    pack.__path__ = [str(Path(__file__).absolute().parents[1])]
    sys.modules["pack"] = pack
    sys.path.pop(0)  # this folder, whose modules are the pack's
    sys.exit(importlib.import_module("pack.folders.command").main(sys.argv[1:]))
