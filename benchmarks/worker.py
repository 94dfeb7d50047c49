"""Measures one case for `run.py`: takes a job as JSON, prints what it found as JSON."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

PACK_ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    job = json.loads(sys.argv[1])
    set_up(job.get("precision"))
    # The pack and ComfyUI can be imported from here on.
    import comfy.model_management
    import comfyui_version
    import torch
    from comfy.ldm.modules.diffusionmodules.model import vae_attention

    from pack.benchmarks import cases, measuring, weights

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    device = comfy.model_management.get_torch_device()
    folder = Path(job["folder"])
    if "kind" not in job:
        weights.write_checkpoints(folder, tiny=job["tiny"])
        found: dict[str, Any] = {
            "device": measuring.device_name(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "comfyui": comfyui_version.__version__,
            "vae_attention": vae_attention().__name__,
        }
    elif job["kind"] == "system":
        from pack.benchmarks import systems

        system = systems.build_system(
            job["name"],
            job["size"],
            job["precision"],
            folder,
            tiny=job["tiny"],
            steps=job["steps"],
        )
        found = systems.measure_system(system, device, job["seconds"])
    elif job["kind"] == "codes":
        found = cases.compare_codes(job["precision"], job["size"], folder)
    else:
        case = cases.build(job["kind"], job["size"], job["batch"], job["precision"], folder)
        found = measuring.measure(case.call, device, job["seconds"])
        found["estimated_bytes"] = case.estimated_bytes
        sizes = (256,) if job["tiny"] else (2048, 4096) if device.type == "cpu" else (4096, 8192)
        found["matmul"] = measuring.matmul_rate(device, weights.DTYPES[job["precision"]], sizes)
    print(json.dumps(found))


def require_comfyui(option: str) -> None:
    """End this command with advice unless `COMFYUI_PATH` is set.

    Args:
        option: What asks `python dev.py bench` for this command.
    """
    if not os.environ.get("COMFYUI_PATH"):
        sys.exit(f"Set COMFYUI_PATH, or use: python dev.py bench {option}")


def set_up(precision: str | None) -> None:
    """Make ComfyUI and, as `pack`, this pack importable, on the device ComfyUI would take."""
    make_importable()
    import torch
    from comfy.cli_args import args

    # Read when comfy.model_management is imported. The dtypes of SD's networks and of VAEs are
    # ComfyUI's options.
    args.cpu = not torch.accelerator.is_available()
    args.fp32_vae = precision == "fp32"
    args.bf16_vae = precision == "bf16"
    args.fp32_unet = precision == "fp32"
    args.bf16_unet = precision == "bf16"


def make_importable() -> None:
    """Let ComfyUI be imported, and this pack as `pack`."""
    pack = types.ModuleType("pack")
    pack.__path__ = [str(PACK_ROOT)]
    sys.modules["pack"] = pack
    # The script's own folder must not shadow other modules.
    sys.path[0] = os.environ["COMFYUI_PATH"]


if __name__ == "__main__":
    main()
