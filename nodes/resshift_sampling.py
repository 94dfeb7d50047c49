"""Nodes that prepare and run ResShift's chain."""

from __future__ import annotations

from typing import Any, Literal

from comfy_api.latest import io
from torch import Tensor

from ..pipelines.noise import BatchNoise, PictureSeeds
from ..pipelines.resshift_conditioning import prepare_resshift
from ..pipelines.resshift_sampling import (
    patch_schedule,
    residual_shift_sampler,
    residual_shift_sigmas,
    sample_resshift,
)
from ..samplers.chain import PREDICT_TYPES, PredictType
from ..samplers.schedules import SPACINGS, ResShiftSchedule, Spacing
from .messages import names_its_node
from .widgets import (
    MAX_STEPS,
    batch_noise_input,
    randomness_input,
    resshift_steps_input,
    seed_input,
    start_image_input,
)

CATEGORY = "restoration/ResShift"
KEEP: Literal["as loaded"] = "as loaded"


class ResShiftModelSampling(io.ComfyNode):
    """Gives a ResShift MODEL another schedule."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="ResShiftModelSampling",
            display_name="ResShift Model Sampling",
            category=CATEGORY,
            description=(
                "Replaces the noise schedule of a ResShift model: for own checkpoints, and to trade"
                " fidelity (small kappa) against detail (large kappa)."
            ),
            search_aliases=["resshift", "kappa", "eta", "schedule", "model sampling"],
            inputs=[
                io.Model.Input("model", tooltip="A ResShift model."),
                io.Int.Input(
                    "steps",
                    default=4,
                    min=2,
                    max=MAX_STEPS,
                    tooltip="Diffusion steps T of the training schedule, 4 or 15 for released models.",
                ),
                io.Float.Input(
                    "kappa",
                    default=2.0,
                    min=0.01,
                    max=20.0,
                    step=0.01,
                    tooltip="Noise scale. Larger invents more detail, smaller stays closer to the image.",
                ),
                io.Float.Input(
                    "min_noise_level",
                    default=0.2,
                    min=0.001,
                    max=0.98,
                    step=0.001,
                    tooltip="Noise level of the last step: 0.2 for 4 steps, 0.04 for 15.",
                ),
                io.Float.Input(
                    "etas_end",
                    default=0.99,
                    min=0.01,
                    max=0.999,
                    step=0.001,
                    tooltip="Square root of the last eta: how far the start is shifted to the image.",
                ),
                io.Float.Input(
                    "power",
                    default=0.3,
                    min=0.01,
                    max=10.0,
                    step=0.01,
                    tooltip="Growth of the schedule; larger keeps noise low for longer.",
                ),
                io.Combo.Input(
                    "predict_type",
                    options=[KEEP, *PREDICT_TYPES],
                    default=KEEP,
                    advanced=True,
                    tooltip="What the network predicts; for own checkpoints without a record.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        model: Any,
        steps: int,
        kappa: float,
        min_noise_level: float,
        etas_end: float,
        power: float,
        predict_type: PredictType | Literal["as loaded"],
    ) -> io.NodeOutput:
        """Patch a clone of the model."""
        schedule = ResShiftSchedule(steps, kappa, min_noise_level, etas_end, power)
        kind = None if predict_type == KEEP else predict_type
        return io.NodeOutput(patch_schedule(model, schedule, kind))


class ResShiftConditioning(io.ComfyNode):
    """Prepares an image for sampling with a ResShift MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="ResShiftConditioning",
            display_name="ResShift Conditioning",
            category=CATEGORY,
            description=(
                "Pads the image to a size the model takes, encodes it, and attaches it to the"
                " conditioning. Works with every sampler node; crop the decoded picture to width"
                " and height with Finish Restoration."
            ),
            search_aliases=["resshift", "image to conditioning", "low quality image"],
            inputs=[
                io.Model.Input("model", tooltip="The ResShift model that will sample."),
                io.Vae.Input("vae", tooltip="The VAE of this model, from Load ResShift VAE."),
                io.Image.Input("image", tooltip="The image to restore, at its own size."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "For inpainting models: 1 where pixels are missing. The hole is blanked"
                        " here, so the image may hold anything there."
                    ),
                ),
                start_image_input(),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="The same; ResShift needs no CFG, leave cfg at 1.",
                ),
                io.Latent.Output(tooltip="The encoded image, where sampling starts."),
                io.Int.Output(display_name="width", tooltip="Width of the result without padding."),
                io.Int.Output(
                    display_name="height", tooltip="Height of the result without padding."
                ),
            ],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        model: Any,
        vae: Any,
        image: Tensor,
        mask: Tensor | None = None,
        start_image: Tensor | None = None,
    ) -> io.NodeOutput:
        """Prepare the image."""
        made = prepare_resshift(model, vae, image, mask, start_image)
        return io.NodeOutput(made.positive, made.negative, made.latent, made.width, made.height)


