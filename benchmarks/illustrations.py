"""The pictures of the help pages; the command line is `help_pictures.py`."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.utils
import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..images.conversion import image_to_planes, planes_to_image
from ..images.crops import random_crops
from ..images.damage import DAMAGES
from ..images.flow import warp_along
from ..images.labels import label_grid
from ..images.padding import reflect_pad_to_multiple
from ..images.resize import enlarge_bicubic, resize_bicubic
from ..model_loaders.resshift import bundled_vae, load_bundled_model
from ..pipelines.damage import correct_levels, damage_image, scratch_mask
from ..pipelines.degrade import degrade_image
from ..pipelines.finish import correct_color, finish_restoration
from ..pipelines.flicker import measure_flicker
from ..pipelines.latent_guidance import LatentGuidance, patch_latent_guidance
from ..pipelines.measure import measure_images
from ..pipelines.noise import PictureSeeds
from ..pipelines.resshift_conditioning import prepare_resshift, resshift_model
from ..pipelines.resshift_sampling import residual_shift_sigmas, sample_resshift
from ..pipelines.restore_resshift import restore_with_resshift
from ..pipelines.sweep import compare_pictures
from ..samplers.discrete import alphas_cumprod, sigmas_from_alphas_cumprod, spaced_timesteps
from ..samplers.guidance import rescaled_cfg_scale
from ..samplers.schedules import ResShiftSchedule, one_minus_eta_from_sigma
from ..samplers.tiles import tile_positions
from . import clip_illustrations, diagrams, face_illustrations, video_illustrations
from .clips import moved_clip, reduced, workflow_picture
from .contact_sheet import to_image
from .diagrams import Curve

ORIGINAL = "restoration_raccoon_original.jpg"
MOST_BYTES = 40_000
QUALITIES = range(88, 20, -4)
SCALE = 4
SEED = 1
LABEL_HEIGHT = 22
PIECE = (208, 160)  # width and height
COFFEE, RACCOON = (250, 120), (496, 248)  # left and top of the shown piece
LEVELS = {"coffee": "one round, light", "raccoon": "one round, medium"}
SHOWN_DAMAGE = 0.7
SCRATCH_SEED = 4


@dataclass
class Materials:
    """What the pictures are made of: a photograph, the bundled model and its results.

    Attributes:
        name: A picture of scikit-image, or the original of the sample picture.
        place: Left and top of the piece that is shown.
        model: The bundled MODEL.
        vae: Its VAE.
    """

    name: str
    place: tuple[int, int]
    model: Any
    vae: Any

    @cached_property
    def original(self) -> Tensor:
        """IMAGE with sides that the scale divides."""
        if self.name == "raccoon":
            return planes_to_image(workflow_picture(ORIGINAL)[None])
        pixels = torch.from_numpy(getattr(skimage.data, self.name)()).float()[None] / 255
        height, width = (side // SCALE * SCALE for side in pixels.shape[1:3])
        return pixels[:, :height, :width]

    @cached_property
    def low(self) -> Tensor:
        """Its small, degraded version."""
        return degrade_image(self.original, LEVELS[self.name], SEED, SCALE)

    @cached_property
    def bicubic(self) -> Tensor:
        """The small one, enlarged."""
        return planes_to_image(enlarge_bicubic(image_to_planes(self.low)[0], SCALE).clamp(0, 1))

    @cached_property
    def restored(self) -> Tensor:
        """The small one, restored."""
        return self.restore()

    def restore(self, model: Any = None, **settings: Any) -> Tensor:
        """Return it restored otherwise."""
        return restore_with_resshift(model or self.model, self.vae, self.low, seed=SEED, **settings)

    def guided(self, fidelity: float) -> Tensor:
        """Return it restored, held close to its enlargement."""
        inputs = prepare_resshift(self.model, self.vae, self.low)
        guidance = LatentGuidance(fidelity=fidelity)
        return self.restore(patch_latent_guidance(self.model, inputs.latent, guidance))

    def piece(self, image: Tensor) -> Tensor:
        """Return the shown piece of an IMAGE as `(3, h, w)`."""
        left, top = self.place
        return image_to_planes(image)[0][0, :, top : top + PIECE[1], left : left + PIECE[0]]

    def strip(self, images: dict[str, Tensor], columns: int = 3) -> Image.Image:
        """Return the pieces of IMAGEs under their labels."""
        pieces = [self.piece(image) for image in images.values()]
        return to_image(label_grid(pieces, list(images), columns, LABEL_HEIGHT)[None])


def write_help_pictures(folder: Path, names: Sequence[str] = ()) -> dict[str, int]:
    """Write `<node id>/example.jpg` for every node, or for those named, and return their bytes."""
    comfy.utils.set_progress_bar_enabled(False)
    loaded = load_bundled_model(dtype="fp32"), bundled_vae()
    coffee = Materials("coffee", COFFEE, *loaded)
    raccoon = Materials("raccoon", RACCOON, *loaded)
    written = {}
    with torch.inference_mode():
        for name in names or PICTURES:
            draw = PICTURES[name]
            content = encode(draw(raccoon if draw in OF_THE_RACCOON else coffee))
            target = folder / name / "example.jpg"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
            written[name] = len(content)
    return written


def encode(picture: Image.Image) -> bytes:
    """Return a JPEG of the best quality that stays below `MOST_BYTES`.

    Raises:
        ValueError: If even the worst one does not; draw a smaller picture.
    """
    for quality in QUALITIES:
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=quality, optimize=True)
        if content.tell() <= MOST_BYTES:
            return content.getvalue()
    raise ValueError(f"a picture of {picture.size} does not fit into {MOST_BYTES} bytes")


def draw_restoration(materials: Materials) -> Image.Image:
    return materials.strip(
        {
            "bicubic": materials.bicubic,
            "restored": materials.restored,
            "original": materials.original,
        }
    )


def draw_conditioning(materials: Materials) -> Image.Image:
    network = resshift_model(materials.model)
    small = materials.low[:, :75, :113]
    planes = image_to_planes(small)[0]
    padded = reflect_pad_to_multiple(planes, network.size_multiple_px)
    height, width = planes.shape[-2:]
    shown = []
    for picture in (planes, padded):
        canvas = torch.ones_like(padded)
        canvas[..., : picture.shape[-2], : picture.shape[-1]] = picture
        shown.append(enlarge_bicubic(canvas, 2)[0].clamp(0, 1))
    labels = [
        f"image {width} x {height}",
        f"padded {padded.shape[-1]} x {padded.shape[-2]}",
    ]
    return to_image(label_grid(shown, labels, 2, LABEL_HEIGHT)[None])


def draw_steps(materials: Materials) -> Image.Image:
    model = materials.model
    inputs = prepare_resshift(model, materials.vae, materials.low)
    y = model.model.process_latent_in(inputs.latent["samples"])
    steps = resshift_model(model).record.steps  # fewer would show nothing of the chain
    sigmas = residual_shift_sigmas(model, steps)
    kept = one_minus_eta_from_sigma(sigmas, resshift_model(model).record.schedule.kappa)
    shown = {}

    def keep(step: int, denoised: Tensor, w: Tensor, total: int) -> None:
        x = kept[step].item() * w.cpu() + (1 - kept[step].item()) * y
        picture = materials.vae.decode(model.model.process_latent_out(x))
        shown[f"before step {step + 1} of {total}"] = picture.clamp(0, 1)

    sample_resshift(
        model, inputs.positive, inputs.latent, seeds=PictureSeeds(SEED), steps=steps, callback=keep
    )
    few = dict(list(shown.items())[::2])  # more of them would not compress: they are noise
    return materials.strip({**few, "result": materials.restored})


def draw_powers(_: Materials) -> Image.Image:
    schedules = {power: ResShiftSchedule(15, 2.0, 0.04, power=power) for power in (0.3, 1.0, 3.0)}
    curves = [
        Curve(f"power {power:g}", list(enumerate(schedule.eta().sqrt().tolist(), 1)))
        for power, schedule in schedules.items()
    ]
    return diagrams.draw_plot(curves, (1, 15), (0, 1), "step of 15", "square root of eta")


def draw_finish(materials: Materials) -> Image.Image:
    small = materials.low[:, :75, :113]
    inputs = prepare_resshift(materials.model, materials.vae, small)
    latent = sample_resshift(
        materials.model, inputs.positive, inputs.latent, seeds=PictureSeeds(SEED)
    )
    decoded = materials.vae.decode(latent["samples"])
    finished = finish_restoration(
        decoded, inputs.width, inputs.height, color_fix="wavelet", reference=small
    )
    shown = []
    for picture in (decoded, finished):
        canvas = torch.ones_like(image_to_planes(decoded)[0])
        planes = image_to_planes(picture)[0]
        canvas[..., : planes.shape[-2], : planes.shape[-1]] = planes.clamp(0, 1)
        half = torch.nn.functional.avg_pool2d(canvas, 2)
        shown.append(half[0])
    labels = [
        f"decoded {decoded.shape[2]} x {decoded.shape[1]}",
        f"finished {inputs.width} x {inputs.height}",
    ]
    return to_image(label_grid(shown, labels, 2, LABEL_HEIGHT)[None])


def draw_color_fixes(materials: Materials) -> Image.Image:
    cast = torch.tensor([1.1, 0.95, 0.75])
    tinted = (materials.restored * cast + 0.04).clamp(0, 1)
    fixed = {
        method: correct_color(tinted, materials.bicubic, method)
        for method in ("wavelet", "adain", "luminance")
    }
    shown = {"restored": materials.restored, "with a cast": tinted, "reference": materials.bicubic}
    return materials.strip({**shown, **fixed})


def draw_tiles(materials: Materials) -> Image.Image:
    picture = to_image(image_to_planes(materials.restored)[0])
    draw = ImageDraw.Draw(picture)
    tile, overlap = 256, 64
    positions = tile_positions(picture.height, picture.width, tile, tile - overlap)
    for number, (top, left) in enumerate(positions):
        colour = diagrams.COLOURS[number % len(diagrams.COLOURS)]
        box = (left + 1, top + 1, left + tile - 2, top + tile - 2)
        draw.rectangle(box, outline=colour, width=3)
    return picture.resize((480, 360), Image.Resampling.LANCZOS)


def draw_degradations(materials: Materials) -> Image.Image:
    shown = {"original": materials.original}
    for label, method in {
        "light": "one round, light",
        "medium": "one round, medium",
        "heavy": "one round, heavy",
        "ResShift": "second order (ResShift)",
        "DiffBIR v2.1": "second order (DiffBIR v2.1)",
    }.items():
        shown[label] = degrade_image(materials.original, method, SEED, SCALE, keep_size=True)
    return materials.strip(shown)


def draw_damages(materials: Materials) -> Image.Image:
    shown = {"original": materials.original}
    for name in DAMAGES:
        shown[name], _ = damage_image(materials.original, {name: SHOWN_DAMAGE}, "all, as set", SEED)
    return materials.strip(shown)


def draw_scratch_mask(materials: Materials) -> Image.Image:
    strengths = {"scratches": 1.0, "fading": 0.4}
    damaged, _ = damage_image(materials.original, strengths, "all, as set", SCRATCH_SEED)
    masks = {
        f"sensitivity {value:g}": scratch_mask(damaged, value, 3, "light and dark", True, 1)
        for value in (0.3, 0.6)
    }
    shown = {name: mask[..., None].expand(-1, -1, -1, 3) for name, mask in masks.items()}
    return materials.strip({"scratched": damaged, **shown})


def draw_levels(materials: Materials) -> Image.Image:
    strengths = {"fading": 0.8, "color_cast": 0.3}
    faded, _ = damage_image(materials.original, strengths, "all, as set", SEED)
    shown = {"faded": faded, "each channel": correct_levels(faded, 1.0, "each channel", 0.5)}
    return materials.strip({**shown, "brightness": correct_levels(faded, 1.0, "brightness", 0.5)})


def draw_crops(materials: Materials) -> Image.Image:
    clean = image_to_planes(materials.original)[0][0]
    size = (clean.shape[-2], clean.shape[-1])
    pieces, low = random_crops(
        [size], lambda _: (clean, None), 3, PIECE[1], SCALE, np.random.default_rng(2)
    )
    damaged, _ = damage_image(planes_to_image(low), {"halftone": 0.6}, "all, as set", SEED)
    enlarged = image_to_planes(damaged)[0].repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)
    labels = ["clean"] * 3 + ["degraded, then damaged"] * 3
    return to_image(label_grid([*pieces, *enlarged], labels, 3, LABEL_HEIGHT)[None])


def draw_metrics(materials: Materials) -> Image.Image:
    shown = {}
    for name, image in (("bicubic", materials.bicubic), ("restored", materials.restored)):
        found = measure_images(image, materials.original)
        shown[f"{name}: {found.psnr_y:.1f} dB, {found.ssim_y:.3f}"] = image
    return materials.strip({**shown, "reference": materials.original})


def draw_flicker(materials: Materials) -> Image.Image:
    """Draw what changes from a frame to the next beyond the motion, four times as strong."""
    photograph = image_to_planes(materials.original)[0][0]
    clip = moved_clip(photograph, (PIECE[1], PIECE[0]), 2, shift=(9.3, -3.4))
    low = reduced(clip.frames, SCALE)
    image = planes_to_image(low)
    enlarged = resize_bicubic(low, PIECE[1], PIECE[0]).clamp(0, 1)
    restored = restore_with_resshift(materials.model, materials.vae, image, seed=SEED)
    results = {"bicubic": enlarged, "restored": image_to_planes(restored)[0]}
    results["original"] = clip.frames
    shown = {}
    for name, frames in results.items():
        ratio = measure_flicker(planes_to_image(frames), image).ratio
        change = (frames[1:] - warp_along(frames[:1], clip.backward)) * clip.shown
        shown[f"{name}: {ratio:.2f}"] = (0.5 + 4 * change[0]).clamp(0, 1)
    return to_image(label_grid(list(shown.values()), list(shown), 3, LABEL_HEIGHT)[None])


def draw_sweep(materials: Materials) -> Image.Image:
    left, top = materials.place
    pieces = [
        image[:, top : top + PIECE[1], left : left + PIECE[0]]
        for image in (materials.bicubic, materials.guided(0.5), materials.restored)
    ]
    labels = "bicubic\nfidelity 0.5\nfidelity 0"
    return to_image(image_to_planes(compare_pictures(pieces, labels, 0, LABEL_HEIGHT))[0])


def draw_guidance(materials: Materials) -> Image.Image:
    shown = {f"fidelity {value:g}": materials.guided(value) for value in (0.0, 0.5, 1.0)}
    return materials.strip(shown)


def draw_resshift_sigmas(materials: Materials) -> Image.Image:
    curves = []
    for steps, spacing in ((4, "even"), (2, "even"), (2, "official")):
        sigmas = residual_shift_sigmas(materials.model, steps, spacing)[:-1].log10().tolist()
        curves.append(Curve(f"{steps} of 4 steps, {spacing}", list(enumerate(sigmas, 1))))
    return diagrams.draw_plot(curves, (1, 5), (-2, 2), "step", "log10 sigma", legend_left=270)


def draw_cfg(_: Materials) -> Image.Image:
    timesteps = list(range(1000, 0, -10))
    curves = [
        Curve(
            f"cfg {cfg}", [(t, rescaled_cfg_scale(cfg, torch.tensor(t)).item()) for t in timesteps]
        )
        for cfg in (4, 8)
    ]
    return diagrams.draw_plot(curves, (1000, 0), (0, 10), "timestep", "cfg that acts")


def draw_spaced(_: Materials) -> Image.Image:
    sigmas = sigmas_from_alphas_cumprod(alphas_cumprod())
    chosen = spaced_timesteps(10)
    logs = sigmas.log10().tolist()
    every = Curve("SD 2.1", list(enumerate(logs)))
    points = Curve("10 steps", [(step, logs[step]) for step in chosen], line=False)
    return diagrams.draw_plot(
        [every, points], (1000, 0), (-2, 2), "timestep", "log10 sigma", legend_left=300
    )


def wiring(graph: diagrams.Wiring, shown: str) -> Callable[[Materials], Image.Image]:
    """Return a function that draws a graph with one node emphasised."""
    return lambda _: diagrams.draw_wiring(graph, shown)


PICTURES: dict[str, Callable[[Materials], Image.Image]] = {
    "ResShiftRestoreImage": draw_restoration,
    "ResShiftLoader": wiring(diagrams.RESSHIFT, "Load ResShift Model"),
    "ResShiftVAELoader": wiring(diagrams.RESSHIFT, "Load ResShift VAE"),
    "ResShiftConditioning": draw_conditioning,
    "ResShiftModelSampling": draw_powers,
    "ResidualShiftSampler": draw_steps,
    "ResidualShiftSamplerSelect": wiring(diagrams.CUSTOM_SAMPLING, "Residual Shift Sampler Select"),
    "ResidualShiftScheduler": draw_resshift_sigmas,
    "RestorationFinish": draw_finish,
    "RestorationColorFix": draw_color_fixes,
    "RestorationTiles": draw_tiles,
    "RestorationMovingNoise": clip_illustrations.draw_moving_noise,
    "RestorationSteadyFrames": clip_illustrations.draw_steady_frames,
    "RestorationDegrade": draw_degradations,
    "RestorationDamage": draw_damages,
    "RestorationScratchMask": draw_scratch_mask,
    "RestorationAutoLevels": draw_levels,
    "RestorationPairCrops": draw_crops,
    "ResShiftTrainingPairs": wiring(diagrams.TRAINING, "ResShift Training Pairs"),
    "ResShiftValidation": wiring(diagrams.TRAINING, "ResShift Validation"),
    "RestorationTrainModel": wiring(diagrams.MODEL_TRAINING, "Restoration Train Model"),
    "RestorationValidationChart": wiring(diagrams.TRAINING, "Validation Chart"),
    "RestorationMetrics": draw_metrics,
    "RestorationFlicker": draw_flicker,
    "RestorationFidelitySweep": draw_sweep,
    "DiffBIRLatentGuidance": draw_guidance,
    "RestorationFaceDetect": face_illustrations.draw_detection,
    "RestorationFacePoints": face_illustrations.draw_points,
    "RestorationFaceAlign": face_illustrations.draw_alignment,
    "RestorationFacePaste": face_illustrations.draw_masks,
    "RestorationFacePhoto": face_illustrations.draw_photo,
    "RestorationVideo": video_illustrations.draw_video,
    "DiffBIRDynamicCFG": draw_cfg,
    "DiffBIRSpacedScheduler": draw_spaced,
    "SwinIRLoader": wiring(diagrams.DIFFBIR, "Load Restoration Network"),
    "DiffBIRRemoveDegradation": wiring(diagrams.DIFFBIR, "Remove Degradation"),
    "LAControlNetLoader": wiring(diagrams.DIFFBIR, "Load LAControlNet"),
    "DiffBIRConditioning": wiring(diagrams.DIFFBIR, "DiffBIR Conditioning"),
    "DiffBIRSampler": wiring(diagrams.DIFFBIR, "DiffBIR Sampler"),
    "HYPIRLoader": wiring(diagrams.HYPIR, "Load HYPIR"),
    "HYPIRSingleStep": wiring(diagrams.HYPIR, "HYPIR Single Step"),
    "HYPIRRestoreImage": wiring(diagrams.HYPIR_ONE_NODE, "Restore Image (HYPIR)"),
    "DiffBIRRestoreImage": wiring(diagrams.DIFFBIR_ONE_NODE, "Restore Image (DiffBIR)"),
}
OF_THE_RACCOON = (
    draw_restoration,
    draw_steps,
    draw_sweep,
    draw_guidance,
    draw_tiles,
)
