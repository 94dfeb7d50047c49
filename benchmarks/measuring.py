"""Seconds, operations and peak memory of a call."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

RATE_SECONDS = 0.5
# A warm-up that took this long stands for the measurement: what it warms no longer matters.
LONG_RUN_S = 30


def attention_flop(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
) -> int:
    return sdpa_flop_count(query, key, value)


# torch's counter leaves this one out.
COUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flop}


@torch.inference_mode()
def measure(call: Callable[[], object], device: torch.device, seconds: float) -> dict:
    """Return seconds, FLOPs and peak memory besides the weights of a call.

    On the CPU the peak is how far the process grew, scratch memory of libraries included; call
    this once in a process. The first call warms up and is counted, not timed.

    Args:
        call: The work.
        device: Where it runs.
        seconds: The call is repeated until this much time was spent.
    Returns:
        `seconds` (the fastest run), `runs` (each), `flops`, `peak_bytes` (None where unknown).
    """
    before = resident()
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        first = time_once(call, device)
    peak = peak_resident() - before if device.type == "cpu" else None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    runs = [first] if first > LONG_RUN_S else repeat(call, device, seconds)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) - before
    flops = counter.get_total_flops()
    return {"seconds": min(runs), "runs": runs, "flops": flops, "peak_bytes": peak}


def repeat(call: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Return the seconds of each call of as many as it takes to spend so much time, at least one."""
    runs: list[float] = []
    while not runs or sum(runs) < seconds:
        runs.append(time_once(call, device))
    return runs


@torch.inference_mode()
def matmul_rate(device: torch.device, dtype: torch.dtype, sizes: Sequence[int]) -> float:
    """Return the best FLOP/s of square matrix products of these sizes."""
    best = 0.0
    for size in sizes:
        left, right = torch.randn(2, size, size, device=device).to(dtype)
        out = torch.empty_like(left)

        def multiply(left=left, right=right, out=out) -> None:
            torch.mm(left, right, out=out)

        spent = time_once(multiply, device)
        while spent < RATE_SECONDS:
            run = time_once(multiply, device)
            best = max(best, 2 * size**3 / run)
            spent += run
    return best


def time_once(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, waiting for the device."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def resident() -> int:
    """Return the bytes this process holds; where Linux can, its peak starts anew from here."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return psutil.Process().memory_info().rss


def peak_resident() -> int:
    """Return the most bytes this process has held."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` would begin with what the parent process held at the start
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    """Return what a person calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu" and Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or device.type
