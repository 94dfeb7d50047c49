"""Nodes that keep the frames of a clip from flickering."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..pipelines.clip_motion import MovingNoise
from ..pipelines.steady_frames import PreviousFrame, Steadiness, patch_steady_frames
from .messages import names_its_node
from .widgets import percent_input, seed_input

CATEGORY = "restoration/video"
# What keeps sharpness and leaves little flicker.
STRENGTH = 0.5


class RestorationMovingNoise(io.ComfyNode):
    """Makes a NOISE that moves with a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationMovingNoise",
            display_name="Restoration Moving Noise",
            category=CATEGORY,
            description=(
                "Start noise that moves with what the frames of a video show, for"
                " SamplerCustomAdvanced. Every frame's noise stays standard normal."
            ),
            search_aliases=["random noise", "warped noise", "video noise", "flicker", "temporal"],
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample."),
                io.Image.Input(
                    "frames",
                    tooltip="The frames that are restored, all of them and in their order.",
                ),
                seed_input(),
            ],
            outputs=[io.Noise.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    @names_its_node
    def execute(cls, model: Any, frames: Tensor, seed: int) -> io.NodeOutput:
        """Make the noise."""
        return io.NodeOutput(MovingNoise(model, frames, seed))


class RestorationSteadyFrames(io.ComfyNode):
    """Draws a MODEL's predictions for each frame to those for the frame before."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationSteadyFrames",
            display_name="Restoration Steady Frames",
            category=CATEGORY,
            description=(
                "Keeps the frames of a video from flickering: in each step the prediction for a"
                " frame is drawn to that for the frame before, moved along with the picture. Works"
                " with any model of pictures and any sampler."
            ),
            search_aliases=["flicker", "temporal consistency", "deflicker", "video", "stabilize"],
            inputs=[
                io.Model.Input("model", tooltip="The model to steady; of any kind."),
                io.Image.Input(
                    "frames",
                    tooltip=(
                        "The frames that are restored, in their order: what they show tells the"
                        " motion. At their own size or that of the result."
                    ),
                ),
                io.Float.Input(
                    "strength",
                    default=STRENGTH,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "Share of a prediction that the frame before replaces, where its motion is"
                        " certain. More flickers less and follows changes more slowly."
                    ),
                ),
                percent_input("start_percent", 0.0, "begins"),
                percent_input("end_percent", 1.0, "ends"),
                io.Latent.Input(
                    "previous_latent",
                    optional=True,
                    tooltip=(
                        "What was sampled of the frames before these: the last one is what the"
                        " first frame is drawn to. Needs 'previous_frame'."
                    ),
                ),
                io.Image.Input(
                    "previous_frame",
                    optional=True,
                    tooltip="The frames before these, as 'frames' are; the last one counts.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        model: Any,
        frames: Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
        previous_latent: dict[str, Any] | None = None,
        previous_frame: Tensor | None = None,
    ) -> io.NodeOutput:
        """Patch a clone of the model."""
        if (previous_latent is None) != (previous_frame is None):
            raise ValueError(
                "the frame before is told by its picture and by what was made of it. Connect both"
                " 'previous_latent' and 'previous_frame', or neither."
            )
        previous = None
        if previous_latent is not None and previous_frame is not None:
            previous = PreviousFrame(previous_frame, previous_latent)
        steadiness = Steadiness(strength, start_percent, end_percent)
        return io.NodeOutput(patch_steady_frames(model, frames, steadiness, previous))
