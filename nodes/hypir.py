"""Nodes of HYPIR: one call of a patched Stable Diffusion 2.1."""

from __future__ import annotations

from typing import Any

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..images.color import ColorFix
from ..pipelines.frames import FRAMES_AT_ONCE
from ..pipelines.hypir import (
    STRENGTH,
    TIMESTEP,
    patch_hypir,
    single_step_sampler,
    single_step_sigmas,
)
from ..pipelines.restore_hypir import HYPIR_TILES, HYPIR_TILINGS, restore_with_hypir
from ..pipelines.tiles import TileChoice, TileSettings, Tiling
from ..samplers.discrete import TRAINING_STEPS
from .files import find_file
from .messages import names_its_node
from .widgets import (
    color_fix_input,
    frames_at_once_input,
    keep_grey_input,
    restored_image_input,
    scale_input,
    tile_choice_input,
    tile_input,
    tile_overlap_input,
)

CATEGORY = "restoration/HYPIR"


def timestep_input() -> io.Int.Input:
    """Return the input for the timestep of the step."""
    return io.Int.Input(
        "timestep",
        default=TIMESTEP,
        min=0,
        max=TRAINING_STEPS - 1,
        advanced=True,
        tooltip=(
            "Training timestep that the picture is taken to be at; 200 is what HYPIR was trained"
            " with. More changes more and leaves the trained ground."
        ),
    )


def strength_input() -> io.Float.Input:
    """Return the input for the share of the step that is taken."""
    return io.Float.Input(
        "strength",
        default=STRENGTH,
        min=0.0,
        max=1.0,
        step=0.05,
        tooltip=(
            "How much of the step is taken: 1 is HYPIR's, less stays nearer to the enlarged picture"
            " and softer, 0 leaves it as it is."
        ),
    )


class HYPIRLoader(io.ComfyNode):
    """Patches a MODEL of SD 2.1 base with HYPIR."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="HYPIRLoader",
            display_name="Load HYPIR",
            category=CATEGORY,
            description=(
                "Adds HYPIR, DiffBIR's successor, to Stable Diffusion 2.1 base, all 257 modules of"
                " its LoRA. The weights are under the SupPixel licence: non-commercial use only."
            ),
            search_aliases=["hypir", "lora", "one step", "diffbir", "restore", "upscale"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="v2-1_512-ema-pruned of Load Checkpoint, as for DiffBIR."
                ),
                io.Combo.Input(
                    "lora_name",
                    options=folder_paths.get_filename_list("loras"),
                    tooltip="HYPIR_sd2.pth in models/loras. ComfyUI's Load LoRA takes half of it.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="Patched as by any LoRA: can be saved, merged and tiled.")
            ],
        )

    @classmethod
    @names_its_node
    def execute(cls, model: Any, lora_name: str) -> io.NodeOutput:
        """Patch the model."""
        return io.NodeOutput(patch_hypir(model, find_file(lora_name, "loras")))


class HYPIRSingleStep(io.ComfyNode):
    """Makes HYPIR's step a SAMPLER and SIGMAS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="HYPIRSingleStep",
            display_name="HYPIR Single Step",
            category=CATEGORY,
            description=(
                "HYPIR's one step for SamplerCustom and SamplerCustomAdvanced, from the encoded"
                " picture at 'latent_image'. It adds no noise, whatever noise is connected; leave"
                " cfg at 1."
            ),
            search_aliases=["hypir", "one step", "sampler select", "sigmas", "scheduler"],
            inputs=[
                io.Model.Input("model", tooltip="From Load HYPIR."),
                timestep_input(),
                strength_input(),
            ],
            outputs=[io.Sampler.Output(), io.Sigmas.Output()],
        )

    @classmethod
    @names_its_node
    def execute(cls, model: Any, timestep: int, strength: float) -> io.NodeOutput:
        """Make sampler and sigmas."""
        return io.NodeOutput(single_step_sampler(strength), single_step_sigmas(model, timestep))


class HYPIRRestoreImage(io.ComfyNode):
    """Restores images with HYPIR in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="HYPIRRestoreImage",
            display_name="Restore Image (HYPIR)",
            category=CATEGORY,
            description=(
                "Enlarges, encodes, restores in one call of the network, decodes and corrects"
                " colours with HYPIR's official settings. The weights are for non-commercial use"
                " only."
            ),
            search_aliases=[
                "upscale",
                "super resolution",
                "restore photo",
                "enhance",
                "one step",
                "hypir",
            ],
            inputs=[
                io.Model.Input("model", tooltip="From Load HYPIR."),
                io.Clip.Input("clip", tooltip="The CLIP of the checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE of the checkpoint."),
                restored_image_input(),
                scale_input("Side of the result over that of the image."),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="What the picture shows, if you like to say it. There is no negative.",
                ),
                strength_input(),
                color_fix_input("the enlarged picture", wavelet_is_official=True),
                timestep_input(),
                io.Combo.Input(
                    "tiling",
                    options=list(HYPIR_TILINGS),
                    default=HYPIR_TILES.tiling,
                    advanced=True,
                    tooltip=(
                        "Whether the VAE and the network are cut where the picture is larger than a"
                        " tile: 'per step' does, 'off' takes it whole."
                    ),
                ),
                tile_input(default=HYPIR_TILES.tile),
                tile_overlap_input(default=HYPIR_TILES.overlap),
                tile_choice_input(),
                frames_at_once_input(),
                keep_grey_input(),
                io.UpscaleModel.Input(
                    "upscale_model",
                    optional=True,
                    tooltip=(
                        "A network of DiffBIR's stage 1 that removes degradation first. HYPIR does"
                        " without; it helps where noise or blur is heavy."
                    ),
                ),
            ],
            outputs=[io.Image.Output(tooltip="The restored images.")],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Tensor,
        scale: float,
        prompt: str,
        strength: float,
        color_fix: ColorFix,
        timestep: int,
        tiling: Tiling,
        tile: int,
        tile_overlap: int,
        tile_choice: TileChoice = "fixed",
        frames_at_once: int = FRAMES_AT_ONCE,
        keep_grey: bool = True,
        upscale_model: Any = None,
    ) -> io.NodeOutput:
        """Restore the images."""
        return io.NodeOutput(
            restore_with_hypir(
                model,
                clip,
                vae,
                image,
                upscale_model=upscale_model,
                scale=scale,
                prompt=prompt,
                timestep=timestep,
                strength=strength,
                color_fix=color_fix,
                tiles=TileSettings(tiling, tile, tile_overlap, tile_choice),
                frames_at_once=frames_at_once,
                keep_grey=keep_grey,
                for_saving=True,
            )
        )
