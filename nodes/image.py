"""Nodes that finish restored images."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..images.color import COLOR_FIXES, ColorFix
from ..pipelines.finish import correct_color, finish_restoration
from .messages import names_its_node

CATEGORY = "restoration/image"
MAX_SIDE = 16384


def side_input(name: str, tooltip: str) -> io.Int.Input:
    """Return an input for a side in pixels, 0 meaning that nothing is asked."""
    return io.Int.Input(name, default=0, min=0, max=MAX_SIDE, tooltip=tooltip)


class RestorationColorFix(io.ComfyNode):
    """Gives an image the colours of another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationColorFix",
            display_name="Restoration Color Fix",
            category=CATEGORY,
            description="Corrects colours that a restoration has shifted.",
            search_aliases=["color match", "colour fix", "wavelet", "adain"],
            inputs=[
                io.Image.Input("image", tooltip="The restored image."),
                io.Image.Input(
                    "reference", tooltip="An image of the same size with the right colours."
                ),
                io.Combo.Input(
                    "method",
                    options=list(COLOR_FIXES),
                    default="wavelet",
                    tooltip=(
                        "'wavelet' takes the coarse colours of the reference, 'adain' mean and"
                        " spread of each channel, 'luminance' all colour and keeps the brightness."
                    ),
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    @names_its_node
    def execute(cls, image: Tensor, reference: Tensor, method: ColorFix) -> io.NodeOutput:
        """Correct the colours."""
        return io.NodeOutput(correct_color(image, reference, method))


class RestorationFinish(io.ComfyNode):
    """Crops, corrects colours, puts known pixels back and resizes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationFinish",
            display_name="Finish Restoration",
            category=CATEGORY,
            description=(
                "The steps after VAE Decode: crop the padding away, correct colours, put known"
                " pixels back, resize."
            ),
            search_aliases=["crop", "color fix", "paste back", "resize", "resshift", "diffbir"],
            inputs=[
                io.Image.Input("image", tooltip="The decoded image."),
                side_input("width", "Width to crop to, from the conditioning node; 0 keeps it."),
                side_input("height", "Height to crop to, from the conditioning node; 0 keeps it."),
                io.Combo.Input(
                    "color_fix",
                    options=list(COLOR_FIXES),
                    default=COLOR_FIXES[0],
                    tooltip="Takes colours from 'reference'; see Restoration Color Fix.",
                ),
                side_input(
                    "output_width", "Width of the result; 0 keeps it or follows the height."
                ),
                side_input(
                    "output_height", "Height of the result; 0 keeps it or follows the width."
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="The image whose colours are right, any size.",
                ),
                io.Image.Input(
                    "original",
                    optional=True,
                    tooltip="The image before inpainting; its pixels outside the mask are put back.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="1 where the restored pixels stay; soft edges blend.",
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        image: Tensor,
        width: int,
        height: int,
        color_fix: ColorFix,
        output_width: int,
        output_height: int,
        reference: Tensor | None = None,
        original: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        """Finish the image."""
        return io.NodeOutput(
            finish_restoration(
                image,
                width,
                height,
                reference=reference,
                color_fix=color_fix,
                original=original,
                mask=mask,
                output_width=output_width,
                output_height=output_height,
                grey_like=original if reference is None else reference,
                for_saving=True,
            )
        )
