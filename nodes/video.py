"""Videos restored whole, in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..images.color import ColorFix
from ..pipelines.diffbir_presets import DIFFBIR_PRESETS
from ..pipelines.frames import FRAMES_AT_ONCE
from ..pipelines.noise import MOVING, BatchNoise
from ..pipelines.restore_diffbir import DiffBIRWeights
from ..pipelines.restore_hypir import HYPIR_TILINGS
from ..pipelines.restore_video import (
    CRF,
    VIDEO_COLORS,
    VideoSettings,
    choose_restorer,
    restore_video,
)
from ..pipelines.steady_frames import Steadiness
from ..pipelines.tiles import TILES, TileChoice, TileSettings, Tiling
from .messages import names_its_node
from .widgets import (
    batch_noise_input,
    cfg_input,
    diffbir_parts,
    fidelity_input,
    frames_at_once_input,
    keep_grey_input,
    preset_input,
    randomness_input,
    resshift_steps_input,
    scale_input,
    seed_input,
    steadiness_input,
    tile_choice_input,
    tile_input,
    tile_overlap_input,
)

CATEGORY = "restoration/video"
MAX_CRF = 51.0
STEADINESS = 0.5  # the most that keeps sharpness


class RestorationVideo(io.ComfyNode):
    """Restores a video of any length in bounded memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationVideo",
            display_name="Restore Video",
            category=CATEGORY,
            description=(
                "Restores a video a few frames at a time, so memory does not grow with its length,"
                " and keeps its sound, its frame rate and the time of each frame. With a ResShift"
                " model, the bundled one, DiffBIR or HYPIR. A run that was interrupted goes on where"
                " it stopped when the same workflow runs again."
            ),
            search_aliases=[
                "video restoration",
                "video upscale",
                "upscale video",
                "restore film",
                "old film",
                "super resolution",
                "flicker",
                "resshift",
                "diffbir",
            ],
            inputs=[
                io.Video.Input(
                    "video", tooltip="From Load Video, Trim Video or Create Video, of any length."
                ),
                io.Model.Input(
                    "model",
                    tooltip=(
                        "A ResShift model, such as the bundled one. For DiffBIR the SD 2.1 of Load"
                        " Checkpoint, for HYPIR what comes from Load HYPIR."
                    ),
                ),
                io.Vae.Input("vae", tooltip="The VAE of this model."),
                seed_input(),
                resshift_steps_input(),
                io.Combo.Input(
                    "color_fix",
                    options=list(VIDEO_COLORS),
                    default=VIDEO_COLORS[0],
                    tooltip=(
                        "Takes colours from the frame, with DiffBIR from the result of stage 1:"
                        " 'wavelet' the coarse ones, which keeps them from changing between frames,"
                        " 'luminance' all of them."
                    ),
                ),
                io.Float.Input(
                    "crf",
                    default=CRF,
                    min=0.0,
                    max=MAX_CRF,
                    step=1.0,
                    tooltip=(
                        "Quality of the H.264 that is written: less is better and larger. 18 can"
                        " hardly be told from the frames; 0 is nearly without loss."
                    ),
                ),
                randomness_input(),
                batch_noise_input(default=MOVING),
                io.Combo.Input(
                    "tiling",
                    options=list(HYPIR_TILINGS),
                    default=TILES.tiling,
                    advanced=True,
                    tooltip=(
                        "Whether frames larger than a tile are cut: at every step, which leaves no"
                        " seams, or not at all."
                    ),
                ),
                tile_input(),
                tile_overlap_input(),
                preset_input(),
                scale_input(
                    "Of DiffBIR and HYPIR: side of the result over that of the video. ResShift"
                    " models have their own."
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="Of DiffBIR and HYPIR: what the video shows, if you like to say it.",
                ),
                cfg_input(),
                fidelity_input(),
                *diffbir_parts(users="DiffBIR and HYPIR", stage_one=". HYPIR does without."),
                tile_choice_input(),
                frames_at_once_input(),
                keep_grey_input(),
                steadiness_input(default=STEADINESS),
            ],
            outputs=[
                io.Video.Output(
                    tooltip="The restored video, a file in ComfyUI's temporary folder: save it."
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        video: Any,
        model: Any,
        vae: Any,
        seed: int,
        steps: int,
        color_fix: ColorFix,
        crf: float,
        randomness: float,
        batch_noise: BatchNoise,
        tiling: Tiling,
        tile: int,
        tile_overlap: int,
        preset: str,
        scale: float,
        prompt: str,
        cfg: float,
        fidelity: float,
        clip: Any = None,
        control_net: Any = None,
        upscale_model: Any = None,
        tile_choice: TileChoice = "fixed",
        frames_at_once: int = FRAMES_AT_ONCE,
        keep_grey: bool = True,
        steadiness: float = STEADINESS,
    ) -> io.NodeOutput:
        """Restore the video."""
        settings = VideoSettings(
            DIFFBIR_PRESETS[preset],
            seed=seed,
            steps=steps,
            color_fix=color_fix,
            batch_noise=batch_noise,
            steadiness=Steadiness(steadiness),
            tiles=TileSettings(tiling, tile, tile_overlap, tile_choice),
            frames_at_once=frames_at_once,
            randomness=randomness,
            scale=scale,
            prompt=prompt,
            cfg=cfg,
            fidelity=fidelity,
        )
        weights = DiffBIRWeights(model, clip, vae, control_net, upscale_model)
        hidden = cls.hidden  # None where a script calls the node
        restored = restore_video(
            choose_restorer(weights, settings),
            video,
            crf=crf,
            keep_grey=keep_grey,
            prompt=hidden and hidden.prompt,
            node=hidden and hidden.unique_id,
        )
        return io.NodeOutput(restored)
