"""Makes the pack importable as `pack`, and ComfyUI importable, outside ComfyUI."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

PACK_ROOT = Path(__file__).resolve().parents[1]


def find_comfyui() -> Path:
    """Return ComfyUI's folder: `COMFYUI_PATH`, else the pinned one that `dev.py` fetched.

    Raises:
        FileNotFoundError: If there is neither.
    """
    if os.environ.get("COMFYUI_PATH"):
        return Path(os.environ["COMFYUI_PATH"])
    pinned = sorted(PACK_ROOT.glob(".comfyui/*/comfy"))
    if not pinned:
        raise FileNotFoundError('no ComfyUI found: run "python dev.py test" or set COMFYUI_PATH')
    return pinned[-1].parent


def register_pack() -> None:
    """Register the pack as the module `pack` and put ComfyUI on the path."""
    pack = types.ModuleType("pack")
    pack.__path__ = [str(PACK_ROOT)]
    sys.modules["pack"] = pack
    # The script's own folder must not shadow other modules.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != PACK_ROOT]
    sys.path.insert(0, str(find_comfyui()))
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()  # read when comfy.model_management is imported
