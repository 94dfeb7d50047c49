"""Graphs of ComfyUI's API around one node of this pack, on tiny pictures and stand-in weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pack.tests.support.bad_files import (
    GREY_NETWORK,
    INPAINTING,
    ORDINARY_CONTROL,
    OVERFLOWING,
    UNET_ALONE,
    VQ,
    X4,
)

Prompt = dict[str, dict[str, Any]]
Link = list[Any]

SCHEMAS = json.loads(
    (Path(__file__).parents[1] / "integration" / "schemas.json").read_text(encoding="utf-8")
)
# A file for a server's custom_nodes: what files cannot hold and no node of ComfyUI makes.
EMITTERS = '''"""Emits tensors that no file can hold."""

import torch


class TestPicture:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "emit"
    CATEGORY = "testing"

    @classmethod
    def INPUT_TYPES(cls):
        sizes = ("batch", "height", "width", "channels")
        return {"required": {"kind": ("STRING",), **{size: ("INT",) for size in sizes}}}

    def emit(self, kind, batch, height, width, channels):
        generator = torch.Generator().manual_seed(1)
        image = torch.rand(batch, height, width, channels, generator=generator)
        if kind == "beyond":
            image = image * 3 - 1
        elif kind != "noise":
            image[-1, 0, 0, 0] = float(kind)
        return (image,)


class TestMask:
    RETURN_TYPES = ("MASK",)
    FUNCTION = "emit"
    CATEGORY = "testing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {name: ("INT",) for name in ("batch", "height", "width")}
                | {"value": ("STRING",)}}

    def emit(self, batch, height, width, value):
        return (torch.full((batch, height, width), float(value)),)


class TestText:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "emit"
    CATEGORY = "testing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"values": ("INT",)}}

    def emit(self, values):
        generator = torch.Generator().manual_seed(2)
        return ([[torch.randn(1, 77, values, generator=generator), {}]],)


NODE_CLASS_MAPPINGS = {kind.__name__: kind for kind in (TestPicture, TestMask, TestText)}
'''


def node(class_type: str, /, **inputs: Any) -> dict[str, Any]:
    """Return a node of a prompt."""
    return {"class_type": class_type, "inputs": inputs}


def picture(
    kind: str = "noise", *, batch: int = 1, height: int = 8, width: int = 8, channels: int = 3
) -> dict[str, Any]:
    """Return a node that emits an IMAGE; `kind` is noise, beyond, or a number for one pixel."""
    sizes = {"batch": batch, "height": height, "width": width, "channels": channels}
    return node("TestPicture", kind=kind, **sizes)


def mask(value: str = "1", *, batch: int = 1, height: int = 8, width: int = 8) -> dict[str, Any]:
    """Return a node that emits a MASK of one value."""
    return node("TestMask", batch=batch, height=height, width=width, value=value)


def own(node_id: str, /, **inputs: Any) -> dict[str, Any]:
    """Return a node of this pack with the usual inputs but these."""
    return node(node_id, **{**usual(node_id), **inputs})


def usual(node_id: str) -> dict[str, Any]:
    """Return the values that the inputs of a node have when it is made; boxes have a socket."""
    inputs = SCHEMAS[node_id]["inputs"].items()
    return {
        name: default
        for name, (kind, default) in inputs
        if default is not None and kind != "BOUNDING_BOX"
    }


# Where the inputs of nodes come from; nodes that nothing needs are not run but stay cached.
SOURCES: Prompt = {
    "x4": own("ResShiftLoader", model_name=X4, dtype="fp32"),
    "x4_vae": own("ResShiftVAELoader", vae_name="bundled: pixel latent x4"),
    "fill": own("ResShiftLoader", model_name=INPAINTING, dtype="fp32"),
    "fill_vae": own("ResShiftVAELoader", vae_name=VQ),
    "overflowing": own("ResShiftLoader", model_name=OVERFLOWING, dtype="fp32"),
    "sd": node("CheckpointLoaderSimple", ckpt_name="v2-1_512-ema-pruned.safetensors"),
    "unet_alone": node("CheckpointLoaderSimple", ckpt_name=UNET_ALONE),
    "control": own("LAControlNetLoader", control_net_name="v2.pth"),
    "ordinary_control": node("ControlNetLoader", control_net_name=ORDINARY_CONTROL),
    "network": own("SwinIRLoader", model_name="BSRNet.pth"),
    "grey_network": node("UpscaleModelLoader", model_name=GREY_NETWORK),
    "hypir": own("HYPIRLoader", model=["sd", 0], lora_name="HYPIR_sd2.pth"),
    "picture": picture(),
    "other": picture(),
    "guide": picture(),
    "mask": mask(),
    "text": node("TestText", values=1024),
    "short_text": node("TestText", values=768),
    "lq": own("ResShiftConditioning", model=["x4", 0], vae=["x4_vae", 0], image=["picture", 0]),
    "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    "sd_latent": node("VAEEncode", pixels=["picture", 0], vae=["sd", 2]),
}
SOURCES["condition"] = own(
    "DiffBIRConditioning",
    positive=["text", 0],
    negative=["text", 0],
    control_net=["control", 0],
    vae=["sd", 2],
    image=["picture", 0],
)
_PAIRS: dict[str, Link] = {
    **{"model": ["x4", 0], "vae": ["x4_vae", 0]},
    **{"clean": ["other", 0], "degraded": ["picture", 0]},
}
FACE_PX = 64
SOURCES |= {
    "enlarged": picture(height=32, width=32),
    "pairs": own(
        "ResShiftTrainingPairs",
        **{"model": ["x4", 0], "vae": ["x4_vae", 0]},
        **{"clean": ["enlarged", 0], "degraded": ["picture", 0]},
    ),
    "photo": picture(height=FACE_PX, width=FACE_PX),
    "points": own(
        "RestorationFacePoints", image=["photo", 0], points="20 24 40 24 30 36 22 46 38 46"
    ),
    "places": own("RestorationFaceAlign", image=["photo", 0], faces=["points", 0], size=64),
    "no_points": own("RestorationFacePoints", image=["photo", 0]),
    "no_places": own("RestorationFaceAlign", image=["photo", 0], faces=["no_points", 0], size=64),
}
SOURCES["video"] = node("CreateVideo", images=["picture", 0], fps=10.0)
LINKS: dict[str, dict[str, Link]] = {
    "RestorationVideo": {"video": ["video", 0], "model": ["x4", 0], "vae": ["x4_vae", 0]},
    "ResShiftModelSampling": {"model": ["x4", 0]},
    "ResShiftConditioning": {"model": ["x4", 0], "vae": ["x4_vae", 0], "image": ["picture", 0]},
    "ResidualShiftSampler": {"model": ["x4", 0], "positive": ["lq", 0], "latent_image": ["lq", 2]},
    "ResidualShiftScheduler": {"model": ["x4", 0]},
    "ResShiftRestoreImage": {"model": ["x4", 0], "vae": ["x4_vae", 0], "image": ["picture", 0]},
    "DiffBIRRemoveDegradation": {"upscale_model": ["network", 0], "image": ["picture", 0]},
    "DiffBIRConditioning": SOURCES["condition"]["inputs"],
    "DiffBIRLatentGuidance": {"model": ["sd", 0], "image": ["guide", 0], "vae": ["sd", 2]},
    "DiffBIRDynamicCFG": {"model": ["sd", 0]},
    "DiffBIRSampler": {
        "model": ["sd", 0],
        "positive": ["condition", 0],
        "negative": ["condition", 1],
        "latent_image": ["condition", 2],
    },
    "DiffBIRSpacedScheduler": {"model": ["sd", 0]},
    "DiffBIRRestoreImage": {
        "model": ["sd", 0],
        "clip": ["sd", 1],
        "vae": ["sd", 2],
        "control_net": ["control", 0],
        "upscale_model": ["network", 0],
        "image": ["picture", 0],
    },
    "HYPIRLoader": {"model": ["sd", 0]},
    "HYPIRSingleStep": {"model": ["hypir", 0]},
    "HYPIRRestoreImage": {
        "model": ["hypir", 0],
        "clip": ["sd", 1],
        "vae": ["sd", 2],
        "image": ["picture", 0],
    },
    "RestorationTiles": {"model": ["sd", 0]},
    "RestorationMovingNoise": {"model": ["x4", 0], "frames": ["picture", 0]},
    "RestorationSteadyFrames": {"model": ["x4", 0], "frames": ["picture", 0]},
    "RestorationColorFix": {"image": ["picture", 0], "reference": ["other", 0]},
    "RestorationFinish": {"image": ["picture", 0]},
    "RestorationMetrics": {"image": ["picture", 0], "reference": ["other", 0]},
    "RestorationFlicker": {"image": ["picture", 0]},
    "RestorationFidelitySweep": {"images.image0": ["picture", 0]},
    "RestorationDegrade": {"image": ["picture", 0]},
    "RestorationDamage": {"image": ["picture", 0]},
    "RestorationAutoLevels": {"image": ["picture", 0]},
    "RestorationScratchMask": {"image": ["picture", 0]},
    "ResShiftTrainingPairs": _PAIRS,
    "ResShiftValidation": _PAIRS,
    "RestorationTrainModel": {
        "model": ["x4", 0],
        "latents": ["pairs", 0],
        "positive": ["pairs", 1],
    },
    "RestorationFaceDetect": {"image": ["photo", 0]},
    "RestorationFacePoints": {"image": ["photo", 0]},
    "RestorationFaceAlign": {"image": ["photo", 0], "faces": ["points", 0]},
    "RestorationFacePaste": {
        "background": ["photo", 0],
        "places": ["places", 1],
        "faces": ["places", 0],
    },
    "RestorationFacePhoto": {
        "image": ["photo", 0],
        "model": ["x4", 0],
        "vae": ["x4_vae", 0],
        "faces": ["points", 0],
    },
}
# Fewer steps, and sizes that stay small.
QUICK: dict[str, dict[str, Any]] = {
    "ResidualShiftSampler": {"steps": 1},
    "ResShiftRestoreImage": {"steps": 1},
    "RestorationVideo": {"steps": 1, "scale": 1.0},
    "DiffBIRSampler": {"steps": 2},
    "DiffBIRRestoreImage": {"steps": 2, "scale": 1.0, "rules": "none"},
    "DiffBIRRemoveDegradation": {"rules": "none"},
    "HYPIRLoader": {"lora_name": "HYPIR_sd2.pth"},
    "HYPIRRestoreImage": {"scale": 1.0},
    "RestorationDegrade": {"scale": 1},
    "RestorationTrainModel": {"steps": 1, "training_dtype": "fp32"},
    "DiffBIRLatentGuidance": {"fidelity": 0.5},
}


def graph(node_id: str, sources: Prompt | None = None, /, **inputs: Any) -> Prompt:
    """Return a prompt that runs a node of this pack, its result saved or shown by `out`.

    Args:
        node_id: The node; in the prompt it is called `node`.
        sources: Nodes that replace those of `SOURCES` of the same name.
        inputs: Inputs that replace the usual ones.
    """
    values = {**usual(node_id), **LINKS.get(node_id, {}), **QUICK.get(node_id, {}), **inputs}
    prompt = {**SOURCES, **(sources or {}), "node": node(node_id, **values)}
    made = SCHEMAS[node_id]["outputs"][0]
    if node_id == "ResShiftConditioning":
        sampler = {"positive": ["node", 0], "latent_image": ["node", 2], "model": values["model"]}
        prompt["sampler"] = graph("ResidualShiftSampler", **sampler)["node"]
        return _decoded(prompt, ["sampler", 0], values["vae"])
    if node_id == "DiffBIRConditioning":
        sampler = {"positive": ["node", 0], "negative": ["node", 1], "latent_image": ["node", 2]}
        prompt["sampler"] = graph("DiffBIRSampler", **sampler)["node"]
        return _decoded(prompt, ["sampler", 0], ["sd", 2])
    if made == "LATENT":
        vae = "x4_vae" if node_id == "ResidualShiftSampler" else "sd"
        return _decoded(prompt, ["node", 0], [vae, 2 if vae == "sd" else 0])
    if made == "NOISE":
        return _with_noise(prompt)
    if made == "MODEL" and node_id != "ResShiftLoader":
        return _sampled(prompt, values["model"])
    if made == "IMAGE":
        return {**prompt, "out": node("SaveImage", images=["node", 0], filename_prefix="row")}
    return {**prompt, "out": node("PreviewAny", source=["node", 0])}


def _with_noise(prompt: Prompt) -> Prompt:
    """Add ComfyUI's SamplerCustomAdvanced on the NOISE that the node made."""
    prompt["guider"] = node("BasicGuider", model=["x4", 0], conditioning=["lq", 0])
    prompt["chain"] = node("KSamplerSelect", sampler_name="euler")
    prompt["sigmas"] = own("ResidualShiftScheduler", model=["x4", 0])
    prompt["sampler"] = node(
        "SamplerCustomAdvanced",
        noise=["node", 0],
        guider=["guider", 0],
        sampler=["chain", 0],
        sigmas=["sigmas", 0],
        latent_image=["lq", 2],
    )
    return _decoded(prompt, ["sampler", 0], ["x4_vae", 0])


def _sampled(prompt: Prompt, model: Link) -> Prompt:
    """Add ComfyUI's KSampler on the MODEL that the node patched."""
    of_resshift = model[0] == "x4"
    start = "lq" if of_resshift else "condition"
    prompt["sampler"] = node(
        "KSampler",
        model=["node", 0],
        positive=[start, 0],
        negative=[start, 1],
        latent_image=[start, 2],
        seed=0,
        steps=2,
        cfg=1.0 if of_resshift else 2.0,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )
    return _decoded(prompt, ["sampler", 0], ["x4_vae", 0] if of_resshift else ["sd", 2])


def _decoded(prompt: Prompt, latent: Link, vae: Link) -> Prompt:
    prompt["decoded"] = node("VAEDecode", samples=latent, vae=vae)
    prompt["out"] = node("SaveImage", images=["decoded", 0], filename_prefix="row")
    return prompt
