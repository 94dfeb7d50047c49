"""Whether a device computes what the CPU does.

The same functions run on the CPU in float32, which keeps their results, and on the device in every
precision, which compares. All noise comes from CPU generators, so inputs are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..model_loaders.resshift import bundled_vae, load_bundled_model, load_resshift, load_vq_vae
from ..pipelines.noise import PictureSeeds
from ..pipelines.resshift_conditioning import prepare_resshift
from ..pipelines.resshift_sampling import sample_resshift
from ..pipelines.restore_resshift import restore_with_resshift
from ..pipelines.tiles import TileSettings
from .device_report import Report
from .device_setting import Setting, allow_tf32, draw_latent, draw_pictures
from .weights import PRESET, UNET_FILE, VQ_FILE, write_checkpoints

# Largest ‖out - ref‖ / ‖ref‖. A network is one call; a run is many, whose errors add up; codes are
# runs where a latent that lies between two codes of a VQ autoencoder falls to the other one.
BOUNDS = {
    "network": {"fp32": 1e-3, "tf32": 5e-3, "fp16": 1e-2, "bf16": 3e-2},
    "run": {"fp32": 1e-3, "tf32": 1e-2, "fp16": 3e-2, "bf16": 1.5e-1},
    "codes": {"fp32": 3e-2, "tf32": 5e-2, "fp16": 1e-1, "bf16": 3e-1},
}
UNET_STEP = "ResShift UNet, one call"
CHAIN_PICTURE = "ResShift 4 steps, picture"
BUNDLED_PICTURE = "bundled, picture"

Checks = dict[str, tuple[str, Callable[[], Tensor]]]
Builder = Callable[[Setting, str], Checks]


def resshift_checks(setting: Setting, precision: str) -> Checks:
    """Return everything of ResShift, by name: the kind of bound and the call."""
    side = setting.sized(64, 16)
    picture, wide = draw_pictures(1, side), draw_pictures(1, side * 3 // 2)[:, :side]
    model = load_resshift(setting.folder / UNET_FILE, preset=PRESET, dtype=precision)
    vae = load_vq_vae(setting.folder / VQ_FILE, dtype=precision)
    bundled = load_bundled_model(dtype=precision)
    channels = vae.latent_channels
    tiles = TileSettings(tile=side * 4, overlap=side)

    def chain() -> Tensor:
        inputs = prepare_resshift(model, vae, picture)
        return sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(0))[
            "samples"
        ]

    return {
        UNET_STEP: ("network", lambda: call_unet(model, side)),
        "VQ encode": ("network", lambda: vae.encode(draw_pictures(1, 4 * side))),
        "VQ decode": ("network", lambda: vae.decode(draw_latent(1, channels, side, side))),
        "ResShift 4 steps, latent": ("run", chain),
        CHAIN_PICTURE: ("codes", lambda: restore_with_resshift(model, vae, picture, seed=0)),
        "ResShift 4 steps, tiles": (
            "codes",
            lambda: restore_with_resshift(model, vae, wide, seed=0, tiles=tiles),
        ),
        BUNDLED_PICTURE: (
            "run",
            lambda: restore_with_resshift(bundled, bundled_vae(), picture, seed=0),
        ),
    }


def call_unet(model: Any, side: int) -> Tensor:
    """Return what the network of a ResShift MODEL makes of one square latent."""
    call, _ = unet_call(model, side)
    return call()


def unet_call(model: Any, side: int, batch: int = 1) -> tuple[Callable[[], Tensor], list[int]]:
    """Return a call of the loaded network on square latents, and the shape of the state."""
    network = model.model
    shape = [batch, network.network_config.latent_channels, side, side]
    memory = network.memory_required(shape)
    comfy.model_management.load_models_gpu([model], memory_required=memory)
    made = {"dtype": network.get_dtype_inference(), "device": model.load_device}
    ratio = network.network_config.condition_ratio
    lq = draw_pictures(batch, side * ratio).movedim(-1, 1) * 2 - 1
    lq = torch.nn.functional.pixel_unshuffle(lq, ratio).to(**made)
    x, timesteps = draw_latent(*shape).to(**made), torch.full((batch,), 2.0).to(**made)
    y = draw_latent(*shape).to(**made) if network.network_config.cond_start else None
    return lambda: network.diffusion_model(x, timesteps, lq=lq, y=y), shape


def write_resshift_reference(setting: Setting, report: Report) -> None:
    """Write the checkpoints, and keep what the CPU makes of them."""
    torch.manual_seed(0)
    write_checkpoints(setting.folder, tiny=setting.tiny)
    (setting.folder / "checkpoints").touch()
    write_reference(setting, report, resshift_checks)


def write_reference(setting: Setting, report: Report, builder: Builder) -> None:
    """Keep what every check makes, in float32."""
    comfy.utils.set_progress_bar_enabled(False)
    for name, (_, call) in builder(setting, "fp32").items():
        with report.attempt(name, "fp32"):
            start = time.perf_counter()
            made = call().float().cpu().contiguous()
            seconds = time.perf_counter() - start
            save_file({"made": made}, reference_path(setting, name))
            report.add("note", name, seconds=seconds, shape=list(made.shape))


def reference_path(setting: Setting, name: str) -> Path:
    """Return where a result of the CPU lies."""
    return setting.folder / f"reference {name.replace('/', ' ')}.safetensors"


def compare_resshift(setting: Setting, report: Report) -> None:
    """Compare everything of ResShift in every precision."""
    compare(setting, report, resshift_checks)
    if setting.device.type != "cuda":
        return
    with report.attempt(UNET_STEP, "tf32"):
        allow_tf32(True)
        kind, call = resshift_checks(setting, "fp32")[UNET_STEP]
        reference = read_reference(setting, UNET_STEP)
        report_difference(report, UNET_STEP, "tf32", kind, call(), reference)


def compare(setting: Setting, report: Report, builder: Builder) -> None:
    """Run every check in every precision and report how far it is from the CPU's float32."""
    comfy.utils.set_progress_bar_enabled(False)
    allow_tf32(False)
    for precision in setting.precisions:
        with report.attempt("load", precision):
            for name, (kind, call) in builder(setting, precision).items():
                with report.attempt(name, precision):
                    reference = read_reference(setting, name)
                    report_difference(report, name, precision, kind, call(), reference)
        comfy.model_management.unload_all_models()


def read_reference(setting: Setting, name: str) -> Tensor:
    """Return what the CPU made."""
    return load_file(reference_path(setting, name))["made"]


def report_difference(
    report: Report, name: str, precision: str, kind: str, made: Tensor, reference: Tensor,
    **more: Any,
) -> None:  # fmt: skip
    """Report how far a result is from another, and whether that is within the bound."""
    reference = reference.float().cpu()
    difference = made.float().cpu() - reference
    error = (difference.norm() / reference.norm()).item()
    bound = BOUNDS[kind][precision]
    report.add(
        "parity",
        name,
        precision=precision,
        error=error,
        largest=difference.abs().max().item(),
        bound=bound,
        passed=error < bound,  # never true of NaN
        **more,
    )
