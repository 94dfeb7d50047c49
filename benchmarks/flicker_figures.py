"""What `flicker.py` measures: clips, restorations, figures."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ..images.color import fix_color
from ..images.conversion import image_to_planes, planes_to_image
from ..images.flicker import warping_error
from ..images.flow import resized_flow
from ..images.metrics import psnr
from ..images.resize import resize_bicubic
from ..model_loaders.resshift import bundled_vae, load_bundled_model
from ..pipelines.diffbir_conditioning import prepare_diffbir
from ..pipelines.flow import FlowMethod, find_flow
from ..pipelines.noise import MOVING, BatchNoise, PictureSeeds
from ..pipelines.restore_resshift import restore_with_resshift
from ..pipelines.steady_frames import Steadiness
from ..training.validation import gradient_energy
from .clips import Clip, compressed, moved_clip, noisy, patch_clip, reduced, workflow_picture
from .diffbir import CONTEXT, DiffBIRRun, control_net, model_of_sd21, sample_run, vae_of_sd
from .judging import with_kappa

SCALE = 4
SIZE = (256, 384)
BICUBIC = "bicubic enlargement"
DIFFBIR = "tiny DiffBIR"
ROUGH = "rough pan"
ROUGH_NOISE, ROUGH_QUALITY = 0.03, 60
LARGE_KAPPA = 4.0
DIFFBIR_STEPS, DIFFBIR_FRAMES = 4, 3
STRENGTHS = (0.3, 0.5, 0.8)

Restoration = Callable[[Tensor], Tensor]


def make_clips(count: int) -> dict[str, Clip]:
    """Return the clips by name, their frames of `SIZE`."""
    photograph = workflow_picture("restoration_original.jpg")
    face = resize_bicubic(workflow_picture("restoration_face.jpg")[None], 128, 128)[0].clamp(0, 1)
    still = moved_clip(photograph, SIZE, 2)
    pan = moved_clip(photograph, SIZE, count, shift=(9.3, -3.4))
    return {
        "pan": pan,
        "zoom": moved_clip(photograph, SIZE, count, zoom=1.03, reduction=0.7),
        "turn": moved_clip(photograph, SIZE, count, turn=2),
        "patch": patch_clip(still.frames[0], face, count, (11, 6)),
        ROUGH: pan,
    }


def make_inputs(clips: dict[str, Clip]) -> dict[str, Tensor]:
    """Return the frames to restore: those of the clips, reduced; grain and compression in one."""
    inputs = {name: reduced(clip.frames, SCALE) for name, clip in clips.items()}
    inputs[ROUGH] = compressed(noisy(inputs[ROUGH], ROUGH_NOISE), ROUGH_QUALITY)
    return inputs


def make_restorations() -> dict[str, Restoration]:
    """Return what restores frames, an IMAGE to one four times as large, by name."""
    bundled, vae = load_bundled_model(), bundled_vae()

    def by_bundled(model: Any = bundled, **options: Any) -> Restoration:
        return lambda image: restore_with_resshift(model, vae, image, seed=0, **options)

    same: dict[str, Any] = {"batch_noise": "same for all"}
    moving: dict[str, Any] = {"steps": 4, "batch_noise": MOVING}
    by_kappa, kappa = with_kappa(bundled, LARGE_KAPPA), f"bundled, kappa {LARGE_KAPPA:g}, 4 steps"
    half = Steadiness(0.5)
    return {
        "bundled, 4 steps, different per image": by_bundled(steps=4),
        "bundled, 4 steps, same for all": by_bundled(steps=4, **same),
        "bundled, 4 steps, randomness 0, different per image": by_bundled(steps=4, randomness=0.0),
        "bundled, 1 step, different per image": by_bundled(steps=1),
        f"{kappa}, different per image": by_bundled(by_kappa, steps=4),
        "bundled, 4 steps, moving with the picture": by_bundled(**moving),
        **{
            f"bundled, 4 steps, moving with the picture, steadiness {strength}": by_bundled(
                steadiness=Steadiness(strength), **moving
            )
            for strength in STRENGTHS
        },
        f"{kappa}, moving with the picture": by_bundled(by_kappa, **moving),
        f"{kappa}, moving with the picture, steadiness 0.5": by_bundled(
            by_kappa, steadiness=half, **moving
        ),
    }


def measure_all(count: int, only: str = "") -> str:
    """Return the tables of all restorations whose name holds `only`, in Markdown."""
    comfy.utils.set_progress_bar_enabled(False)
    torch.manual_seed(0)  # of the networks with random weights
    clips = make_clips(count)
    inputs = make_inputs(clips)
    bicubic = {name: resize_bicubic(low, *SIZE).clamp(0, 1) for name, low in inputs.items()}
    base = {name: clip_error(clip, bicubic[name]) for name, clip in clips.items()}
    rows = [
        figures_row("original frames", clips, {n: clip.frames for n, clip in clips.items()}, base),
        figures_row(BICUBIC, clips, bicubic, base),
    ]
    for name, restore in make_restorations().items():
        if only not in name:
            continue
        print(name, file=sys.stderr, flush=True)
        restored = {
            clip: image_to_planes(restore(planes_to_image(low)))[0] for clip, low in inputs.items()
        }
        rows.append(figures_row(name, clips, restored, base))
    names = [*clips, "mean"]
    head = f"| restoration | {' | '.join(names)} | sharpness | PSNR |"
    rule = f"|---|{'---|' * (len(names) + 2)}"
    absolute = ", ".join(f"{name} {1e4 * error:.2f}" for name, error in base.items())
    return "\n".join(
        [
            head,
            rule,
            *rows,
            "",
            f"Warping error of the {BICUBIC}, in 1e-4: {absolute}.",
            "",
            *([diffbir_line(clips, bicubic), ""] if only in DIFFBIR else []),
            *flow_table(clips, inputs),
        ]
    )


def clip_error(clip: Clip, frames: Tensor) -> float:
    """Return the mean warping error of frames along a clip's true motion."""
    pairs = len(frames) - 1
    errors = warping_error(frames[1:], frames[:-1], clip.backward[:pairs], clip.shown[:pairs])
    return float(errors.detach().mean())


