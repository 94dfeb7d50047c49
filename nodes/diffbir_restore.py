"""Both stages of DiffBIR in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..images.color import ColorFix
from ..pipelines.diffbir_conditioning import STARTS, Start
from ..pipelines.diffbir_presets import DIFFBIR_PRESETS
from ..pipelines.diffbir_sampling import preset_guidance
from ..pipelines.frames import FRAMES_AT_ONCE
from ..pipelines.noise import BatchNoise
from ..pipelines.restore_diffbir import (
    LONG_PROMPTS,
    DiffBIRWeights,
    LongPrompt,
    restore_with_diffbir,
)
from ..pipelines.stage_one import RULES, Rules
from ..pipelines.steady_frames import Steadiness
from ..pipelines.tiles import DIFFBIR_TILINGS, TILES, TileChoice, TileSettings, Tiling
from .messages import names_its_node
from .widgets import (
    batch_noise_input,
    cfg_input,
    color_fix_input,
    diffbir_steps_input,
    fidelity_input,
    frames_at_once_input,
    guidance_scale_input,
    keep_grey_input,
    preset_input,
    restored_image_input,
    sampler_input,
    scale_input,
    scheduler_input,
    seed_input,
    steadiness_input,
    tile_choice_input,
    tile_input,
    tile_overlap_input,
)

CATEGORY = "restoration/DiffBIR"


class DiffBIRRestoreImage(io.ComfyNode):
    """Restores images with DiffBIR in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="DiffBIRRestoreImage",
            display_name="Restore Image (DiffBIR)",
            category=CATEGORY,
            essentials_category="Image Tools",
            description=(
                "Removes the degradation, encodes, samples, decodes and corrects colours with"
                " DiffBIR's official settings: blind super-resolution, faces, denoising."
            ),
            search_aliases=[
                "upscale",
                "super resolution",
                "restore photo",
                "face restoration",
                "denoise",
                "enhance",
                "diffbir",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="SD 2.1 of Load Checkpoint; the preset sets its prediction type.",
                ),
                io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
                io.ControlNet.Input("control_net", tooltip="From Load LAControlNet (DiffBIR)."),
                io.UpscaleModel.Input(
                    "upscale_model",
                    tooltip="The network of stage 1: BSRNet for v2, SwinIR for v1 and v2.1.",
                ),
                restored_image_input(),
                preset_input(),
                seed_input(),
                scale_input(
                    "Side of the result over that of the image; 1 for an aligned face of 512"
                    " pixels and for denoising."
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip=(
                        "What the picture shows, if you like to say it; the preset's words on"
                        " quality are added."
                    ),
                ),
                io.String.Input(
                    "negative_prompt",
                    default="",
                    multiline=True,
                    tooltip="What it must not show. Empty takes the preset's.",
                ),
                diffbir_steps_input(),
                cfg_input(),
                fidelity_input(),
                guidance_scale_input("guidance_scale", 0.0),
                color_fix_input("the result of stage 1", wavelet_is_official=True),
                sampler_input(),
                scheduler_input(),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    advanced=True,
                    tooltip="How strongly the image steers; 1 is what DiffBIR was trained with.",
                ),
                io.Combo.Input(
                    "start",
                    options=list(STARTS),
                    default=STARTS[0],
                    advanced=True,
                    tooltip="Whether sampling starts from noise alone or from the noised image.",
                ),
                io.Int.Input(
                    "noise_aug",
                    default=0,
                    min=0,
                    max=999,
                    advanced=True,
                    tooltip="Noise added to what the control network sees; more invents more.",
                ),
                io.Combo.Input(
                    "rules",
                    options=list(RULES),
                    default=RULES[0],
                    advanced=True,
                    tooltip="Whose size rules stage 1 follows; see Remove Degradation.",
                ),
                batch_noise_input(),
                io.Combo.Input(
                    "tiling",
                    options=list(DIFFBIR_TILINGS),
                    default=TILES.tiling,
                    advanced=True,
                    tooltip=(
                        "Whether stage 1, the VAE and every step are cut where the picture is"
                        " larger than a tile. 'official' weights overlapping tiles by DiffBIR's"
                        " bell, made for tiles of 512 that overlap by 256; 'per step' fades evenly."
                    ),
                ),
                tile_input(),
                tile_overlap_input(),
                tile_choice_input(),
                frames_at_once_input(),
                keep_grey_input(),
                io.Combo.Input(
                    "long_prompt",
                    options=list(LONG_PROMPTS),
                    default=LONG_PROMPTS[0],
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What counts of a prompt of more than 77 tokens, the preset's words"
                        " included: all of it, as in ComfyUI, or the first 77 as in DiffBIR."
                    ),
                ),
                steadiness_input(),
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
        control_net: Any,
        upscale_model: Any,
        image: Tensor,
        preset: str,
        seed: int,
        scale: float,
        prompt: str,
        negative_prompt: str,
        steps: int,
        cfg: float,
        fidelity: float,
        guidance_scale: float,
        color_fix: ColorFix,
        sampler: str,
        scheduler: str,
        strength: float,
        start: Start,
        noise_aug: int,
        rules: Rules,
        batch_noise: BatchNoise,
        tiling: Tiling,
        tile: int,
        tile_overlap: int,
        tile_choice: TileChoice = "fixed",
        frames_at_once: int = FRAMES_AT_ONCE,
        keep_grey: bool = True,
        long_prompt: LongPrompt = "all of it",
        steadiness: float = 0.0,
    ) -> io.NodeOutput:
        """Restore the images."""
        version = DIFFBIR_PRESETS[preset]
        return io.NodeOutput(
            restore_with_diffbir(
                DiffBIRWeights(model, clip, vae, control_net, upscale_model),
                image,
                preset=version,
                seed=seed,
                scale=scale,
                prompt=prompt,
                negative_prompt=negative_prompt,
                steps=steps,
                cfg=cfg,
                sampler=sampler,
                scheduler=scheduler,
                strength=strength,
                noise_aug=noise_aug,
                start=start,
                guidance=preset_guidance(version, sampler, guidance_scale, fidelity),
                color_fix=color_fix,
                rules=rules,
                tiles=TileSettings(tiling, tile, tile_overlap, tile_choice),
                frames_at_once=frames_at_once,
                batch_noise=batch_noise,
                keep_grey=keep_grey,
                long_prompt=long_prompt,
                for_saving=True,
                steadiness=Steadiness(steadiness),
            )
        )
