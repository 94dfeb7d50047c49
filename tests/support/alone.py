"""Calls in a process of their own, whose memory is that of the call and nothing else."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACK_ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600


def call_alone(function: Callable[..., Any], **arguments: Any) -> Any:
    """Return what a function of a test module returns in a new process with ComfyUI on the CPU.

    Args:
        function: A function at the top of a module under `tests`; what it returns is JSON.
        arguments: Its arguments, JSON too.
    """
    module = Path(sys.modules[function.__module__].__file__ or "").relative_to(PACK_ROOT)
    call = [".".join(("pack", *module.with_suffix("").parts)), function.__name__]
    # Freed memory goes back to the system at once, whatever was allocated before.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    made = subprocess.run(
        [sys.executable, __file__, *call, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return json.loads(made.stdout.splitlines()[-1])


def grown(call: Callable[[], Any]) -> int:
    """Return by how many bytes the process grew at most during a call, its result included."""
    from pack.benchmarks.measuring import peak_resident, resident

    before = resident()
    call()
    return peak_resident() - before


def own_memory() -> int:
    """Return the bytes that only this process holds: without files that are mapped into it."""
    status = Path("/proc/self/status").read_text("utf-8")
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def _main() -> None:
    pack = types.ModuleType("pack")
    pack.__path__ = [str(PACK_ROOT)]
    sys.modules["pack"] = pack
    sys.path[0] = os.environ["COMFYUI_PATH"]
    import comfy.options  # noqa: F401 - parsing stays off, so these arguments are not read
    import torch
    from comfy.cli_args import args

    args.cpu = True
    args.force_fp32 = True
    torch.set_num_threads(1)  # every thread keeps memory of its own
    module, function, arguments = sys.argv[1:]
    with torch.inference_mode():
        found = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    _main()
