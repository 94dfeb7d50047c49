"""The same pictures in ComfyUI's memory modes, each of which has a process of its own."""

from __future__ import annotations

import time
from typing import Any

import comfy.memory_management
import comfy.model_management
import comfy.model_prefetch
import comfy.utils
import comfy_aimdo.model_vbar

from ..model_loaders.resshift import bundled_vae, load_bundled_model, load_resshift, load_vq_vae
from ..pipelines.restore_resshift import restore_with_resshift
from .device_diffbir import second_stage_checks
from .device_parity import (
    BUNDLED_PICTURE,
    CHAIN_PICTURE,
    Checks,
    read_reference,
    report_difference,
    write_reference,
)
from .device_report import Report
from .device_setting import Setting, allow_tf32, draw_pictures
from .measuring import time_once
from .weights import PRESET, UNET_FILE, VQ_FILE

PARTLY = "partly loaded"
SMALL = "small networks, "


def diffbir_checks(setting: Setting, precision: str) -> Checks:
    """Return DiffBIR's second stage with tiny networks, whose loading costs no time."""
    return second_stage_checks(setting, precision, tiny=True, prefix=SMALL)


def write_modes_reference(setting: Setting, report: Report) -> None:
    """Keep what the CPU makes with the tiny networks."""
    write_reference(setting, report, diffbir_checks)


def try_mode(setting: Setting, report: Report) -> None:
    """Restore a picture by each model in the mode of this process, and compare with the CPU's."""
    comfy.utils.set_progress_bar_enabled(False)
    allow_tf32(False)
    picture = draw_pictures(1, setting.sized(64, 16))

    def restored(name: str, kind: str, model: Any, vae: Any) -> None:
        if setting.mode == PARTLY:
            leave_room_for_half(model)

        def call() -> None:
            made.append(restore_with_resshift(model, vae, picture, seed=0))
            end_node()

        with report.attempt(name, "fp32"):
            made: list[Any] = []
            first = time_once(call, setting.device)
            again = [time_once(call, setting.device) for _ in range(3)]
            report_difference(
                report, name, "fp32", kind, made[-1], read_reference(setting, name),
                first_seconds=first, seconds=min(again),
                loaded=model.loaded_size() / max(1, model.model_size()),
            )  # fmt: skip

    with report.attempt("ResShift", "fp32"):
        model = load_resshift(setting.folder / UNET_FILE, preset=PRESET, dtype="fp32")
        vae = load_vq_vae(setting.folder / VQ_FILE, dtype="fp32")
        restored(CHAIN_PICTURE, "codes", model, vae)
    with report.attempt("bundled", "fp32"):
        restored(BUNDLED_PICTURE, "run", load_bundled_model(dtype="fp32"), bundled_vae())
    with report.attempt("DiffBIR", "fp32"):
        for name, (kind, call) in diffbir_checks(setting, "fp32").items():
            with report.attempt(name, "fp32"):
                start = time.perf_counter()
                made = call().float().cpu()
                seconds = time.perf_counter() - start
                report_difference(
                    report, name, "fp32", kind, made, read_reference(setting, name),
                    first_seconds=seconds,
                )  # fmt: skip
            end_node()


def leave_room_for_half(model: Any) -> None:
    """Let ComfyUI keep so much memory free that half of a model's weights stay on the CPU."""
    management = comfy.model_management
    management.unload_all_models()
    management.EXTRA_RESERVED_VRAM = 0
    room: Any = management.get_free_memory(model.load_device)
    needed = model.model_size() / 2 + management.minimum_inference_memory()
    management.EXTRA_RESERVED_VRAM = max(0, room - needed)


def end_node() -> None:
    """Do what ComfyUI does after every node where memory is dynamic."""
    if not comfy.memory_management.aimdo_enabled:
        return
    comfy.model_management.reset_cast_buffers()
    comfy.model_prefetch.cleanup_prefetch_queues()
    comfy_aimdo.model_vbar.vbars_reset_watermark_limits()
