"""Nodes for faces in whole photographs."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..images.face_masks import FACE_MASKS, FaceMask
from ..images.face_places import FacePlaces
from ..pipelines.face_detection import SCORE, SMALLEST_PX, bounding_boxes, detect_faces
from ..pipelines.faces import (
    FACE_CHOICES,
    LEAST_EYE_DISTANCE_PX,
    SIZE_PX,
    FaceChoice,
    align_faces,
    choose_faces,
    merge_points,
    paste_faces,
    points_from_boxes,
    points_from_text,
)
from .messages import names_its_node

CATEGORY = "restoration/faces"
LEAST_SIZE_PX = 64
LARGEST_SIZE_PX = 2048
MAX_FACES = 256
FaceLandmarksType = io.Custom("FACE_LANDMARKS")  # ComfyUI's, by the name it gives it
FacePointsType = io.Custom("FACE_POINTS")
FacePlacesType = io.Custom("FACE_PLACES")


def choice_input() -> io.Combo.Input:
    """Return the input for which faces are taken."""
    return io.Combo.Input(
        "choice",
        options=list(FACE_CHOICES),
        default=FACE_CHOICES[0],
        tooltip=(
            "Which faces of each picture are restored: 'all', the 'largest', or with 'by index' the"
            " one that 'index' names. The others stay as they are."
        ),
    )


def index_input() -> io.Int.Input:
    """Return the input for the place of a face among those of its picture."""
    return io.Int.Input(
        "index",
        default=0,
        min=0,
        max=MAX_FACES,
        tooltip="With 'by index': the place of the face in each picture's list, from 0.",
    )


def eye_distance_input() -> io.Float.Input:
    """Return the input for the smallest faces that are taken."""
    return io.Float.Input(
        "least_eye_distance",
        default=LEAST_EYE_DISTANCE_PX,
        min=0.0,
        max=1024.0,
        step=0.5,
        advanced=True,
        tooltip=(
            "Faces whose eyes are nearer to each other than so many pixels stay as they are. More"
            " leaves out more of the small faces, of which a model has to invent most."
        ),
    )


def score_input(default: float) -> io.Float.Input:
    """Return the input for how sure the detector must be of a face."""
    return io.Float.Input(
        "least_score",
        default=default,
        min=0.0,
        max=1.0,
        step=0.01,
        advanced=True,
        tooltip=(
            "How sure the detector must be that it is a face. Less finds more faces, and now and"
            " then something that is none."
        ),
    )


def size_input(enlarging: str) -> io.Int.Input:
    """Return the input for the side of aligned faces; `enlarging` says what models that enlarge take."""
    return io.Int.Input(
        "size",
        default=SIZE_PX,
        min=LEAST_SIZE_PX,
        max=LARGEST_SIZE_PX,
        step=64,
        advanced=True,
        tooltip=(
            "Side of an aligned face in pixels: 512 for ResShift's and DiffBIR's face models,"
            f" {enlarging}."
        ),
    )


def strength_input() -> io.Float.Input:
    """Return the input for the share of the restored face."""
    return io.Float.Input(
        "strength",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip="Share of the restored face; less blends it with what was there.",
    )


def mask_kind_input() -> io.Combo.Input:
    """Return the input for the kind of mask."""
    return io.Combo.Input(
        "mask_kind",
        options=list(FACE_MASKS),
        default=FACE_MASKS[0],
        tooltip=(
            "What of an aligned face is put back: 'soft square', the published one, hair and all;"
            " 'face oval' only what lies between forehead and chin."
        ),
    )


def allowed_mask_input() -> io.Mask.Input:
    """Return the input for an own mask."""
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip=(
            "Your own mask, of the result's size: where it is 0 nothing changes. It narrows the"
            " faces' masks and does not widen them."
        ),
    )


class RestorationFaceDetect(io.ComfyNode):
    """Finds faces with the networks that ship with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationFaceDetect",
            display_name="Detect Faces",
            category=CATEGORY,
            description=(
                "Finds faces and their 478 points with MediaPipe's networks, which ship with this"
                " pack: small faces of group photographs too. Gives what ComfyUI's Detect Face"
                " Landmarks gives, so that its nodes for masks and drawings take it."
            ),
            search_aliases=["face", "face detection", "landmarks", "mediapipe", "group photo"],
            inputs=[
                io.Image.Input("image", tooltip="One or more photographs, each looked at alone."),
                io.Int.Input(
                    "smallest",
                    default=SMALLEST_PX,
                    min=8,
                    max=1024,
                    tooltip=(
                        "Width in pixels of the smallest face to look for. Half of it takes up to"
                        " four times as long. Faces narrower than about 16 pixels are rarely found."
                    ),
                ),
                io.Int.Input(
                    "most",
                    default=0,
                    min=0,
                    max=MAX_FACES,
                    tooltip="Faces of each picture at most, the surest; 0 takes all.",
                ),
                score_input(SCORE),
            ],
            outputs=[
                FaceLandmarksType.Output(
                    display_name="faces", tooltip="The faces of each picture, the surest first."
                ),
                io.BoundingBox.Output(
                    display_name="boxes", tooltip="Their boxes, a list for each picture."
                ),
            ],
        )

    @classmethod
    @names_its_node
    def execute(cls, image: Tensor, smallest: int, most: int, least_score: float) -> io.NodeOutput:
        """Find the faces."""
        faces = detect_faces(image, score=least_score, smallest=smallest, most=most)
        return io.NodeOutput(faces, bounding_boxes(faces))


