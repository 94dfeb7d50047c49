"""Restorations with the network compiled, by what ComfyUI's node TorchCompileModel calls."""

from __future__ import annotations

import statistics
from typing import Any

import comfy.utils
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch._dynamo.utils import counters

from ..model_loaders.resshift import bundled_vae, load_bundled_model, load_resshift, load_vq_vae
from ..pipelines.restore_resshift import restore_with_resshift
from .device_parity import report_difference
from .device_report import Report
from .device_setting import Setting, draw_pictures
from .device_speed import SECONDS, TARGETS, TINY_SECONDS
from .measuring import repeat, time_once
from .weights import PRESET, UNET_FILE, VQ_FILE


def without_options(guards: list[Any]) -> list[bool]:
    """Return which of torch's guards stay: ComfyUI's node drops those on its own options."""
    return [not guard.name.count("transformer_options") for guard in guards]


def compiled(setting: Setting, model: Any) -> Any:
    """Return a clone of a MODEL whose network is compiled when it is first called."""
    clone = model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(
        model=clone,
        # Small networks on CPUs only check the way there, for which no compiler need be there.
        backend="eager" if setting.tiny else "inductor",
        options=None if setting.tiny else {"guard_filter_fn": without_options},
    )
    return clone


def compile_networks(setting: Setting, report: Report) -> None:
    """Compile, measure and compare with the picture that is not compiled."""
    comfy.utils.set_progress_bar_enabled(False)
    precision, large = setting.half, setting.sized(256, 32)
    picture, large_picture = draw_pictures(1, setting.sized(64, 16)), draw_pictures(1, large)

    def report_compiled(name: str, model: Any, vae: Any, image: Any, target: float) -> None:
        eager = restore_with_resshift(model, vae, image, seed=0)
        clone = compiled(setting, model)
        counters.clear()

        def restore() -> Any:
            return restore_with_resshift(clone, vae, image, seed=0)

        seconds = time_once(restore, setting.device)
        runs = repeat(restore, setting.device, TINY_SECONDS if setting.tiny else SECONDS)
        report.add(
            "speed", name, precision=precision, how="compiled", seconds=statistics.median(runs),
            fastest=min(runs), count=len(runs), pictures=1, flops=None, peak_bytes=None,
            target=target, compile_seconds=seconds,
        )  # fmt: skip
        report_difference(
            report, f"{name}: compiled against eager", precision, "run", restore(), eager,
            graph_breaks=sum(counters["graph_break"].values()),
            graphs=counters["stats"]["unique_graphs"],
        )  # fmt: skip

    with report.attempt("bundled, compiled", precision):
        bundled = load_bundled_model(dtype=precision)
        name = f"bundled x4, {large} px"
        report_compiled(name, bundled, bundled_vae(), large_picture, TARGETS["bundled 256"])
    if setting.tiny:
        return  # tracing the second network would take longer than all other parts
    with report.attempt("ResShift, compiled", precision):
        model = load_resshift(setting.folder / UNET_FILE, preset=PRESET, dtype=precision)
        vae = load_vq_vae(setting.folder / VQ_FILE, dtype=precision)
        name = f"ResShift 4 steps x4, {picture.shape[1]} px"
        report_compiled(name, model, vae, picture, TARGETS["ResShift 64"])
