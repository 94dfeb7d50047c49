"""The whole ResShift pipeline in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..images.color import COLOR_FIXES, ColorFix
from ..pipelines.noise import BatchNoise
from ..pipelines.restore import restore_with_resshift
from ..pipelines.tiles import TILES, TILINGS, TileSettings, Tiling
from .messages import names_its_node
from .resshift_sampling import (
    CATEGORY,
    batch_noise_input,
    randomness_input,
    seed_input,
    steps_input,
)
from .tiles import tile_input, tile_overlap_input


class ResShiftRestoreImage(io.ComfyNode):
    """Restores images with ResShift in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="ResShiftRestoreImage",
            display_name="Restore Image (ResShift)",
            category=CATEGORY,
            description=(
                "Encodes, samples, decodes, crops and corrects colours: super-resolution,"
                " inpainting, face restoration or deblurring, as the model was trained for."
            ),
            search_aliases=[
                "upscale",
                "super resolution",
                "restore photo",
                "enhance",
                "deblur",
                "denoise",
                "inpaint",
                "resshift",
            ],
            inputs=[
                io.Model.Input("model", tooltip="A ResShift model."),
                io.Vae.Input("vae", tooltip="The VAE of this model, from Load ResShift VAE."),
                io.Image.Input(
                    "image", tooltip="One or more images; alpha is kept and enlarged with them."
                ),
                seed_input(),
                steps_input(),
                randomness_input(),
                io.Combo.Input(
                    "color_fix",
                    options=list(COLOR_FIXES),
                    default=COLOR_FIXES[0],
                    tooltip=(
                        "Takes colours from the image: 'wavelet' the coarse ones, 'adain' mean and"
                        " spread, 'luminance' all of them."
                    ),
                ),
                batch_noise_input(),
                io.Combo.Input(
                    "tiling",
                    options=list(TILINGS),
                    default=TILES.tiling,
                    advanced=True,
                    tooltip=(
                        "How pictures larger than a tile are cut: at every step, which leaves no"
                        " seams; in pieces restored one by one, as the official program does; or"
                        " not at all."
                    ),
                ),
                tile_input(),
                tile_overlap_input(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="For inpainting models: 1 where pixels are missing.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The restored images.")],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        model: Any,
        vae: Any,
        image: Tensor,
        seed: int,
        steps: int,
        randomness: float,
        color_fix: ColorFix,
        batch_noise: BatchNoise,
        tiling: Tiling,
        tile: int,
        tile_overlap: int,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        """Restore the images."""
        return io.NodeOutput(
            restore_with_resshift(
                model,
                vae,
                image,
                mask,
                seed=seed,
                steps=steps,
                randomness=randomness,
                color_fix=color_fix,
                batch_noise=batch_noise,
                tiles=TileSettings(tiling, tile, tile_overlap),
            )
        )
