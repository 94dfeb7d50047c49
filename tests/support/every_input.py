"""A second value for every plain input of every node, and where it can be seen.

A row holds the node's other inputs, and for each plain input the value to try and what else must be
set for it to act. What is not in a row is tried with a value made from the input itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import numpy as np
import torch
from comfy_api.latest import InputImpl, Types
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from pack.benchmarks.contact_sheet import to_image
from pack.model_loaders.resshift import cpu_has_bf16_units
from pack.tests.support.diffbir import (
    HEAD_CHANNELS,
    save_control,
    text,
    tiny_clip,
    tiny_model,
    tiny_vae,
)
from pack.tests.support.graph import Graph, output, train_lora
from pack.tests.support.hypir import lora_weights, small_sd2
from pack.tests.support.restoration import descriptor, tiny_esrgan
from pack.tests.support.running import InProcessComfy, pack_module
from pack.tests.support.tiny import (
    FOLDED_RECORD,
    FOLDED_UNET,
    picture,
    random_unet_weights,
    random_vq_weights,
    save_unet,
)

PLAIN = ("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO")
SAME_FOR_ALL = "same for all"
BUNDLED_MODEL, BUNDLED_VAE = "bundled: photo x4", "bundled: pixel latent x4"
# Of the published range of each, a value near its other end.
RANGE_ENDS = {
    "blur": (2.5, 0.5),
    "reduction": (6.0, 1.0),
    "noise": (29.0, 2.0),
    "poisson": (2.9, 0.1),
    "jpeg": (94.0, 31.0),
    "second_blur": (1.4, 0.3),
    "second_reduction": (3.0, 1.0),
    "second_noise": (24.0, 2.0),
    "second_poisson": (2.4, 0.1),
    "second_jpeg": (94.0, 31.0),
}

# Points of two faces with eyes 20 and 30 pixels apart, and of one in the second picture.
FACES = """10 20 30 20 20 30 12 40 28 40
50 15 80 15 65 30 53 45 77 45
1: 30 20 60 20 45 35 33 50 57 50"""
CREW = Path(__file__).resolve().parents[2] / "workflows" / "inputs" / "restoration_crew.jpg"

# Inputs that must not change the result.
SAME = {
    ("ResShiftRestoreImage", "frames_at_once"): "how many share a call changes the memory alone",
    ("DiffBIRRestoreImage", "frames_at_once"): "the same",
    ("HYPIRRestoreImage", "frames_at_once"): "the same",
    ("RestorationVideo", "frames_at_once"): "the same",
}
if not cpu_has_bf16_units():
    SAME["RestorationTrainModel", "training_dtype"] = "bf16 is computed in fp32 without its units"
# Inputs whose second value cannot be run here.
ELSEWHERE = {
    ("RestorationMetrics", "perceptual"): "needs pyiqa and what it downloads",
    ("RestorationFlicker", "method"): "needs OpenCV",
    ("RestorationTrainModel", "checkpoint_every"): "seen in files, in test_train_model.py",
    ("RestorationTrainModel", "filename_prefix"): "the same",
}


@dataclass(frozen=True)
class Row:
    """What a node is run with.

    Attributes:
        given: Inputs that are not plain, and plain ones that keep a run short.
        tried: Second values by plain input.
        needs: What else must be set for an input to act, by plain input.
    """

    given: dict[str, Any] = field(default_factory=dict)
    tried: dict[str, Any] = field(default_factory=dict)
    needs: dict[str, dict[str, Any]] = field(default_factory=dict)


class Objects:
    """Tiny networks as objects of the pack that ComfyUI loaded, and pictures."""

    def __init__(self, comfy: InProcessComfy, folder: Path):
        self.comfy = comfy
        models = comfy.base / "models"
        for kind in ("unet", "other"):
            (folder / kind).mkdir()
        path = save_unet(folder / "unet", FOLDED_UNET, FOLDED_RECORD)
        loaders = pack_module("model_loaders.resshift")
        self.resshift = loaders.load_resshift(path), loaders.bundled_vae()
        save_file(
            random_unet_weights(FOLDED_UNET, 9),
            models / "diffusion_models" / "own.safetensors",
            metadata={"resshift_config": FOLDED_RECORD.to_json()},
        )
        for name, seed in (("one", 2), ("other", 3)):
            save_file(random_vq_weights(seed=seed), models / "vae" / f"{name}.safetensors")
        for name, side, seed in (("clean", 64, 2), ("other", 64, 3), ("low", 16, 4)):
            folder = comfy.base / "input" / f"every {name}"
            folder.mkdir()
            to_image(picture(side, side, seed=seed).movedim(-1, 1)).save(folder / "one.png")
        control = torch.load(models / "controlnet" / "v2.pth", weights_only=True)
        control["input_blocks.0.0.bias"] = control["input_blocks.0.0.bias"] + 1
        torch.save(control, models / "controlnet" / "other.pth")
        for name, weights in (("one", tiny_esrgan()), ("other", tiny_esrgan(scale=2))):
            torch.save(weights, models / "upscale_models" / f"{name}.pth")
        lora = lora_weights()
        last = "conv_out.lora_B.default.weight"
        for name, weights in (("one", lora), ("other", {**lora, last: 2 * lora[last]})):
            torch.save(weights, models / "loras" / f"{name}.pth")
        self.sd_layout = small_sd2()
        self.hypir = comfy.call("HYPIRLoader", self.sd_layout, "one.pth")[0]
        self.sd, self.sd_vae, self.clip = tiny_model(), tiny_vae(), tiny_clip()
        self.control = pack_module("model_loaders.la_control_net").load_la_control_net(
            save_control(folder), head_channels=HEAD_CHANNELS
        )
        self.esrgan = descriptor(tiny_esrgan())
        self.pictures = picture(16, 24, batch=2)
        self.enlarged = picture(64, 96, batch=2)
        wide = picture(16, 26, seed=3)
        self.panned = torch.cat([wide[:, :, :24], wide[:, :, 2:]])
        prepared = comfy.call("ResShiftConditioning", *self.resshift, self.pictures)
        self.prepared = dict(zip(("positive", "negative", "latent"), prepared, strict=False))
        self.condition = {"samples": torch.randn(2, 4, 8, 16, generator=_seeded(1))}
        self.texts = {"positive": text(4), "negative": text(5)}
        controlled = comfy.call(
            "DiffBIRConditioning",
            *self.texts.values(),
            *(self.control, self.sd_vae, picture(64, 128, batch=2)),
            *(1.0, "condition", 0, 0.0, 1.0, False, 0, SAME_FOR_ALL),
        )
        names = ("positive", "negative", "latent_image")
        self.controlled = dict(zip(names, controlled, strict=False))
        self.photo = picture(64, 96, batch=2)
        (self.faces,) = comfy.call("RestorationFacePoints", self.photo, FACES)
        self.training = self.train_once()

    def rows(self) -> dict[str, Row]:
        """Return a row for every node that has plain inputs."""
        model, vae = self.resshift
        sampler = {"model": model, "positive": self.prepared["positive"]}
        sampler["latent_image"] = self.prepared["latent"]
        cut = {"tile": 64, "tile_overlap": 16}
        pulled = {"guidance_scale": 0.0005, "guidance_clamp": True}
        latents = {"model": self.sd, "target": self.condition, "scale": 0.01}
        rgb = {"space": "rgb", "target": None, "image": picture(64, 128, batch=2)}
        rgb["vae"] = self.sd_vae
        return {
            "ResShiftLoader": Row(
                {"model_name": "own.safetensors"},
                {"model_name": BUNDLED_MODEL, "preset": "deblurring, 4 steps", "dtype": "bf16"},
            ),
            "ResShiftVAELoader": Row(
                {"vae_name": "one.safetensors"}, {"vae_name": "other.safetensors", "dtype": "bf16"}
            ),
            "ResShiftModelSampling": Row({"model": model}, {"predict_type": "epsilon"}),
            "ResidualShiftSampler": Row(sampler, {"batch_noise": SAME_FOR_ALL, "steps": 2}),
            "ResidualShiftSamplerSelect": Row({}, {"batch_noise": SAME_FOR_ALL}),
            "ResidualShiftScheduler": Row(
                {"model": model}, {"steps": 3}, {"spacing": {"steps": 3}}
            ),
            "ResShiftRestoreImage": Row(
                {"model": model, "vae": vae, "image": self.pictures},
                {
                    "steps": 2,
                    "color_fix": "adain",
                    "batch_noise": SAME_FOR_ALL,
                    "tiling": "official chop",
                    "tile": 64,
                    "tile_overlap": 32,
                    "tile_choice": "auto (by memory)",
                    "frames_at_once": 2,
                },
                {
                    "tiling": cut,
                    "tile": {"tile_overlap": 16},
                    "tile_overlap": cut,
                    "tile_choice": cut,
                    "keep_grey": {"image": self.pictures.mean(-1, keepdim=True)},
                    "steadiness": {"image": self.panned},
                },
            ),
            "LAControlNetLoader": Row(
                {"control_net_name": "v2.pth"}, {"control_net_name": "other.pth"}
            ),
            "SwinIRLoader": Row({"model_name": "one.pth"}, {"model_name": "other.pth"}),
            "DiffBIRRemoveDegradation": Row(
                {"upscale_model": self.esrgan, "image": picture(64, 96), "rules": "none"},
                {"scale": 6.0, "rules": "auto", "tile": 64, "tile_overlap": 48},
                {
                    "tile": {"tile_overlap": 16},
                    "tile_overlap": {"tile": 64, "tile_overlap": 16},
                    "resize": {"rules": "BSRNet", "scale": 6.0},
                },
            ),
            "DiffBIRConditioning": Row(
                {
                    **self.texts,
                    "control_net": self.control,
                    "vae": self.sd_vae,
                    "image": picture(64, 64, batch=2),
                },
                {"noise_aug": 300, "end_percent": 0.5, "batch_noise": SAME_FOR_ALL},
                {name: {"noise_aug": 300} for name in ("zero_snr", "seed", "batch_noise")},
            ),
            "DiffBIRLatentGuidance": Row(
                latents,
                {"fidelity": 0.5, "end_percent": 0.5, "start_percent": 0.5},
                {
                    "start_percent": {"fidelity": 0.5},
                    "end_percent": {"fidelity": 0.5},
                    "space": {**rgb, "space": "latent"},
                    "weighting": rgb,
                    "repeat": {"scale": 0.0005},
                    "clamp": {"scale": 5.0},
                },
            ),
            "DiffBIRSampler": Row(
                {"model": self.sd, **self.controlled, "steps": 2},
                {
                    "preset": "v1",
                    "steps": 3,
                    "cfg": 2.0,
                    "guidance_scale": 0.01,
                    "fidelity": 0.5,
                    "guidance_start": 0.5,
                    "guidance_end": 0.5,
                    "sampler": "euler",
                    "scheduler": "karras",
                    "batch_noise": SAME_FOR_ALL,
                },
                {
                    "scheduler": {"sampler": "euler", "steps": 4},
                    "guidance_start": {"fidelity": 0.5},
                    "guidance_end": {"fidelity": 0.5},
                    "guidance_repeat": pulled,
                    "guidance_clamp": {"guidance_scale": 5.0},
                },
            ),
            "DiffBIRSpacedScheduler": Row({"model": self.sd}),
            "DiffBIRRestoreImage": Row(
                {
                    "model": self.sd,
                    "clip": self.clip,
                    "vae": self.sd_vae,
                    "control_net": self.control,
                    "upscale_model": self.esrgan,
                    "image": picture(16, 32, batch=2),
                    "steps": 2,
                    "rules": "none",
                },
                {
                    "preset": "v1",
                    "scale": 5.0,
                    "prompt": "a boat",
                    "negative_prompt": "rain",
                    "steps": 3,
                    "cfg": 2.0,
                    "fidelity": 0.5,
                    "guidance_scale": 0.01,
                    "color_fix": "none",
                    "sampler": "euler",
                    "scheduler": "karras",
                    "noise_aug": 300,
                    "rules": "SwinIR",
                    "batch_noise": SAME_FOR_ALL,
                    "tiling": "off",
                    "tile": 64,
                    "tile_overlap": 48,
                    "tile_choice": "auto (by memory)",
                    "frames_at_once": 2,
                },
                {
                    "scheduler": {"sampler": "euler", "steps": 4},
                    "tiling": cut,
                    "tile": {"tile_overlap": 16},
                    "tile_overlap": cut,
                    "tile_choice": cut,
                    "keep_grey": {"image": picture(16, 32).mean(-1, keepdim=True)},
                    "steadiness": {"image": self.panned},
                    "long_prompt": {"prompt": "a boat " * 60},
                },
            ),
            "HYPIRLoader": Row(
                {"model": self.sd_layout, "lora_name": "one.pth"}, {"lora_name": "other.pth"}
            ),
            "HYPIRSingleStep": Row({"model": self.hypir}),
            "HYPIRRestoreImage": Row(
                {
                    "model": self.hypir,
                    "clip": self.clip,
                    "vae": self.sd_vae,
                    "image": picture(16, 16),
                },
                {
                    "scale": 5.0,
                    "color_fix": "adain",
                    "tile": 384,
                    "tile_overlap": 128,
                    "tile_choice": "auto (by memory)",
                    "frames_at_once": 2,
                },
                {
                    "tiling": {"tile": 384},
                    "tile": {"tile_overlap": 128},
                    "tile_overlap": {"tile": 384},
                    "tile_choice": {"tile": 384},
                    "frames_at_once": {"image": picture(16, 16, batch=2)},
                    "keep_grey": {"image": picture(16, 16).mean(-1, keepdim=True)},
                },
            ),
            "RestorationTiles": Row(
                {"model": self.sd, "tile": 64, "tile_overlap": 16},
                {"tile": 128, "tile_overlap": 48, "tile_choice": "auto (by memory)"},
            ),
            "RestorationMovingNoise": Row({"model": model, "frames": self.panned}),
            "RestorationSteadyFrames": Row(
                {"model": model, "frames": self.panned},
                {"strength": 1.0, "start_percent": 0.9, "end_percent": 0.1},
            ),
            "RestorationColorFix": Row(
                {"image": self.pictures, "reference": picture(16, 24, seed=3)}
            ),
            "RestorationFinish": Row(
                {"image": self.pictures, "reference": picture(16, 24, seed=3)},
                {"width": 20, "height": 12, "output_width": 30, "output_height": 8},
            ),
            "RestorationMetrics": Row({"image": self.pictures, "reference": self.pictures.flip(1)}),
            "RestorationFlicker": Row({"image": self.pictures}),
            "RestorationFidelitySweep": Row(
                {"images": {"image0": self.pictures, "image1": self.pictures.flip(1)}},
                {"labels": "one\nother", "columns": 1},
                {"label_height": {"labels": "one\nother"}},
            ),
            "RestorationDegrade": Row(
                {"image": picture(32, 32, batch=8)},
                {
                    f"{name}_{end}": value
                    for name, ends in RANGE_ENDS.items()
                    for end, value in zip(("min", "max"), ends, strict=True)
                },
            ),
            "RestorationDamage": Row({"image": picture(32, 32, batch=8)}),
            "RestorationScratchMask": Row({"image": scratched()}),
            "RestorationAutoLevels": Row({"image": 0.5 * self.pictures + 0.2}),
            "RestorationPairCrops": Row(
                {"folder": "every clean", "count": 2, "crop": 32},
                {"folder": "every other", "degraded_folder": "every low", "crop": 16, "scale": 2},
            ),
            "ResShiftValidation": Row(
                {"model": model, "vae": vae, "clean": self.enlarged, "degraded": self.pictures},
                {"every": 1},
            ),
            "RestorationTrainModel": Row(
                {**self.training, "steps": 2, "learning_rate": 0.01},
                {
                    "steps": 3,
                    "grad_accumulation_steps": 2,
                    "resume_from": "every_00001_.safetensors",
                },
            ),
            **self.face_rows(),
            "RestorationVideo": self.video_row(),
        }

    def diffbir(self) -> dict[str, Any]:
        """Return the inputs that make a node of several models DiffBIR."""
        return {
            "model": self.sd,
            "clip": self.clip,
            "vae": self.sd_vae,
            "control_net": self.control,
            "upscale_model": self.esrgan,
            "steps": 2,
        }

    def train_once(self) -> dict[str, Any]:
        """Leave the checkpoint `every_00001_` of a training and return the inputs it had."""
        model, vae = self.resshift
        pairs = self.comfy.call("ResShiftTrainingPairs", model, vae, self.enlarged, self.pictures)
        given = {"model": model, "latents": pairs[0], "positive": pairs[1]}
        plain = (1, 0.1, 1, 7, "fp32", 1, "every", "none: begin with the model")
        self.comfy.call("RestorationTrainModel", *given.values(), *plain)
        return given

    def face_rows(self) -> dict[str, Row]:
        """Return the rows of the nodes for faces in photographs."""
        taken = {"image": self.photo, "faces": self.faces}
        second = {"choice": "largest", "least_eye_distance": 25.0}
        by_index = {"index": {"choice": "by index"}}
        with Image.open(CREW) as opened:
            group = {"image": torch.from_numpy(np.asarray(opened) / np.float32(255))[None]}
        unsure = [[{**face, "score": 0.5} for face in frame] for frame in self.faces["frames"]]
        aligned, places = self.comfy.call(
            "RestorationFaceAlign", *taken.values(), "all", 0, 5.0, 0.0, 64
        )
        return {
            "RestorationFaceDetect": Row(group, {"smallest": 100, "least_score": 0.99}),
            "RestorationFacePoints": Row({"image": self.photo}, {"points": FACES}),
            "RestorationFaceAlign": Row(
                {**taken, "size": 64},
                second,
                {**by_index, "least_score": {"faces": {**self.faces, "frames": unsure}}},
            ),
            "RestorationFacePaste": Row(
                {"background": self.photo, "places": places, "faces": 1 - aligned}
            ),
            "RestorationFacePhoto": Row(
                {**taken, **dict(zip(("model", "vae"), self.resshift, strict=True)), "size": 64},
                {**second, "steps": 2, "batch_noise": SAME_FOR_ALL, "size": 128, "preset": "v1"},
                {**by_index, "preset": self.diffbir()},
            ),
        }

    def video_row(self) -> Row:
        """Return the row of the node for videos."""
        model, vae = self.resshift
        clip = video_of(picture(8, 12, batch=2))
        large = {"video": video_of(picture(40, 40, batch=1))}
        of_diffbir = {**self.diffbir(), "scale": 1.0, "video": video_of(picture(16, 16, batch=1))}
        own = ("preset", "scale", "prompt", "cfg", "fidelity")
        return Row(
            {"video": clip, "model": model, "vae": vae, "steps": 2},
            {
                "steps": 3,
                "color_fix": "luminance",
                "crf": 40.0,
                "batch_noise": SAME_FOR_ALL,
                "steadiness": 0.0,
                "preset": "v2.1",
                "scale": 2.0,
                "tile": 128,
                "tile_overlap": 32,
                "tile_choice": "auto (by memory)",
                "frames_at_once": 2,
            },
            {
                **dict.fromkeys(own, of_diffbir),
                "steadiness": {"video": video_of(self.panned)},
                "tiling": {**large, "tile": 64},
                "tile": {**large, "tile": 64, "tile_overlap": 16},
                "tile_overlap": {**large, "tile": 64, "tile_overlap": 16},
                "tile_choice": {**large, "tile": 64},
                "keep_grey": {"video": video_of(picture(8, 12).mean(-1, keepdim=True))},
            },
        )

    def outcome(self, node_id: str, inputs: dict[str, Any]) -> list[Any]:
        """Return what a node made, as tensors and values that can be compared, or its refusal."""
        try:
            made = self.comfy.call(node_id, **inputs)
        except ValueError as refusal:
            return [str(refusal)]
        if node_id == "ResShiftValidation":
            made = self._watched(*made)
        return list(self._flat(made))

    def _watched(self, model: Any, validation: Any) -> dict[int, Tensor]:
        """Return what a validation restored while its MODEL was trained, by steps."""
        torch.manual_seed(0)  # ComfyUI's node draws adapters from torch's generator
        graph = Graph(self.comfy)
        pairs = graph(
            "ResShiftTrainingPairs",
            model=graph.give("MODEL", model),
            vae=graph.give("VAE", self.resshift[1]),
            clean=graph.give("IMAGE", self.enlarged),
            degraded=graph.give("IMAGE", self.pictures),
        )
        lora = train_lora(graph, graph.give("MODEL", model), pairs, steps=2)
        graph.run(losses=output(lora, 1))
        return validation.latents

    def _flat(self, made: Any) -> Iterator[Any]:
        if isinstance(made, dict):
            made = list(made.values())
        if isinstance(made, (list, tuple)):
            for part in made:
                yield from self._flat(part)
        elif isinstance(made, np.ndarray):
            yield torch.from_numpy(made)
        elif isinstance(made, InputImpl.VideoFromFile):
            yield made.get_components().images
        elif isinstance(made, comfy.samplers.KSAMPLER):
            one_step = hasattr(made, "strength")
            yield self._sampled(self.resshift[0], made, steps=1 if one_step else 3)
        elif hasattr(made, "generate_noise"):
            yield made.generate_noise(self.prepared["latent"])
        elif hasattr(made, "model_sampling") or hasattr(made, "get_model_object"):
            yield from self._of_model(made)
        elif hasattr(made, "cond_hint_original"):
            control = made.control_model.state_dict()
            yield from (made.strength, *made.timestep_percent_range, made.cond_hint_original)
            yield sum(tensor.double().abs().sum() for tensor in control.values())
        elif hasattr(made, "first_stage_model"):
            yield from (made.vae_dtype, made.encode(picture(16, 16)))
        elif hasattr(made, "input_channels"):  # an UPSCALE_MODEL
            yield made.model(picture(16, 16).movedim(-1, 1))
        else:
            yield made

    def _of_model(self, model: Any) -> Iterator[Any]:
        """Yield a MODEL's dtype, and what it makes in three steps."""
        yield model.model.get_dtype_inference()
        if hasattr(model.model, "record"):
            yield model.model.record
            if model.model.record.scale != FOLDED_RECORD.scale:
                return  # its pictures are of another size
            yield self._sampled(model, comfy.samplers.sampler_object("euler"))
        else:
            yield self._sampled(model, comfy.samplers.sampler_object("euler"))

    def _sampled(self, model: Any, sampler: Any, steps: int = 3) -> Tensor:
        """Return the latent of a short run on a MODEL of either kind."""
        of_resshift = hasattr(model.model, "record")
        conds = self.prepared if of_resshift else self.texts
        latent = self.prepared["latent"] if of_resshift else {"samples": torch.zeros(2, 4, 8, 16)}
        sampling = model.get_model_object("model_sampling")
        with torch.inference_mode():
            return comfy.sample.sample_custom(
                model,
                torch.randn(latent["samples"].shape, generator=_seeded(2)),
                1.0,
                sampler,
                comfy.samplers.calculate_sigmas(sampling, "simple", steps),
                conds["positive"],
                conds["negative"],
                latent["samples"],
                disable_pbar=True,
                seed=4,
            )


