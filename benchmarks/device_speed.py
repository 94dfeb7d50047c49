"""Seconds, memory and share of the matrix rate on a device; what the host does meanwhile."""

from __future__ import annotations

import re
import statistics
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch.profiler import ProfilerActivity, profile

from ..model_loaders.resshift import bundled_vae, load_bundled_model, load_resshift, load_vq_vae
from ..pipelines.restore_resshift import restore_with_resshift
from ..pipelines.tiles import TileSettings
from .device_facts import launch_seconds
from .device_parity import unet_call
from .device_report import Report
from .device_setting import Setting, draw_latent, draw_pictures
from .measuring import measure, synchronize, time_once
from .weights import PRESET, UNET_FILE, VQ_FILE

SECONDS = 0.5
TINY_SECONDS = 0.01
TOP = 12
GRAPH_WARM_UPS = 3
GRAPH_RUNS = 20
STEPS = 4
# Events of the profiler that say how often the host launches, copies and waits.
HOST_EVENTS = re.compile(
    r"Memcpy|Memset|Synchronize|LaunchKernel|aten::item|_local_scalar_dense|aten::nonzero|aten::copy_$"
)
# What is aimed at on an H100 or H200, in seconds for each picture.
TARGETS = {
    "ResShift 64": 0.025,
    "ResShift 64 batched": 1 / 200,
    "ResShift 128": 0.1,
    "ResShift 512": 0.25,
    "DiffBIR 10 steps": 0.5,
    "bundled 256": 0.01,
}


def report_speed(
    setting: Setting,
    report: Report,
    name: str,
    precision: str,
    call: Callable[[], object],
    *,
    pictures: int = 1,
    target: float | None = None,
    calls: int = 1,
) -> None:
    """Measure a call and report it.

    Args:
        setting: Where it runs.
        report: Where the row goes.
        name: What the table calls it.
        precision: Of the networks.
        call: The work.
        pictures: Pictures that a call makes.
        target: Seconds for each picture that are aimed at.
        calls: How many such calls a picture takes; the row gives them together.
    """
    with report.attempt(name, precision):
        found = measure(call, setting.device, TINY_SECONDS if setting.tiny else SECONDS)
        report.add(
            "speed",
            name,
            precision=precision,
            how="eager",
            seconds=calls * statistics.median(found["runs"]),
            fastest=calls * found["seconds"],
            count=len(found["runs"]),
            pictures=pictures,
            flops=calls * found["flops"],
            peak_bytes=found["peak_bytes"],
            target=target,
        )


def time_resshift(setting: Setting, report: Report) -> None:
    """Measure whole restorations and their parts, the targets first."""
    comfy.utils.set_progress_bar_enabled(False)
    side, large = setting.sized(64, 16), setting.sized(256, 32)
    for precision in dict.fromkeys((setting.half, *reversed(setting.precisions))):
        full = precision == setting.half
        with report.attempt("ResShift", precision):
            model = load_resshift(setting.folder / UNET_FILE, preset=PRESET, dtype=precision)
            vae = load_vq_vae(setting.folder / VQ_FILE, dtype=precision)

            def restore(
                side: int, batch: int = 1, model: Any = model, vae: Any = vae, **options: Any
            ) -> Callable[[], object]:
                picture = draw_pictures(batch, side)
                return lambda: restore_with_resshift(
                    model, vae, picture, seed=0, frames_at_once=batch, **options
                )

            def row(
                name: str, call: Callable[[], object], precision: str = precision, **more: Any
            ) -> None:
                report_speed(setting, report, name, precision, call, **more)

            title = "ResShift 4 steps x4"
            row(f"{title}, {side} px", restore(side), target=TARGETS["ResShift 64"])
            for batch in (2,) if setting.tiny else (16, 64):
                row(
                    f"{title}, {side} px, batch {batch}",
                    restore(side, batch),
                    pictures=batch,
                    target=TARGETS["ResShift 64 batched"],
                )
            if full:
                wider, widest = setting.sized(128, 24), setting.sized(512, 32)
                row(f"{title}, {wider} px", restore(wider), target=TARGETS["ResShift 128"])
                row(f"{title}, {widest} px", restore(widest), target=TARGETS["ResShift 512"])
                small = TileSettings(tile=2 * wider * 2, overlap=wider)
                row(f"{title}, {widest} px, tiles {small.tile}", restore(widest, tiles=small))
            call, _ = unet_call(model, side)
            row(f"its UNet's 4 calls, {side} latent", call, calls=STEPS)
            comfy.model_management.load_models_gpu([vae.patcher])
            picture = draw_pictures(1, 4 * side)
            latent = draw_latent(1, vae.latent_channels, side, side)
            row(f"its VQ encode, {4 * side} px", lambda vae=vae, x=picture: vae.encode(x))
            row(f"its VQ decode, {4 * side} px", lambda vae=vae, x=latent: vae.decode(x))
        with report.attempt("bundled", precision):
            model = load_bundled_model(dtype=precision)
            picture = draw_pictures(1, large)
            report_speed(
                setting, report, f"bundled x4, {large} px", precision,
                lambda model=model, picture=picture: restore_with_resshift(
                    model, bundled_vae(), picture, seed=0
                ),
                target=TARGETS["bundled 256"],
            )  # fmt: skip
            call, _ = unet_call(model, large)
            report_speed(setting, report, f"its network's call, {large} px", precision, call)
        comfy.model_management.unload_all_models()


