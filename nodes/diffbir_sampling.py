"""Nodes that run DiffBIR's second stage."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..pipelines.diffbir_conditioning import check_controlled
from ..pipelines.diffbir_presets import DIFFBIR_PRESETS
from ..pipelines.diffbir_sampling import (
    LEAST_SPACED_STEPS,
    preset_guidance,
    sample_diffbir,
    spaced_run_sigmas,
)
from ..pipelines.noise import BatchNoise, PictureSeeds
from .messages import names_its_node
from .widgets import (
    MAX_STEPS,
    batch_noise_input,
    cfg_input,
    diffbir_steps_input,
    fidelity_input,
    guidance_scale_input,
    percent_input,
    preset_input,
    repeat_input,
    sampler_input,
    scheduler_input,
    seed_input,
)

CATEGORY = "restoration/DiffBIR"


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
                diffbir_steps_input(),
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
                io.Image.Input(
                    "frames",
                    optional=True,
                    tooltip=(
                        "The frames of a video that are restored, all of them; for batch_noise"
                        " 'moving with the picture'."
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
        frames: Tensor | None = None,
    ) -> io.NodeOutput:
        """Sample."""
        check_controlled(positive)
        version = DIFFBIR_PRESETS[preset]
        guidance = preset_guidance(
            version,
            sampler,
            guidance_scale,
            fidelity,
            start_percent=guidance_start,
            end_percent=guidance_end,
            repeat=guidance_repeat,
            clamp=guidance_clamp,
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
                frames=frames,
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
