"""The official settings of DiffBIR's versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..samplers.guidance import GuidanceVersion

V2_NEGATIVE = "low quality, blurry, low-resolution, noisy, unsharp, weird textures"
# What `check_sd2` says of the base models.
DIFFBIR_BASES = (
    "DiffBIR works on Stable Diffusion 2.1. Load v2-1_512-ema-pruned (v1, v2) or"
    " sd2.1-base-zsnr-laionaes5 (v2.1) with Load Checkpoint."
)
QUALITY_POSITIVE = (
    "Cinematic, High Contrast, highly detailed, taken using a Canon EOS R camera, hyper detailed"
    " photo - realistic maximum detail, 32k, Color Grading, ultra HD, extreme meticulous"
    " detailing, skin pore detailing, hyper sharpness, perfect without deformations."
)
QUALITY_NEGATIVE = (
    "painting, oil painting, illustration, drawing, art, sketch, oil painting, cartoon, CG Style,"
    " 3D render, unreal engine, blurring, dirty, messy, worst quality, low quality, frames,"
    " watermark, signature, jpeg artifacts, deformed, lowres, over-smooth."
)


@dataclass(frozen=True)
class DiffBIRPreset:
    """What a version of DiffBIR samples with.

    Attributes:
        prediction: What its base model predicts, the noise or the velocity.
        zero_snr: Whether its noise schedule ends in noise alone.
        sampler: `spaced` or the name of ComfyUI's sampler that is the official one.
        steps: Network calls.
        cfg: Scale of classifier-free guidance; 1 leaves the negative prompt out.
        guidance_version: Whose rule a scale of latent guidance follows.
        positive: Prompt, to which a caption of the picture may be put in front.
        negative: Negative prompt.
    """

    prediction: Literal["eps", "v"]
    zero_snr: bool
    sampler: str
    steps: int
    cfg: float
    guidance_version: GuidanceVersion
    positive: str
    negative: str


# Source: the reference implementation's documented commands of each version.
DIFFBIR_PRESETS: dict[str, DiffBIRPreset] = {
    "v2": DiffBIRPreset("eps", False, "spaced", 50, 4.0, "v2", "", V2_NEGATIVE),
    "v2.1": DiffBIRPreset(
        "v", True, "dpmpp_3m_sde", 10, 8.0, "v2", QUALITY_POSITIVE, QUALITY_NEGATIVE
    ),
    "v1": DiffBIRPreset("eps", False, "spaced", 50, 1.0, "v1", "", ""),
}
