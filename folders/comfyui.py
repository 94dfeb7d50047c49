"""Starts the ComfyUI of a folder in this process: as the page has it, but without the page."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

LEFT_FOR_S = 3600  # before what a killed process left is taken away


def start_comfyui(root: Path, arguments: Sequence[str], temporary: Path) -> Any:
    """Return ComfyUI's PromptServer, with all nodes, models and settings of that installation.

    `extra_model_paths.yaml`, other packs and their start scripts count as they do for the page.
    It listens on no port; to be called once in a process.

    Args:
        root: The folder with ComfyUI's main.py.
        arguments: Its command line.
        temporary: An own folder for its temporary files: another ComfyUI may run beside this one.
    """
    database = f"sqlite:///{temporary / 'comfyui.db'}"
    own = ["--temp-directory", str(temporary), "--database-url", database]
    if "--verbose" not in arguments:
        own += ["--verbose", "WARNING"]  # the line of progress is what counts
    sys.argv = [str(root / "main.py"), *own, *arguments]
    sys.path.insert(0, str(root))
    main = importlib.import_module("main")
    loop, server, _ = main.start_comfyui()
    # What nodes tell the page has to be taken from the queue, or it would grow for ever.
    threading.Thread(
        target=loop.run_until_complete, args=(server.publish_loop(),), daemon=True
    ).start()
    utils: Any = importlib.import_module("comfy.utils")
    utils.PROGRESS_BAR_ENABLED = False  # one line of progress is enough
    return server


def make_temporary_folder() -> Path:
    """Return a new folder for temporary files, and take away those that killed processes left."""
    place = Path(tempfile.gettempdir())
    for folder in place.glob("restoration-*-*"):
        if owner := re.fullmatch(r"restoration-(\d+)-\w+", folder.name):
            # Processes of other containers cannot be seen: their folders are young.
            is_old = time.time() - folder.stat().st_mtime > LEFT_FOR_S
            if is_old and not psutil.pid_exists(int(owner[1])):
                shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"restoration-{os.getpid()}-", dir=place))
