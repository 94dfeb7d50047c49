"""Starts `python dev.py models` without installing anything: the pack is importable as `pack`."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

if __name__ == "__main__":
    pack = types.ModuleType("pack")
    pack.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["pack"] = pack
    sys.path.pop(0)  # this folder, whose modules are the pack's
    sys.exit(importlib.import_module("pack.model_files.command").main(sys.argv[1:]))