def profile_resshift(setting: Setting, report: Report) -> None:
    """Write what a four-step run spends its time on, and time its network without launches."""
    comfy.utils.set_progress_bar_enabled(False)
    precision, side, large = setting.half, setting.sized(64, 16), setting.sized(256, 32)
    report.add("fact", "launch", value=launch_seconds(setting.device))
    with report.attempt("ResShift", precision):
        model = load_resshift(setting.folder / UNET_FILE, preset=PRESET, dtype=precision)
        vae = load_vq_vae(setting.folder / VQ_FILE, dtype=precision)
        picture = draw_pictures(1, side)
        report_profile(
            setting, report, "ResShift", lambda: restore_with_resshift(model, vae, picture, seed=0)
        )
    with report.attempt("bundled", precision):
        bundled, large_picture = load_bundled_model(dtype=precision), draw_pictures(1, large)
        report_profile(
            setting, report, "bundled",
            lambda: restore_with_resshift(bundled, bundled_vae(), large_picture, seed=0),
        )  # fmt: skip
    for name, loaded, latent, calls in (
        (f"ResShift: network's {STEPS} calls", model, side, STEPS),
        ("bundled: network's call", bundled, large, 1),
    ):
        with report.attempt(f"{name}, CUDA graph", precision):
            call, _ = unet_call(loaded, latent)
            report_graph(setting, report, f"{name}, {latent}", precision, call, calls)


def report_profile(setting: Setting, report: Report, name: str, call: Callable[[], object]) -> None:
    """Write the profiler's table of a call and where the host waits; report the counts."""
    device = setting.device
    for _ in range(2):
        seconds = time_once(call, device)
    waits = count_waits(call) if device.type == "cuda" else Counter()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True) as profiled:
        call()
        synchronize(device)
    events = profiled.key_averages()
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    counts = {event.key: event.count for event in events if HOST_EVENTS.search(event.key)}
    busy = sum(event.self_device_time_total for event in events if event.device_type.name != "CPU")
    text = [
        f"{name}: one run, {seconds * 1e3:.2f} ms without the profiler,"
        f" {busy / 1e3:.2f} ms of kernels and copies",
        "",
        "Where the host waits for the device (torch's sync debug mode):",
        *(f"{count:5} {place}" for place, count in waits.most_common()),
        "",
        "Launches, copies and waits:",
        *(f"{count:6} {key}" for key, count in sorted(counts.items(), key=lambda each: -each[1])),
        "",
        events.table(sort_by=order, row_limit=TOP, max_name_column_width=90),
        "",
        "The same by shapes:",
        profiled.key_averages(group_by_input_shape=True).table(
            sort_by=order, row_limit=2 * TOP, max_name_column_width=60, max_shapes_column_width=90
        ),
    ]
    path = setting.output / f"profile-{name}.txt"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    report.add(
        "note",
        f"{name} profile",
        seconds=seconds,
        device_seconds=busy / 1e6,
        waits=sum(waits.values()),
        file=path.name,
    )


def count_waits(call: Callable[[], object]) -> Counter[str]:
    """Return how often each line of Python waited for the card in a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{'/'.join(Path(each.filename).parts[-3:])}:{each.lineno}"
        for each in caught
        if "called a synchronizing" in str(each.message)
    )


def report_graph(
    setting: Setting,
    report: Report,
    name: str,
    precision: str,
    call: Callable[[], object],
    calls: int,
) -> None:
    """Time a run's calls of a network from a CUDA graph, in which nothing waits for Python."""
    device = setting.device
    if device.type != "cuda":
        report.add("note", name, text="left out: CUDA graphs need CUDA")
        return
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(GRAPH_WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(side_stream)
    eager = [time_once(call, device) for _ in range(GRAPH_RUNS)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    graph.replay()
    runs = [time_once(graph.replay, device) for _ in range(GRAPH_RUNS)]
    report.add(
        "speed",
        name,
        precision=precision,
        how="CUDA graph",
        seconds=calls * statistics.median(runs),
        fastest=calls * min(runs),
        count=len(runs),
        pictures=1,
        flops=None,
        peak_bytes=None,
        target=None,
        eager_seconds=calls * statistics.median(eager),
    )
