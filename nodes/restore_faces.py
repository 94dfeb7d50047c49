"""Photographs with their faces restored, in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..images.face_masks import FaceMask
from ..pipelines.diffbir_presets import DIFFBIR_PRESETS
from ..pipelines.face_detection import detect_faces
from ..pipelines.faces import FaceChoice, choose_faces
from ..pipelines.noise import BatchNoise
from ..pipelines.restore_diffbir import DiffBIRWeights
from ..pipelines.restore_faces import diffbir_or_resshift, restore_faces
from .faces import (
    CATEGORY,
    FaceLandmarksType,
    FacePointsType,
    allowed_mask_input,
    choice_input,
    eye_distance_input,
    index_input,
    mask_kind_input,
    size_input,
    strength_input,
)
from .messages import names_its_node
from .widgets import (
    batch_noise_input,
    diffbir_parts,
    preset_input,
    resshift_steps_input,
    seed_input,
)


class RestorationFacePhoto(io.ComfyNode):
    """Finds, restores and puts back the faces of photographs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationFacePhoto",
            display_name="Restore Photo with Faces",
            category=CATEGORY,
            description=(
                "Finds every face of a photograph, restores each by itself and puts it back, into"
                " the photograph or into what a general model has made of it. With ResShift's face"
                " model, with DiffBIR, or with the bundled model."
            ),
            search_aliases=[
                "face restoration",
                "restore faces",
                "gfpgan",
                "codeformer",
                "group photo",
                "family photo",
                "old photo",
            ],
            inputs=[
                io.Image.Input("image", tooltip="One or more photographs, or frames of a video."),
                io.Model.Input(
                    "model",
                    tooltip=(
                        "A ResShift model: the one for faces, or the bundled one. For DiffBIR the"
                        " SD 2.1 of Load Checkpoint."
                    ),
                ),
                io.Vae.Input("vae", tooltip="The VAE of this model."),
                seed_input(),
                strength_input(),
                io.Float.Input(
                    "likeness",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip=(
                        "How strongly sampling is pulled to the face as it was: the share of every"
                        " prediction that the input face replaces. More is more like the person and"
                        " more like the damage; 0.2 to 0.4 is a start where a face becomes another's."
                    ),
                ),
                mask_kind_input(),
                choice_input(),
                index_input(),
                resshift_steps_input(),
                eye_distance_input(),
                size_input("and at most so large for a model that enlarges"),
                batch_noise_input(may_move=False),
                io.MultiType.Input(
                    "faces",
                    [FaceLandmarksType, FacePointsType],
                    optional=True,
                    tooltip="Faces of another detector or of your own; without it Detect Faces runs.",
                ),
                io.Image.Input(
                    "background",
                    optional=True,
                    tooltip=(
                        "The photographs as a general model restored them, at any enlargement;"
                        " without it the faces are put into the photographs themselves."
                    ),
                ),
                allowed_mask_input(),
                *diffbir_parts(users="DiffBIR", stage_one=", face_swinir_v1 for faces."),
                preset_input(),
            ],
            outputs=[
                io.Image.Output(tooltip="The photographs with restored faces."),
                io.Mask.Output(tooltip="How much of each pixel is of a restored face."),
            ],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        image: Tensor,
        model: Any,
        vae: Any,
        seed: int,
        strength: float,
        likeness: float,
        mask_kind: FaceMask,
        choice: FaceChoice,
        index: int,
        steps: int,
        least_eye_distance: float,
        size: int,
        batch_noise: BatchNoise,
        preset: str,
        faces: dict[str, Any] | None = None,
        background: Tensor | None = None,
        mask: Tensor | None = None,
        clip: Any = None,
        control_net: Any = None,
        upscale_model: Any = None,
    ) -> io.NodeOutput:
        """Restore the faces."""
        restorer = diffbir_or_resshift(
            DiffBIRWeights(model, clip, vae, control_net, upscale_model),
            DIFFBIR_PRESETS[preset],
            likeness=likeness,
            steps=steps,
        )
        places = choose_faces(
            detect_faces(image) if faces is None else faces,
            image,
            choice=choice,
            index=index,
            least_eye_distance=least_eye_distance,
            size=size,
        )
        restored = restore_faces(
            restorer,
            image,
            places,
            seed=seed,
            background=background,
            strength=strength,
            mask=mask_kind,
            allowed=mask,
            batch_noise=batch_noise,
        )
        return io.NodeOutput(*restored)
