"""Nodes that run DiffBIR's second stage."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..pipelines.diffbir_conditioning import check_controlled
from ..pipelines.diffbir_presets import DIFFBIR_PRESETS
from ..pipelines.diffbir_sampling import (
    LEAST_SPACED_STEPS,
    OFFICIAL,
    SPACED,
    run_sampler,
    sample_diffbir,
    spaced_run_sigmas,
)
from ..pipelines.latent_guidance import LatentGuidance
from ..pipelines.noise import BatchNoise, PictureSeeds
from .diffbir_guidance import (
    CATEGORY,
    fidelity_input,
    guidance_scale_input,
    percent_input,
    repeat_input,
)
from .messages import names_its_node
from .resshift_sampling import MAX_STEPS, batch_noise_input, seed_input

MAX_CFG = 100.0


def preset_input() -> io.Combo.Input:
    """Return the input for the version of DiffBIR."""
    return io.Combo.Input(
        "preset",
        options=list(DIFFBIR_PRESETS),
        default=next(iter(DIFFBIR_PRESETS)),
        tooltip=(
            "The version the weights belong to. v1 and v2: v2-1_512-ema-pruned with v1_general,"
            " v1_face or v2. v2.1: sd2.1-base-zsnr-laionaes5 with DiffBIR_v2.1. The files do not"
            " tell, so a wrong choice gives noise or grey."
        ),
    )


def steps_input() -> io.Int.Input:
    """Return the input for the number of network calls."""
    return io.Int.Input(
        "steps",
        default=0,
        min=0,
        max=MAX_STEPS,
        tooltip=(
            "Network calls; 0 takes the preset's: 50, or 10 with v2.1. Fewer are faster, more add"
            " fine texture."
        ),
    )


def cfg_input() -> io.Float.Input:
    """Return the input for the scale of classifier-free guidance."""
    return io.Float.Input(
        "cfg",
        default=0.0,
        min=0.0,
        max=MAX_CFG,
        step=0.1,
        tooltip=(
            "How much the prompts count; 0 takes the preset's: 4, 8 with v2.1, 1 with v1. More is"
            " sharper and less faithful."
        ),
    )


def sampler_input() -> io.Combo.Input:
    """Return the input for the sampler."""
    return io.Combo.Input(
        "sampler",
        options=[OFFICIAL, SPACED, *comfy.samplers.SAMPLER_NAMES],
        default=OFFICIAL,
        tooltip=(
            "'official' is the preset's: spaced, or dpmpp_3m_sde with v2.1. The others are"
            " ComfyUI's."
        ),
    )


def scheduler_input() -> io.Combo.Input:
    """Return the input for the scheduler."""
    return io.Combo.Input(
        "scheduler",
        options=[OFFICIAL, *comfy.samplers.SCHEDULER_NAMES],
        default=OFFICIAL,
        tooltip="'official' takes DiffBIR's timesteps for the sampler.",
    )


class DiffBIRSampler(io.ComfyNode):
    """Runs DiffBIR's second stage."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="DiffBIRSampler",
            display_name="DiffBIR Sampler",
            category=CATEGORY,
            description=(
                "Restores with DiffBIR's official settings, sampler and latent guidance, or with"
                " any sampler of ComfyUI. For distances of decoded pictures, patch the model with"
                " Latent Guidance (DiffBIR)."
            ),
            search_aliases=[
                "diffbir",
                "ksampler",
                "spaced sampler",
                "latent guidance",
                "restore",
                "upscale",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="SD 2.1 of Load Checkpoint; the preset sets its prediction type.",
                ),
                io.Conditioning.Input("positive", tooltip="From DiffBIR Conditioning."),
                io.Conditioning.Input("negative", tooltip="From DiffBIR Conditioning."),
                io.Latent.Input("latent_image", tooltip="From DiffBIR Conditioning."),
                preset_input(),
                seed_input(),
                steps_input(),
                cfg_input(),
                guidance_scale_input("guidance_scale", 0.0),
                fidelity_input(),
                sampler_input(),
                scheduler_input(),
                percent_input("guidance_start", 0.0, "begins"),
                percent_input("guidance_end", 1.0, "ends"),
                repeat_input("guidance_repeat"),
                io.Boolean.Input(
                    "guidance_clamp",
                    default=False,
                    advanced=True,
                    tooltip=(
                        "Lets no pull of guidance_scale go beyond the target. Off is DiffBIR's own"
                        " rule with the spaced sampler; with others it is always on."
                    ),
                ),
                batch_noise_input(),
                io.Latent.Input(
                    "guidance_target",
                    optional=True,
                    tooltip=(
                        "What guidance_scale and fidelity pull to. Without it they take the image"
                        " that DiffBIR Conditioning encoded."
                    ),
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The restored latent, for VAE Decode.")],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        model: Any,
        positive: list,
        negative: list,
        latent_image: dict,
        preset: str,
        seed: int,
        steps: int,
        cfg: float,
        guidance_scale: float,
        fidelity: float,
        sampler: str,
        scheduler: str,
        guidance_start: float,
        guidance_end: float,
        guidance_repeat: int,
        guidance_clamp: bool,
        batch_noise: BatchNoise,
        guidance_target: dict | None = None,
    ) -> io.NodeOutput:
        """Sample."""
        check_controlled(positive)
        version = DIFFBIR_PRESETS[preset]
        guidance = LatentGuidance(
            guidance_scale,
            fidelity,
            version.guidance_version,
            guidance_start,
            guidance_end,
            repeat=guidance_repeat,
            clamp=guidance_clamp or run_sampler(version, sampler) != SPACED,
        )
        return io.NodeOutput(
            sample_diffbir(
                model,
                positive,
                negative,
                latent_image,
                preset=version,
                seeds=PictureSeeds(seed, batch_noise),
                steps=steps,
                cfg=cfg,
                sampler=sampler,
                scheduler=scheduler,
                guidance=guidance,
                guidance_target=guidance_target,
            )
        )


class DiffBIRSpacedScheduler(io.ComfyNode):
    """Lists the sigmas of DiffBIR's spaced sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="DiffBIRSpacedScheduler",
            display_name="Spaced Scheduler (DiffBIR)",
            category=CATEGORY,
            description=(
                "The timesteps of DiffBIR's spaced sampler, for SamplerCustom with the sampler"
                " ddpm. ComfyUI's 'normal' puts most of them between timesteps."
            ),
            search_aliases=["diffbir", "sigmas", "scheduler", "ddpm", "timesteps"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="SD 2.1; for v2.1 behind ModelSamplingDiscrete (v_prediction, zsnr).",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=LEAST_SPACED_STEPS,
                    max=MAX_STEPS,
                    tooltip="Network calls; 50 officially. Fewer are faster.",
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    @names_its_node
    def execute(cls, model: Any, steps: int) -> io.NodeOutput:
        """List the sigmas."""
        return io.NodeOutput(spaced_run_sigmas(model, steps))