def figures_row(
    name: str, clips: dict[str, Clip], restored: dict[str, Tensor], base: dict[str, float]
) -> str:
    """Return the row of a restoration: ratios by clip, their mean, sharpness and PSNR."""
    ratios = [clip_error(clip, restored[key]) / base[key] for key, clip in clips.items()]
    ratios.append(sum(ratios) / len(ratios))
    pairs = [(restored[key], clip.frames) for key, clip in clips.items()]
    sharpness = [float(gradient_energy(made) / gradient_energy(true)) for made, true in pairs]
    decibels = [float(psnr(made, true).mean()) for made, true in pairs]
    figures = [f"{ratio:.2f}" for ratio in ratios]
    figures.append(f"{sum(sharpness) / len(pairs):.2f}")
    figures.append(f"{sum(decibels) / len(pairs):.1f}")
    return f"| {name} | {' | '.join(figures)} |"


def diffbir_line(clips: dict[str, Clip], enlarged: dict[str, Tensor]) -> str:
    """Return what the noise of a batch changes in DiffBIR's second stage with random weights."""
    torch.manual_seed(0)  # of the weights
    text = [[torch.zeros(1, 77, CONTEXT), {}]]
    vae, model = vae_of_sd(tiny=True), model_of_sd21(tiny=True)
    with tempfile.TemporaryDirectory(prefix="resshift-bench-") as folder:
        control = control_net(Path(folder), tiny=True)

    def error(clip: str, batch_noise: BatchNoise) -> float:
        print(f"{DIFFBIR}, {clip}, {batch_noise}", file=sys.stderr, flush=True)
        frames = enlarged[clip][:DIFFBIR_FRAMES]
        image = planes_to_image(frames)
        run = DiffBIRRun(model, vae, image, prepare_diffbir(text, text, control, vae, image))
        seeds = PictureSeeds(0, batch_noise)
        latent = sample_run(run, steps=DIFFBIR_STEPS, seeds=seeds, frames=image)
        decoded = image_to_planes(vae.decode(latent))[0]
        made = fix_color(decoded, frames, "wavelet").clamp(0, 1)
        return clip_error(clips[clip], made)

    shares = []
    for clip in ("pan", "patch"):
        different, same, moving = (
            error(clip, noise) for noise in ("different per image", "same for all", MOVING)
        )
        shares.append(f"{same / different:.2f} and {moving / different:.2f} on the {clip}")
    return (
        f"{DIFFBIR}: second stage, random weights, {DIFFBIR_STEPS} steps, so that only the ratio of"
        f" two of its runs means something. Warping errors of `same for all` and of"
        f" `{MOVING}` over that of `different per image`: {', '.join(shares)}."
    )


def flow_table(clips: dict[str, Clip], inputs: dict[str, Tensor]) -> list[str]:
    """Return the table of how far flows found in the reduced frames are from the true ones."""
    lines = [f"| flow found by | {' | '.join(clips)} |", f"|---|{'---|' * len(clips)}"]
    methods: list[FlowMethod] = ["Lucas-Kanade"]
    if find_spec("cv2"):
        methods.append("DIS (OpenCV)")
    for method in methods:
        cells = []
        for name, clip in clips.items():
            median, mean = endpoint_error(clip, inputs[name], method)
            cells.append(f"{median:.2f}, {mean:.2f}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def endpoint_error(clip: Clip, low: Tensor, method: FlowMethod) -> tuple[float, float]:
    """Return median and mean of the flow's error in pixels of the reduced frames."""
    size = low.shape[-2:]
    found = find_flow(low[1:], low[:-1], method)
    error = (found - resized_flow(clip.backward, (size[0], size[1]))).norm(dim=1, keepdim=True)
    shown = torch.nn.functional.avg_pool2d(clip.shown, SCALE) == 1
    return float(error[shown].median()), float(error[shown].mean())
