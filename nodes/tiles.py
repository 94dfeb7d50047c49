"""Sampling in tiles."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..pipelines.tiles import TILE_CHOICES, TILES, TileChoice, patch_tiles
from ..samplers.tiles import TILE_BLENDS, TileBlend
from .messages import names_its_node

CATEGORY = "restoration/image"
MAX_TILE = 8192


def tile_input(*, default: int = TILES.tile, advanced: bool = True) -> io.Int.Input:
    """Return the input for the side of a tile."""
    return io.Int.Input(
        "tile",
        default=default,
        min=64,
        max=MAX_TILE,
        step=64,
        advanced=advanced,
        tooltip=(
            "Side of a tile in pixels of the result, rounded up to what the network needs. Smaller"
            " tiles need less memory and see less of the picture; DiffBIR's own value is 512."
        ),
    )


def tile_overlap_input(*, default: int = TILES.overlap, advanced: bool = True) -> io.Int.Input:
    """Return the input for the overlap of tiles."""
    return io.Int.Input(
        "tile_overlap",
        default=default,
        min=0,
        max=MAX_TILE,
        step=8,
        advanced=advanced,
        tooltip=(
            "Pixels that neighbouring tiles share. A quarter of a tile hides the seams; more takes"
            " longer; DiffBIR's own value is half a tile."
        ),
    )


def tile_choice_input(*, advanced: bool = True) -> io.Combo.Input:
    """Return the input for where the side of a tile comes from."""
    return io.Combo.Input(
        "tile_choice",
        options=list(TILE_CHOICES),
        default=TILE_CHOICES[0],
        optional=True,
        advanced=advanced,
        tooltip=(
            "'fixed' takes the tile above, so the same settings give the same picture everywhere."
            " 'auto (by memory)' takes the largest tile that fits into free memory, so results"
            " differ between machines."
        ),
    )


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
