"""Nodes of DiffBIR's first stage."""

from __future__ import annotations

from typing import Any

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..images.resize import ROUNDINGS, Rounding
from ..model_loaders.restoration_network import load_restoration_network
from ..pipelines.stage_one import OFFICIAL_OVERLAP_PX, RULES, Rules, remove_degradation
from .files import find_file
from .messages import names_its_node

CATEGORY = "restoration/DiffBIR"
MAX_TILE = 4096


class SwinIRLoader(io.ComfyNode):
    """Loads a restoration network as an UPSCALE_MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="SwinIRLoader",
            display_name="Load Restoration Network (SwinIR, BSRNet, SCUNet)",
            category=CATEGORY,
            description=(
                "Loads the network of DiffBIR's first stage, or any other restoration or upscale"
                " network that spandrel knows, from the upscale_models folder."
            ),
            search_aliases=[
                "swinir",
                "bsrnet",
                "scunet",
                "realesrgan",
                "diffbir",
                "stage 1",
                "upscale model",
                "restoration model",
            ],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=folder_paths.get_filename_list("upscale_models"),
                    tooltip=(
                        "A file in models/upscale_models: general_swinir_v1.ckpt,"
                        " face_swinir_v1.ckpt (v1; faces of all versions), BSRNet.pth (v2),"
                        " scunet_color_real_psnr.pth (v2, noise),"
                        " realesrgan_s4_swinir_100k.pth (v2.1)."
                    ),
                ),
            ],
            outputs=[io.UpscaleModel.Output(tooltip="Also works in Upscale Image (using Model).")],
        )

    @classmethod
    @names_its_node
    def execute(cls, model_name: str) -> io.NodeOutput:
        """Load the file."""
        return io.NodeOutput(load_restoration_network(find_file(model_name, "upscale_models")))


class DiffBIRRemoveDegradation(io.ComfyNode):
    """Runs the first stage of DiffBIR."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="DiffBIRRemoveDegradation",
            display_name="Remove Degradation (DiffBIR Stage 1)",
            category=CATEGORY,
            description=(
                "Removes blur, noise and compression, which leaves a smooth image for DiffBIR's"
                " second stage to detail. Both sides come out at 512 or more."
            ),
            search_aliases=[
                "diffbir",
                "stage 1",
                "clean image",
                "denoise",
                "deblur",
                "upscale",
                "swinir",
                "bsrnet",
                "scunet",
            ],
            inputs=[
                io.UpscaleModel.Input(
                    "upscale_model",
                    tooltip="From Load Restoration Network or Load Upscale Model.",
                ),
                io.Image.Input("image", tooltip="One or more images to restore; alpha is dropped."),
                io.Float.Input(
                    "scale",
                    default=4.0,
                    min=0.1,
                    max=16.0,
                    step=0.1,
                    tooltip=(
                        "Size of the finished picture over the image's. 1 for aligned faces of"
                        " 512x512 and for denoising."
                    ),
                ),
                io.Combo.Input(
                    "rules",
                    options=list(RULES),
                    default=RULES[0],
                    tooltip=(
                        "Which sizes and order of steps to use. 'auto' takes those of the network:"
                        " BSRNet's for networks that enlarge, SwinIR's, or SCUNet's for all others."
                        " 'none' runs the network alone at the image's own size."
                    ),
                ),
                io.Int.Input(
                    "tile",
                    default=0,
                    min=0,
                    max=MAX_TILE,
                    step=64,
                    tooltip=(
                        "Side of a tile in pixels of the network's input. 0 runs the whole picture,"
                        " which is exact; 512 bounds the memory and is DiffBIR's own tile."
                    ),
                ),
                io.Int.Input(
                    "tile_overlap",
                    default=OFFICIAL_OVERLAP_PX,
                    min=0,
                    max=MAX_TILE,
                    step=8,
                    advanced=True,
                    tooltip=(
                        "Pixels that neighbouring tiles share, less than a tile. Half a tile blends"
                        " best; less is faster."
                    ),
                ),
                io.Combo.Input(
                    "resize",
                    options=list(ROUNDINGS),
                    default=ROUNDINGS[0],
                    advanced=True,
                    tooltip=(
                        "'official 8-bit' rounds the image to 256 levels and enlarges it as DiffBIR"
                        " does; 'float' keeps the precision of 16-bit and processed images."
                    ),
                ),
                io.Boolean.Input(
                    "clamp",
                    default=False,
                    advanced=True,
                    tooltip=(
                        "Limits the result to [0, 1]. DiffBIR does not, so off is exact; turn it on"
                        " when the image goes to nodes other than DiffBIR's."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    tooltip="The cleaned image. It may leave [0, 1] a little unless 'clamp' is on."
                ),
                io.Int.Output(
                    display_name="output_width",
                    tooltip="Width of the finished picture, for Finish Restoration.",
                ),
                io.Int.Output(
                    display_name="output_height",
                    tooltip="Height of the finished picture, for Finish Restoration.",
                ),
            ],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        upscale_model: Any,
        image: Tensor,
        scale: float,
        rules: Rules,
        tile: int,
        tile_overlap: int,
        resize: Rounding,
        clamp: bool,
    ) -> io.NodeOutput:
        """Clean the images."""
        made = remove_degradation(
            upscale_model,
            image,
            scale=scale,
            rules=rules,
            tile=tile,
            tile_overlap=tile_overlap,
            clamp=clamp,
            resize=resize,
        )
        return io.NodeOutput(made.image, made.output_width, made.output_height)
