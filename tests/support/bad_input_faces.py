"""Rows of docs/bad-input.md on faces in photographs."""

from __future__ import annotations

from pack.tests.support.bad_input import Row, Size, on
from pack.tests.support.bad_input_graphs import FACE_PX, mask, own, picture

FACES = "Faces in photographs"
ALIGN, PASTE, PHOTO = "RestorationFaceAlign", "RestorationFacePaste", "RestorationFacePhoto"
DETECT, POINTS = "RestorationFaceDetect", "RestorationFacePoints"
FAR = "1000 1000 3000 1000 2000 2000 1200 3000 2800 3000"
NUMBERS = "20 24 40 24 30 36 22 46 38"


def one_photo(_: str) -> Size:
    return (1, FACE_PX, FACE_PX)


def face_rows() -> list[Row]:
    side = {"height": FACE_PX, "width": FACE_PX}
    takers = (ALIGN, PHOTO)
    nan = "'image' has NaN or infinite pixels; the model that made it failed, often for lack of precision: run that model in float32 (fp32)."
    return [
        Row(
            FACES,
            (DETECT, *takers),
            "image: a NaN pixel",
            nan,
            on({"photo": picture("nan", **side)}),
        ),
        Row(
            FACES,
            (DETECT,),
            "a picture without a face",
            "works, with an empty list for the picture",
            on(),
            "works",
        ),
        Row(
            FACES,
            (ALIGN,),
            "no face in any picture",
            "works, gives one grey picture, which Paste Faces leaves out",
            on(faces=["no_points", 0], size=64),
            "works",
            lambda _: (1, 64, 64),
        ),
        Row(
            FACES,
            (PASTE,),
            "no face in any picture",
            "works, the background comes out as it was",
            on(places=["no_places", 1], faces=["no_places", 0]),
            "works",
            one_photo,
        ),
        Row(
            FACES,
            (PHOTO,),
            "no face in any picture",
            "works, the photograph comes out as it was",
            on(faces=["no_points", 0]),
            "works",
            one_photo,
        ),
        Row(
            FACES,
            takers,
            "faces: of a picture of another size",
            f"'faces' were found in pictures of {FACE_PX}x{FACE_PX}, and 'image' is 8x8. Connect the"
            " image that the faces were found in.",
            on(image=["picture", 0]),
        ),
        Row(
            FACES,
            takers,
            "faces: of one picture for two",
            "'faces' has the faces of 1 pictures, and 'image' has 2. Connect the image that the faces"
            " were found in.",
            on({"other": picture(batch=2, **side)}, image=["other", 0]),
        ),
        Row(
            FACES,
            takers,
            "faces: points that are not in pixels of the picture",
            f"'faces' has a face with eyes 2000 px apart in a picture of {FACE_PX}x{FACE_PX}. Give its"
            " points in pixels of the picture.",
            on({"far": own(POINTS, image=["photo", 0], points=FAR)}, faces=["far", 0]),
        ),
        Row(
            FACES,
            (PASTE,),
            "faces: three for one place",
            "'faces' has 3 pictures for 1 places. Connect the faces of the same Align Faces that"
            " 'places' comes from, all of them.",
            on({"other": picture(batch=3, **side)}, faces=["other", 0]),
        ),
        Row(
            FACES,
            (PASTE,),
            "faces: not square",
            "'faces' are 64x32; aligned faces are square. Connect the faces of Align Faces after they"
            " were restored, uncropped.",
            on({"other": picture(width=64, height=32)}, faces=["other", 0]),
        ),
        Row(
            FACES,
            (PASTE, PHOTO),
            "background: two pictures for one",
            "'background' has 2 pictures, and the faces are of 1. Connect the same pictures that the"
            " faces were found in, restored or enlarged.",
            on({"other": picture(batch=2, **side)}, background=["other", 0]),
        ),
        Row(
            FACES,
            (PASTE, PHOTO),
            "background: a piece of the photograph",
            f"'background' is {FACE_PX}x32, and the faces were found in pictures of"
            f" {FACE_PX}x{FACE_PX}. Connect the same picture, uncropped; it may be enlarged.",
            on({"other": picture(width=FACE_PX, height=32)}, background=["other", 0]),
        ),
        Row(
            FACES,
            (PASTE, PHOTO),
            "mask: of another size",
            f"'mask' is 8x8 and the image {FACE_PX}x{FACE_PX}; resize the mask to the size of the"
            " image.",
            on({"mask": mask()}, mask=["mask", 0]),
        ),
        Row(
            FACES,
            (PASTE, PHOTO),
            "mask: that of Load Image where the picture has none",
            "'mask' is the empty one that Load Image gives with a picture without transparency."
            " Connect the mask of what may change, 1 there, or disconnect 'mask'.",
            on(
                {
                    "mask": mask("0", height=64, width=64),
                    "large": picture(height=2 * FACE_PX, width=2 * FACE_PX),
                },
                mask=["mask", 0],
                background=["large", 0],
            ),
        ),
        Row(
            FACES,
            (POINTS,),
            "points: nine numbers on a line",
            "line 1 of 'points' has 9 numbers; give ten: x and y of the left eye, the right eye, the"
            " nose, the left and the right corner of the mouth.",
            on(points=NUMBERS),
        ),
        Row(
            FACES,
            (POINTS,),
            "points: a word",
            "line 2 of 'points' has 'nose', which is no number.",
            on(points=f"{NUMBERS} 46\n{NUMBERS} nose"),
        ),
        Row(
            FACES,
            (POINTS,),
            "points: of a picture that is not there",
            "line 1 of 'points' names picture 5, and 'image' has 1, counted from 0.",
            on(points=f"5: {NUMBERS} 46"),
        ),
        Row(
            FACES,
            (PHOTO,),
            "model: Stable Diffusion alone",
            "the model connected to 'model' is a BaseModel, not a ResShift model. Load one with 'Load"
            " ResShift Model'.",
            on(model=["sd", 0]),
        ),
        Row(
            FACES,
            (PHOTO,),
            "one of DiffBIR's three parts",
            "DiffBIR needs 'clip', 'upscale_model' too. Connect them, or none of 'clip',"
            " 'control_net' and 'upscale_model' for a ResShift model.",
            on(model=["sd", 0], vae=["sd", 2], control_net=["control", 0]),
        ),
        Row(
            FACES,
            (PHOTO,),
            "vae: Stable Diffusion's",
            "the VAE connected to 'vae' makes latents of 4 channels, and this model's have 48."
            " Connect the VAE that belongs to the model.",
            on(vae=["sd", 2]),
        ),
    ]