def video_of(images: Tensor) -> Any:
    """Return a VIDEO of pictures, ten a second."""
    return InputImpl.VideoFromComponents(Types.VideoComponents(images, frame_rate=Fraction(10)))


def scratched() -> Tensor:
    """Return an even picture with a light, a wide, a faint and a dark scratch and a speck."""
    image = torch.full((1, 64, 64, 3), 0.4)
    image[:, :, 16] = 0.9
    image[:, :, 32:37] = 0.9
    image[:, :, 8] = 0.58
    image[:, :, 48] = 0.0
    image[:, 20, 56] = 1.0
    return image


def plain_inputs(schema: Any) -> dict[str, Any]:
    """Return the inputs of a schema that hold a number, a text or a choice."""
    return {given.id: given for given in schema.inputs if given.get_io_type() in PLAIN}


def defaults_of(schema: Any) -> dict[str, Any]:
    """Return the values of plain inputs as a fresh node has them."""
    return {
        name: given.options[0] if given.default is None else given.default
        for name, given in plain_inputs(schema).items()
    }


def second_value(given: Any, first: Any) -> Any:
    """Return another value of a plain input than the one it has."""
    kind = given.get_io_type()
    if kind == "BOOLEAN":
        return not first
    if kind == "COMBO":
        return next(choice for choice in given.options if choice != first)
    if kind == "STRING":
        return f"{first} and more"
    larger = 2 * first + 1
    value = larger if larger <= given.max else first / 2
    return int(value) if kind == "INT" else value


def differ(one: list[Any], other: list[Any], tolerance: float = 0.0) -> bool:
    """Return whether two outcomes are not the same, but for a tolerance."""
    if len(one) != len(other):
        return True
    return any(_parts_differ(a, b, tolerance) for a, b in zip(one, other, strict=True))


def _parts_differ(one: Any, other: Any, tolerance: float) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is not type(other) or one != other
    if one.shape != other.shape or one.dtype != other.dtype:
        return True
    return bool((one.double() - other.double()).abs().max() > tolerance)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
