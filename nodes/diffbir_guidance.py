"""Nodes that patch a MODEL with DiffBIR's guidance."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..pipelines.diffbir_sampling import patch_dynamic_cfg
from ..pipelines.latent_guidance import (
    GUIDANCE_SPACES,
    GUIDANCE_WEIGHTINGS,
    GuidanceSpace,
    GuidanceWeighting,
    LatentGuidance,
    patch_latent_guidance,
)
from ..samplers.guidance import GUIDANCE_VERSIONS, GuidanceVersion
from .messages import names_its_node
from .widgets import fidelity_input, guidance_scale_input, percent_input, repeat_input

CATEGORY = "restoration/DiffBIR"


class DiffBIRLatentGuidance(io.ComfyNode):
    """Pulls a MODEL's predictions to a target."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="DiffBIRLatentGuidance",
            display_name="Latent Guidance (DiffBIR)",
            category=CATEGORY,
            description=(
                "Keeps the result close to a target, such as the result of stage 1: in each step"
                " the model's prediction is pulled to it. Works with any model and sampler."
            ),
            search_aliases=[
                "diffbir",
                "restoration guidance",
                "fidelity",
                "keep close to image",
                "faithful",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to guide; of any kind."),
                guidance_scale_input("scale", 0.5),
                fidelity_input(),
                io.Combo.Input(
                    "version",
                    options=list(GUIDANCE_VERSIONS),
                    default=GUIDANCE_VERSIONS[0],
                    advanced=True,
                    tooltip="The version of DiffBIR whose rule the scale follows.",
                ),
                percent_input("start_percent", 0.0, "begins"),
                percent_input("end_percent", 1.0, "ends"),
                io.Combo.Input(
                    "space",
                    options=list(GUIDANCE_SPACES),
                    default=GUIDANCE_SPACES[0],
                    advanced=True,
                    tooltip=(
                        "What the scale compares: latents, which costs nothing, or decoded"
                        " pictures, which runs the VAE forth and back in each step."
                    ),
                ),
                io.Combo.Input(
                    "weighting",
                    options=list(GUIDANCE_WEIGHTINGS),
                    default=GUIDANCE_WEIGHTINGS[0],
                    advanced=True,
                    tooltip=(
                        "'edges' leaves textured regions of the target to the model and holds flat"
                        " ones; only in space 'rgb'."
                    ),
                ),
                repeat_input("repeat"),
                io.Boolean.Input(
                    "clamp",
                    default=True,
                    advanced=True,
                    tooltip=(
                        "Lets no pull go beyond the target. Off is DiffBIR's own rule, which"
                        " overshoots at early steps and suits only its spaced sampler (ddpm)."
                    ),
                ),
                io.Latent.Input(
                    "target",
                    optional=True,
                    tooltip="What to stay close to, encoded with the model's VAE.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The same as an image, in place of 'target'; needs 'vae'.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="The model's VAE, for 'image'."),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        model: Any,
        scale: float,
        fidelity: float,
        version: GuidanceVersion,
        start_percent: float,
        end_percent: float,
        space: GuidanceSpace,
        weighting: GuidanceWeighting,
        repeat: int,
        clamp: bool,
        target: dict[str, Any] | None = None,
        image: Tensor | None = None,
        vae: Any = None,
    ) -> io.NodeOutput:
        """Patch a clone of the model."""
        guidance = LatentGuidance(
            scale, fidelity, version, start_percent, end_percent, space, weighting, repeat, clamp
        )
        aims = [aim for aim in (target, image) if aim is not None]
        if len(aims) != 1:
            raise ValueError(
                "connect either 'target' (a latent) or 'image' (with 'vae'), to say what to stay"
                " close to."
            )
        return io.NodeOutput(patch_latent_guidance(model, aims[0], guidance, vae=vae))


class DiffBIRDynamicCFG(io.ComfyNode):
    """Makes cfg grow during the run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="DiffBIRDynamicCFG",
            display_name="Dynamic CFG (DiffBIR)",
            category=CATEGORY,
            description=(
                "Lets cfg grow from about 1 at the start of the run to cfg + 1 at its end, as"
                " DiffBIR's rescaled guidance does. Nothing changes at cfg 1."
            ),
            search_aliases=["diffbir", "rescale cfg", "cfg schedule", "guidance scale"],
            inputs=[io.Model.Input("model", tooltip="The model to sample with cfg above 1.")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    @names_its_node
    def execute(cls, model: Any) -> io.NodeOutput:
        """Patch a clone of the model."""
        return io.NodeOutput(patch_dynamic_cfg(model))
