"""Nodes that measure and compare restored images."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..pipelines.flicker import measure_flicker
from ..pipelines.flow import FLOW_METHODS, FlowMethod
from ..pipelines.measure import (
    LUMA_RANGES,
    NO_PERCEPTUAL,
    PERCEPTUAL_SCORES,
    LumaRange,
    measure_images,
)
from ..pipelines.sweep import compare_pictures
from .messages import names_its_node

CATEGORY = "restoration/image"
MOST_IMAGES = 24


class RestorationMetrics(io.ComfyNode):
    """Measures images against a reference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationMetrics",
            display_name="Restoration Metrics",
            category=CATEGORY,
            description=(
                "Measures how far images are from their originals: PSNR and SSIM on luma and on"
                " RGB, GMSD, and by choice a perceptual score; and with NIQE how natural they look."
            ),
            search_aliases=["psnr", "ssim", "gmsd", "lpips", "niqe", "musiq", "quality", "measure"],
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="The restored images."),
                io.Image.Input(
                    "reference",
                    tooltip="The originals, of the same size; one serves a whole batch.",
                ),
                io.Int.Input(
                    "border",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip=(
                        "Pixels left out on each side. Papers on enlarging often leave out as many"
                        " as the scale."
                    ),
                ),
                io.Combo.Input(
                    "luma",
                    options=list(LUMA_RANGES),
                    default=LUMA_RANGES[0],
                    advanced=True,
                    tooltip=(
                        "BT.601 luma for Y. 'limited range' (16 to 235) is MATLAB's, which most"
                        " papers use; its PSNR is 1.3 dB higher than that of the full range."
                    ),
                ),
                io.Combo.Input(
                    "perceptual",
                    options=[NO_PERCEPTUAL, *PERCEPTUAL_SCORES],
                    default=NO_PERCEPTUAL,
                    advanced=True,
                    tooltip=(
                        "One more score, computed on the CPU by the package pyiqa if it is"
                        " installed (pip install pyiqa). pyiqa downloads the score's weights when"
                        " it first runs. Scores without reference look at 'image' alone."
                    ),
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="A row for each picture."),
                io.Float.Output(
                    display_name="psnr_y", tooltip="Mean PSNR of the luma in dB; inf if equal."
                ),
                io.Float.Output(display_name="ssim_y", tooltip="Mean SSIM of the luma."),
                io.Float.Output(
                    display_name="psnr_rgb", tooltip="Mean PSNR of the colours in dB; inf if equal."
                ),
                io.Float.Output(display_name="ssim_rgb", tooltip="Mean SSIM of the colours."),
                io.Float.Output(
                    display_name="gmsd",
                    tooltip="Mean gradient magnitude similarity deviation; 0 is equal.",
                ),
                io.Float.Output(
                    display_name="niqe",
                    tooltip="Mean NIQE of the images alone; less is more like a photograph.",
                ),
            ],
        )

    @classmethod
    @names_its_node
    def execute(
        cls, image: Tensor, reference: Tensor, border: int, luma: LumaRange, perceptual: str
    ) -> io.NodeOutput:
        """Measure the images."""
        measured = measure_images(image, reference, border, luma, perceptual)
        return io.NodeOutput(
            measured.report,
            measured.psnr_y,
            measured.ssim_y,
            measured.psnr_rgb,
            measured.ssim_rgb,
            measured.gmsd,
            measured.niqe,
            ui=ui.PreviewText(measured.report),
        )


class RestorationFidelitySweep(io.ComfyNode):
    """Puts results of several settings side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationFidelitySweep",
            display_name="Restoration Fidelity Sweep",
            category=CATEGORY,
            description=(
                "One picture of several results side by side with their labels, for comparing"
                " settings."
            ),
            search_aliases=["compare", "grid", "side by side", "contact sheet", "xy plot", "label"],
            inputs=[
                io.Autogrow.Input(
                    "images",
                    template=io.Autogrow.TemplatePrefix(
                        io.Image.Input("image", tooltip="A result."),
                        prefix="image",
                        min=1,
                        max=MOST_IMAGES,
                    ),
                    tooltip=(
                        "The results in the order of the grid; an input appears for each one more."
                        " They are resized to the first one's size."
                    ),
                ),
                io.String.Input(
                    "labels",
                    default="",
                    multiline=True,
                    tooltip="One line for each image, in Latin letters; empty leaves labels out.",
                ),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=MOST_IMAGES,
                    tooltip="Images in a row; 0 puts all into one row.",
                ),
                io.Int.Input(
                    "label_height",
                    default=32,
                    min=0,
                    max=512,
                    tooltip="Height of the labels in pixels, and so of their text; 0 leaves them out.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The grid; one for each picture of the batches.")],
        )

    @classmethod
    @names_its_node
    def execute(
        cls, images: dict[str, Tensor], labels: str, columns: int, label_height: int
    ) -> io.NodeOutput:
        """Draw the grid."""
        ordered = [images[name] for name in sorted(images, key=lambda name: (len(name), name))]
        return io.NodeOutput(compare_pictures(ordered, labels, columns, label_height))


class RestorationFlicker(io.ComfyNode):
    """Measures how much the frames of a clip flicker."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationFlicker",
            display_name="Restoration Flicker",
            category=CATEGORY,
            description=(
                "Measures how much restored frames of a clip flicker: what changes from frame to"
                " frame beyond the motion (warping error), beside that of the clip as it was."
            ),
            search_aliases=[
                "flicker",
                "warping error",
                "temporal consistency",
                "video",
                "boiling",
                "optical flow",
            ],
            is_output_node=True,
            inputs=[
                io.Image.Input(
                    "image", tooltip="The restored frames in their order, as one batch."
                ),
                io.Combo.Input(
                    "method",
                    options=list(FLOW_METHODS),
                    default=FLOW_METHODS[0],
                    advanced=True,
                    tooltip=(
                        "What finds the motion: the pack's own, or OpenCV's if it is installed (pip"
                        " install opencv-python-headless). It counts only without 'optical_flow'."
                    ),
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip=(
                        "The frames that were restored, as many, of any size. The motion is found"
                        " in them, and their own error is what 'ratio' is to; without them the"
                        " motion is found in 'image'."
                    ),
                ),
                io.Custom("OPTICAL_FLOW").Input(
                    "optical_flow",
                    optional=True,
                    tooltip=(
                        "A model that finds the motion better, from ComfyUI's Load Optical Flow"
                        " Model."
                    ),
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="A row for each pair of frames."),
                io.Float.Output(
                    display_name="warping_error",
                    tooltip="Mean squared difference along the motion; less is steadier.",
                ),
                io.Float.Output(
                    display_name="reference_error",
                    tooltip="That of the reference, enlarged; nan without one.",
                ),
                io.Float.Output(
                    display_name="ratio",
                    tooltip="The error over that of the reference: 1 flickers as much; nan without.",
                ),
                io.Float.Output(
                    display_name="trusted", tooltip="Mean share of the pixels that count."
                ),
            ],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        image: Tensor,
        method: FlowMethod,
        reference: Tensor | None = None,
        optical_flow: Any = None,
    ) -> io.NodeOutput:
        """Measure the frames."""
        measured = measure_flicker(image, reference, method, optical_flow)
        return io.NodeOutput(
            measured.report,
            measured.warping_error,
            measured.reference_error,
            measured.ratio,
            measured.trusted,
            ui=ui.PreviewText(measured.report),
        )
