"""Sampling in tiles."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..pipelines.tiles import patch_tiles
from ..samplers.tiles import TILE_BLENDS, TileBlend
from .messages import names_its_node

CATEGORY = "restoration/image"
MAX_TILE = 8192


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
                io.Int.Input(
                    "tile",
                    default=1024,
                    min=64,
                    max=MAX_TILE,
                    step=64,
                    tooltip=(
                        "Side of a tile in pixels of the result, rounded up to what the network"
                        " needs. Smaller tiles need less memory; DiffBIR's own value is 512."
                    ),
                ),
                io.Int.Input(
                    "tile_overlap",
                    default=256,
                    min=0,
                    max=MAX_TILE,
                    step=8,
                    tooltip=(
                        "Overlap of neighbouring tiles in pixels. More hides seams better and takes"
                        " longer; DiffBIR's own value is half a tile."
                    ),
                ),
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
            ],
            outputs=[io.Model.Output(tooltip="The model, denoising in tiles.")],
        )

    @classmethod
    @names_its_node
    def execute(cls, model: Any, tile: int, tile_overlap: int, blend: TileBlend) -> io.NodeOutput:
        """Patch the model."""
        return io.NodeOutput(patch_tiles(model, tile, tile_overlap, blend))
