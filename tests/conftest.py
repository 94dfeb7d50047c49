"""Makes the pack importable as `pack` and ComfyUI importable when it is there."""

from __future__ import annotations

import os
import re
import sys
import types
from pathlib import Path

import pytest

PACK_ROOT = Path(__file__).resolve().parents[1]
MARKED_WHOLE = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.comfy\b", re.MULTILINE)
LEFT_OUT = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != PACK_ROOT]
    pack = types.ModuleType("pack")
    pack.__path__ = [str(PACK_ROOT)]
    sys.modules["pack"] = pack
    comfyui = os.environ.get("COMFYUI_PATH")
    if not comfyui:
        return
    sys.path.insert(0, comfyui)
    import comfy.options  # noqa: F401 - parsing stays off, so pytest's arguments are not read
    from comfy.cli_args import args

    args.cpu = True  # the device is chosen when comfy.model_management is imported
    args.disable_all_custom_nodes = True
    args.force_fp32 = True  # the same figures on CPUs with and without bfloat16
    args.database_url = "sqlite:///:memory:"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pass over modules that are marked whole, for they import ComfyUI, where it is missing."""
    if os.environ.get("COMFYUI_PATH") or not collection_path.match("test_*.py"):
        return None
    if not MARKED_WHOLE.search(collection_path.read_text(encoding="utf-8")):
        return None
    config.stash[LEFT_OUT] = True
    return True


@pytest.hookimpl(tryfirst=True)  # before the fixtures, those of a module too
def pytest_runtest_setup() -> None:
    """What a test leaves to chance is the same whatever ran before it."""
    import torch

    torch.manual_seed(0)


@pytest.hookimpl(trylast=True)  # after -m and -k have taken their share
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("heavy") is None)
    needs_comfy = any(item.get_closest_marker("comfy") for item in items)
    if "not comfy" not in config.option.markexpr:
        needs_comfy = needs_comfy or config.stash.get(LEFT_OUT, False)
    if needs_comfy and not os.environ.get("COMFYUI_PATH"):
        raise pytest.UsageError(
            'Some selected tests need a real ComfyUI: run "python dev.py test", or set COMFYUI_PATH,'
            ' or deselect them with -m "not comfy".'
        )
