"""Sampling in tiles."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..pipelines.tiles import TileChoice, patch_tiles
from ..samplers.tiles import TILE_BLENDS, TileBlend
from .messages import names_its_node
from .widgets import tile_choice_input, tile_input, tile_overlap_input

CATEGORY = "restoration/image"


class RestorationTiles(io.ComfyNode):
    """Lets a MODEL denoise in tiles."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationTiles",
            display_name="Restoration Tiles",
            category=CATEGORY,
            description=(
                "Denoises every step in overlapping tiles, so that pictures of any size fit into"
                " memory. Works with ResShift, DiffBIR and ordinary models; control images are cut"
                " along, guidance and noise stay those of the whole picture."
            ),
            search_aliases=["tile", "tiled diffusion", "multidiffusion", "large image", "4k", "8k"],
            inputs=[
                io.Model.Input("model", tooltip="Any MODEL for pictures."),
                tile_input(advanced=False),
                tile_overlap_input(advanced=False),
                io.Combo.Input(
                    "blend",
                    options=list(TILE_BLENDS),
                    default=TILE_BLENDS[0],
                    advanced=True,
                    tooltip=(
                        "'linear' fades over the whole overlap; 'gaussian' is DiffBIR's bell, made"
                        " for an overlap of half a tile."
                    ),
                ),
                tile_choice_input(),
            ],
            outputs=[io.Model.Output(tooltip="The model, denoising in tiles.")],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        model: Any,
        tile: int,
        tile_overlap: int,
        blend: TileBlend,
        tile_choice: TileChoice = "fixed",
    ) -> io.NodeOutput:
        """Patch the model."""
        return io.NodeOutput(patch_tiles(model, tile, tile_overlap, blend, tile_choice))