class ResidualShiftSampler(io.ComfyNode):
    """Runs ResShift's reverse chain."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="ResidualShiftSampler",
            display_name="Residual Shift Sampler",
            category=CATEGORY,
            description="Restores the latent with the chain that ResShift was trained for.",
            search_aliases=["resshift sampler", "ksampler", "restore", "denoise"],
            inputs=[
                io.Model.Input("model", tooltip="A ResShift model."),
                io.Conditioning.Input("positive", tooltip="From ResShift Conditioning."),
                io.Latent.Input("latent_image", tooltip="From ResShift Conditioning."),
                seed_input(),
                resshift_steps_input(),
                randomness_input(),
                batch_noise_input(),
            ],
            outputs=[io.Latent.Output(tooltip="The restored latent, for VAE Decode.")],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        model: Any,
        positive: list,
        latent_image: dict,
        seed: int,
        steps: int,
        randomness: float,
        batch_noise: BatchNoise,
    ) -> io.NodeOutput:
        """Sample."""
        return io.NodeOutput(
            sample_resshift(
                model,
                positive,
                latent_image,
                seeds=PictureSeeds(seed, batch_noise),
                steps=steps,
                randomness=randomness,
            )
        )


class ResidualShiftSamplerSelect(io.ComfyNode):
    """Makes ResShift's chain a SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="ResidualShiftSamplerSelect",
            display_name="Residual Shift Sampler Select",
            category=CATEGORY,
            description="ResShift's chain for SamplerCustom and SamplerCustomAdvanced.",
            search_aliases=["resshift", "sampler select", "custom sampler"],
            inputs=[randomness_input(), batch_noise_input()],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    @names_its_node
    def execute(cls, randomness: float, batch_noise: BatchNoise) -> io.NodeOutput:
        """Make the sampler."""
        return io.NodeOutput(
            residual_shift_sampler(randomness, PictureSeeds(batch_noise=batch_noise))
        )


class ResidualShiftScheduler(io.ComfyNode):
    """Lists the sigmas of a ResShift run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="ResidualShiftScheduler",
            display_name="Residual Shift Scheduler",
            category=CATEGORY,
            description="The sigmas that a ResShift model was trained on, for SamplerCustom.",
            search_aliases=["resshift", "sigmas", "scheduler"],
            inputs=[
                io.Model.Input("model", tooltip="A ResShift model."),
                resshift_steps_input(),
                io.Combo.Input(
                    "spacing",
                    options=list(SPACINGS),
                    default=SPACINGS[0],
                    advanced=True,
                    tooltip=(
                        "With fewer steps than the model's: 'even' always starts from full noise,"
                        " 'official' drops steps as the reference implementation does."
                    ),
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    @names_its_node
    def execute(cls, model: Any, steps: int, spacing: Spacing) -> io.NodeOutput:
        """List the sigmas."""
        return io.NodeOutput(residual_shift_sigmas(model, steps, spacing))
