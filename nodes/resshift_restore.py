"""The whole ResShift pipeline in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..images.color import ColorFix
from ..pipelines.frames import FRAMES_AT_ONCE
from ..pipelines.noise import BatchNoise
from ..pipelines.restore_resshift import restore_with_resshift
from ..pipelines.steady_frames import Steadiness
from ..pipelines.tiles import TILES, TILINGS, TileChoice, TileSettings, Tiling
from .messages import names_its_node
from .widgets import (
    batch_noise_input,
    color_fix_input,
    frames_at_once_input,
    keep_grey_input,
    randomness_input,
    resshift_steps_input,
    restored_image_input,
    seed_input,
    start_image_input,
    steadiness_input,
    tile_choice_input,
    tile_input,
    tile_overlap_input,
)

CATEGORY = "restoration/ResShift"


class ResShiftRestoreImage(io.ComfyNode):
    """Restores images with ResShift in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="ResShiftRestoreImage",
            display_name="Restore Image (ResShift)",
            category=CATEGORY,
            essentials_category="Image Tools",
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
                restored_image_input(),
                seed_input(),
                resshift_steps_input(),
                randomness_input(),
                color_fix_input("the image", wavelet_is_official=False),
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
                tile_choice_input(),
                frames_at_once_input(),
                start_image_input(),
                keep_grey_input(),
                steadiness_input(),
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
        tile_choice: TileChoice = "fixed",
        frames_at_once: int = FRAMES_AT_ONCE,
        start_image: Tensor | None = None,
        keep_grey: bool = True,
        steadiness: float = 0.0,
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
                tiles=TileSettings(tiling, tile, tile_overlap, tile_choice),
                frames_at_once=frames_at_once,
                start_image=start_image,
                keep_grey=keep_grey,
                for_saving=True,
                steadiness=Steadiness(steadiness),
            )
        )
