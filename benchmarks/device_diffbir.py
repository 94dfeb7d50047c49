"""What `device.py` compares and measures of DiffBIR; the only part that needs spandrel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..pipelines.diffbir_conditioning import CONDITION_KEY
from ..pipelines.latent_guidance import LatentGuidance
from ..pipelines.stage_one import remove_degradation
from ..pipelines.tiles import patch_tiles
from .device_parity import Checks, compare, write_reference
from .device_report import Report
from .device_setting import Setting, choose_precision, draw_pictures
from .device_speed import TARGETS, report_profile, report_speed
from .diffbir import DiffBIRRun, prepare_run, sample_run, stage_one_network

STAGE_ONE = {"swinir": "SwinIR", "bsrnet": "BSRNet x4", "scunet": "SCUNet"}
GUIDANCE = LatentGuidance(scale=0.01, fidelity=0.3)
RGB_GUIDANCE = LatentGuidance(scale=0.5, space="rgb")


def stage_one_checks(setting: Setting) -> Checks:
    """Return the networks of stage 1, which run in float32."""
    picture = draw_pictures(1, setting.sized(128, 64))

    def check(kind: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            torch.manual_seed(0)
            network = stage_one_network(kind, tiny=setting.tiny)
            return remove_degradation(network, picture, rules="none").image

        return run

    return {f"stage 1 {name}": ("network", check(kind)) for kind, name in STAGE_ONE.items()}


def diffbir_checks(setting: Setting, precision: str) -> Checks:
    """Return both stages, by name: the kind of bound and the call."""
    checks = stage_one_checks(setting) if precision == "fp32" else {}
    return {**checks, **second_stage_checks(setting, precision, tiny=setting.tiny)}


def second_stage_checks(
    setting: Setting, precision: str, *, tiny: bool, prefix: str = ""
) -> Checks:
    """Return control, UNet, tiles and guidance on one picture."""
    choose_precision(precision)
    side = 64 if tiny else 256
    folder = setting.folder / f"control {prefix}"  # its file is written anew by every process
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    run = prepare_run(side, 1, folder, tiny=tiny)
    tiled = replace(run, model=patch_tiles(run.model, side * 3 // 4, side // 4))

    def condition() -> Tensor:
        return run.inputs.positive[0][1][CONDITION_KEY]

    def sampled(run: DiffBIRRun, **options: object) -> Callable[[], Tensor]:
        return lambda: sample_run(run, **options)

    rgb = {"guidance": RGB_GUIDANCE, "guidance_target": run.image, "vae": run.vae}
    checks: Checks = {
        "SD VAE encode": ("network", condition),
        "SD VAE decode": ("network", lambda: run.vae.decode(condition())),
        "DiffBIR control + UNet, one step": ("network", sampled(run, steps=1, cfg=1.0)),
        "DiffBIR 2 steps, cfg 4": ("run", sampled(run, steps=2)),
        "DiffBIR 2 steps, tiles": ("run", sampled(tiled, steps=2, cfg=1.0)),
        "DiffBIR 2 steps, latent guidance": (
            "run",
            sampled(run, steps=2, cfg=1.0, guidance=GUIDANCE),
        ),
        "DiffBIR 2 steps, RGB guidance": ("run", sampled(run, steps=2, cfg=1.0, **rgb)),
    }
    return {prefix + name: check for name, check in checks.items()}


def write_diffbir_reference(setting: Setting, report: Report) -> None:
    """Keep what the CPU makes."""
    write_reference(setting, report, diffbir_checks)


def compare_diffbir(setting: Setting, report: Report) -> None:
    """Compare everything of DiffBIR in every precision."""
    compare(setting, report, diffbir_checks)


def time_diffbir(setting: Setting, report: Report) -> None:
    """Measure ten steps, single steps, the VAE and the networks of stage 1."""
    comfy.utils.set_progress_bar_enabled(False)
    side, precision = setting.sized(512, 64), setting.half
    choose_precision(precision)
    with report.attempt("DiffBIR", precision):
        torch.manual_seed(0)
        run = prepare_run(side, 1, setting.folder, tiny=setting.tiny)
        name = f"DiffBIR 10 steps {side} px"
        target = TARGETS["DiffBIR 10 steps"]
        report_speed(
            setting, report, name, precision, lambda: sample_run(run, steps=10), target=target
        )
        official = {"sampler": "official", "scheduler": "official"}
        report_speed(
            setting, report, f"{name}, spaced", precision,
            lambda: sample_run(run, steps=10, **official),
        )  # fmt: skip
        report_speed(
            setting, report, f"DiffBIR step {side} px, no cfg", precision,
            lambda: sample_run(run, steps=1, cfg=1.0),
        )  # fmt: skip
        latent = run.inputs.positive[0][1][CONDITION_KEY]
        report_speed(
            setting, report, f"SD VAE encode {side} px", precision,
            lambda: run.vae.encode(run.image),
        )  # fmt: skip
        report_speed(
            setting, report, f"SD VAE decode {side} px", precision, lambda: run.vae.decode(latent)
        )
        rgb = {"guidance": RGB_GUIDANCE, "guidance_target": run.image, "vae": run.vae}
        report_speed(
            setting, report, f"DiffBIR step {side} px, RGB guidance", precision,
            lambda: sample_run(run, steps=1, cfg=1.0, **rgb),
        )  # fmt: skip
        report_profile(setting, report, "DiffBIR", lambda: sample_run(run, steps=2))
    comfy.model_management.unload_all_models()
    for kind, network_name in STAGE_ONE.items():
        with report.attempt(network_name, "fp32"):
            network = stage_one_network(kind, tiny=setting.tiny)
            small = side // 4 if kind == "bsrnet" else side
            picture = draw_pictures(1, small)
            report_speed(
                setting, report, f"stage 1 {network_name}, {small} px", "fp32",
                lambda network=network, picture=picture: remove_degradation(
                    network, picture, rules="none"
                ),
            )  # fmt: skip