class RestorationFacePoints(io.ComfyNode):
    """Makes faces of points that the user writes, or of boxes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationFacePoints",
            display_name="Faces from Points",
            category=CATEGORY,
            description=(
                "Says by hand where faces lie, for faces that no detector finds: five points of"
                " each, or boxes of any detector around upright faces."
            ),
            search_aliases=["face", "five points", "bounding box", "landmarks"],
            inputs=[
                io.Image.Input("image", tooltip="The photographs that the faces are in."),
                io.String.Input(
                    "points",
                    default="",
                    multiline=True,
                    tooltip=(
                        "A line for each face: x and y in pixels of the left eye, the right eye,"
                        " the nose, the left and the right corner of the mouth, as seen. A number"
                        " and a colon before them name the picture of a batch, from 0."
                    ),
                ),
                io.BoundingBox.Input(
                    "boxes",
                    force_input=True,
                    optional=True,
                    tooltip="Boxes from forehead to chin of upright faces, in front of the points.",
                ),
            ],
            outputs=[FacePointsType.Output(display_name="faces", tooltip="For Align Faces.")],
        )

    @classmethod
    @names_its_node
    def execute(cls, image: Tensor, points: str, boxes: Any = None) -> io.NodeOutput:
        """Read the points."""
        written = points_from_text(points, image)
        if boxes is None:
            return io.NodeOutput(written)
        return io.NodeOutput(merge_points(points_from_boxes(boxes, image), written))


class RestorationFaceAlign(io.ComfyNode):
    """Cuts faces out of photographs, upright and of one size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationFaceAlign",
            display_name="Align Faces",
            category=CATEGORY,
            description=(
                "Cuts the faces out of photographs, turned upright and brought to the size and"
                " place that face models were trained on. Restore them with any model, then put"
                " them back with Paste Faces."
            ),
            search_aliases=["face", "crop face", "align face", "face restoration", "gfpgan"],
            inputs=[
                io.Image.Input("image", tooltip="The photographs that the faces were found in."),
                io.MultiType.Input(
                    "faces",
                    [FaceLandmarksType, FacePointsType],
                    tooltip=(
                        "Of Detect Faces, of ComfyUI's Detect Face Landmarks, or of Faces from"
                        " Points."
                    ),
                ),
                choice_input(),
                index_input(),
                eye_distance_input(),
                score_input(0.0),
                size_input("a quarter of it in front of a model that enlarges four times"),
            ],
            outputs=[
                io.Image.Output(
                    display_name="aligned",
                    tooltip="A batch of all faces, in the order of the pictures; grey if there is none.",
                ),
                FacePlacesType.Output(display_name="places", tooltip="For Paste Faces."),
            ],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        image: Tensor,
        faces: dict[str, Any],
        choice: FaceChoice,
        index: int,
        least_eye_distance: float,
        least_score: float,
        size: int,
    ) -> io.NodeOutput:
        """Cut the faces out."""
        places = choose_faces(
            faces,
            image,
            choice=choice,
            index=index,
            least_eye_distance=least_eye_distance,
            least_score=least_score,
            size=size,
        )
        return io.NodeOutput(align_faces(image, places), places)


class RestorationFacePaste(io.ComfyNode):
    """Puts restored faces back into photographs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationFacePaste",
            display_name="Paste Faces",
            category=CATEGORY,
            description=(
                "Puts restored faces back where Align Faces took them from, into the photographs or"
                " into an enlargement of them. Outside the mask nothing changes."
            ),
            search_aliases=["face", "paste back", "face restoration", "blend face"],
            inputs=[
                io.Image.Input(
                    "background",
                    tooltip="The photographs, at their own size or restored and enlarged.",
                ),
                FacePlacesType.Input("places", tooltip="From Align Faces."),
                io.Image.Input(
                    "faces",
                    tooltip="The faces of Align Faces, restored, all of them, at any size.",
                ),
                strength_input(),
                mask_kind_input(),
                allowed_mask_input(),
            ],
            outputs=[
                io.Image.Output(tooltip="The photographs with the restored faces."),
                io.Mask.Output(tooltip="How much of each pixel is of a restored face."),
            ],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        background: Tensor,
        places: FacePlaces,
        faces: Tensor,
        strength: float,
        mask_kind: FaceMask,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        """Put the faces back."""
        pasted = paste_faces(
            background, places, faces, strength=strength, mask=mask_kind, allowed=mask
        )
        return io.NodeOutput(*pasted)
