"""What a device is: names, versions, the rates it reaches with torch's own operations."""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess

import comfyui_version
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.modules.diffusionmodules.model import vae_attention

from .device_report import Report
from .device_setting import Setting
from .measuring import device_name, matmul_rate, synchronize, time_once
from .weights import DTYPES

COPIES = 20
LAUNCHES = 1000


def report_facts(setting: Setting, report: Report) -> None:
    """Report card, driver and versions, then matrix rates, bandwidth and launches."""
    device = setting.device
    report.add("fact", "card", value=device_name(device))
    report.add("fact", "driver", value=driver_version())
    report.add("fact", "torch", value=torch.__version__)
    report.add("fact", "cudnn", value=str(torch.backends.cudnn.version()))
    report.add("fact", "python", value=platform.python_version())
    report.add("fact", "ComfyUI", value=comfyui_version.__version__)
    report.add("fact", "attention", value=optimized_attention.__name__)
    report.add("fact", "attention of VAEs", value=vae_attention().__name__)
    report.add("fact", "torch threads", value=str(torch.get_num_threads()))
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        report.add("fact", "memory", value=f"{found.total_memory / 2**30:.1f} GiB")
        report.add("fact", "multiprocessors", value=str(found.multi_processor_count))
        report.add("fact", "capability", value=f"{found.major}.{found.minor}")
    sizes = (setting.sized(8192, 256),)
    for precision, dtype in DTYPES.items():
        if device.type == "cpu" and precision == "fp16":
            continue
        with report.attempt("matrix rate", precision):
            rate = matmul_rate(device, dtype, sizes)
            report.add("fact", "matrix rate", precision=precision, value=rate)
    if device.type == "cuda":
        with report.attempt("matrix rate", "tf32"):
            torch.set_float32_matmul_precision("high")
            rate = matmul_rate(device, torch.float32, sizes)
            report.add("fact", "matrix rate", precision="tf32", value=rate)
    with report.attempt("bandwidth"):
        rate = copy_bandwidth(device, setting.sized(2**30, 2**20))
        report.add("fact", "bandwidth", value=rate)


def driver_version() -> str:
    """Return NVIDIA's driver version, or what there is in its place."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return str(torch.version.hip or "none")
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return found.stdout.strip().splitlines()[0] if found.stdout.strip() else "unknown"


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Return bytes read and written in a second by copies on the device."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    runs = [time_once(lambda: target.copy_(source), device) for _ in range(COPIES)]
    return 2 * size / statistics.median(runs[2:])


def launch_seconds(device: torch.device) -> float:
    """Return how long a small operation takes from Python when many follow each other."""
    x = torch.zeros(16, device=device)

    def launch() -> None:
        for _ in range(LAUNCHES):
            x.add_(1)

    launch()
    synchronize(device)
    return statistics.median(time_once(launch, device) for _ in range(5)) / LAUNCHES
