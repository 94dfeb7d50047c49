"""Runs one part of `device.py` in a process of its own: takes a job as JSON."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

from worker import make_importable


def main() -> None:
    job = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.WARNING)
    make_importable()
    set_up(job)
    # The pack and ComfyUI can be imported from here on.
    import torch

    from pack.benchmarks.device_report import Report
    from pack.benchmarks.device_setting import Setting

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    setting = Setting(
        folder=Path(job["folder"]),
        output=Path(job["output"]),
        tiny=job["tiny"],
        mode=job["mode"],
    )
    module, function = job["function"].split(":")
    run = getattr(importlib.import_module(f"pack.benchmarks.{module}"), function)
    # As ComfyUI runs nodes, loaders among them.
    with torch.inference_mode():
        run(setting, Report(job["part"], Path(job["results"])))


def set_up(job: dict[str, Any]) -> None:
    """Set ComfyUI's options and start what its `main.py` starts, in the same order."""
    from comfy.cli_args import args, enables_dynamic_vram

    args.cpu = job["cpu"]
    args.disable_dynamic_vram = not job["dynamic"]
    for flag in job["flags"]:
        setattr(args, flag, True)
    if not args.cpu and job["cuda_malloc"]:
        importlib.import_module("cuda_malloc")  # chooses torch's allocator, before torch comes
    if not job["dynamic"]:
        return
    if not enables_dynamic_vram():
        raise ValueError(f"no dynamic memory with {job['flags']}")
    import comfy_aimdo.control

    comfy_aimdo.control.init(nvml_pressure=True)
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    devices = comfy.model_management.get_all_torch_devices()
    if not comfy_aimdo.control.init_devices((each.index, 0) for each in devices):
        raise RuntimeError("comfy-aimdo does not work here, so there is no dynamic memory.")
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


if __name__ == "__main__":
    main()
