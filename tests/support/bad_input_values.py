"""Rows of docs/bad-input.md on pictures, batches and masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pack.tests.support.bad_input import Row, Size, on
from pack.tests.support.bad_input_graphs import Prompt, graph, mask, node, picture

# What a node makes of a picture of 16x16; None where it makes no picture.
MAKES: dict[str, int | None] = {
    "ResShiftConditioning": 64,
    "ResShiftRestoreImage": 64,
    "DiffBIRRemoveDegradation": 64,
    "DiffBIRConditioning": 64,
    "DiffBIRRestoreImage": 16,
    "HYPIRRestoreImage": 16,
    "DiffBIRLatentGuidance": 64,
    "RestorationColorFix": 16,
    "RestorationFinish": 16,
    "RestorationMetrics": None,
    "RestorationDegrade": 16,
    "RestorationDamage": 16,
    "RestorationAutoLevels": 16,
    "RestorationScratchMask": None,
}
KEEP_ALPHA = (
    "ResShiftRestoreImage",
    "DiffBIRRestoreImage",
    "HYPIRRestoreImage",
    "RestorationColorFix",
    "RestorationAutoLevels",
)
KEEP_VALUES = ("DiffBIRConditioning", "DiffBIRLatentGuidance")
FILLING = {"model": ["fill", 0], "vae": ["fill_vae", 0]}
NOT_FINITE = (
    "has NaN or infinite pixels; the model that made it failed, often for lack of precision: run"
    " that model in float32 (fp32)."
)

PICTURES = "Pictures"
BATCHES = "Sizes and batches that do not fit together"
MASKS = "Masks"
TRAINING = "Pairs for training"


def image_of(kind: str = "noise", **sizes: int) -> Callable[[str], Prompt]:
    """Return the maker of prompts whose 'image' is such a picture."""

    def prompt(node_id: str) -> Prompt:
        name = "guide" if node_id == "DiffBIRLatentGuidance" else "picture"
        return graph(node_id, {name: picture(kind, **sizes)})

    return prompt


def every_image(kind: str = "noise", **sizes: int) -> Callable[[str], Prompt]:
    """Return the maker of prompts all of whose pictures are such ones."""
    return on({name: picture(kind, **sizes) for name in ("picture", "other", "guide")})


def with_other(*inputs: str, **sizes: Any) -> Callable[[str], Prompt]:
    """Return the maker of prompts with another picture at these inputs and a mask."""
    links = {name: ["other", 0] for name in inputs}
    extra = {"mask": ["mask", 0]} if "original" in inputs else {}
    extra |= {"color_fix": "wavelet"} if inputs == ("reference",) else {}

    def prompt(node_id: str) -> Prompt:
        used = extra if node_id == "RestorationFinish" else {}
        return graph(node_id, {"other": picture(**sizes)}, **links, **used)

    return prompt


def picture_rows() -> list[Row]:
    nodes = (*MAKES, "RestorationFlicker")
    rows = [
        Row(PICTURES, nodes, f"image: {use}", f"'image' {says}", image_of(kind, **sizes))
        for use, kind, sizes, says in (
            ("a NaN pixel in the second picture", "nan", {"batch": 2}, NOT_FINITE),
            ("an infinite pixel", "inf", {}, NOT_FINITE),
            ("a minus infinite pixel", "-inf", {}, NOT_FINITE),
            (
                "an empty batch",
                "noise",
                {"batch": 0},
                "is empty, its shape is (0, 8, 8, 3); give it at least one picture.",
            ),
            (
                "five channels",
                "noise",
                {"channels": 5},
                "has the shape (1, 8, 8, 5); give it pictures of shape (batch, height, width, 1 to 4"
                " channels).",
            ),
        )
    ]
    for use, sizes, says in (
        ("a NaN pixel", {"kind": "nan"}, NOT_FINITE),
        ("an empty batch", {"batch": 0}, "is empty, its shape is …"),
    ):
        rows += [
            Row(
                PICTURES,
                nodes,
                f"{name}: {use}",
                f"'{name.split('.')[-1]}' {says}",
                with_other(name, **sizes),
            )
            for name, nodes in (
                ("reference", ("RestorationColorFix", "RestorationMetrics", "RestorationFinish")),
                ("original", ("RestorationFinish",)),
                ("images.image1", ("RestorationFidelitySweep",)),
            )
        ]
    return [*rows, *unusual_picture_rows(), *narrow_picture_rows()]


def unusual_picture_rows() -> list[Row]:
    """Return rows of pictures with other channels or values, all of which work."""
    rows = []
    for use, sizes, outcome, nodes in (
        ("alpha", {"channels": 4}, "works, alpha is kept", KEEP_ALPHA),
        ("alpha", {"channels": 4}, "works, alpha is left out", without_names(KEEP_ALPHA)),
        ("grey, one channel", {"channels": 1}, "works, as grey in colour", tuple(MAKES)),
        (
            "values outside 0 to 1",
            {"kind": "beyond"},
            "works, values are limited to 0 to 1",
            without_names(KEEP_VALUES),
        ),
        (
            "values outside 0 to 1",
            {"kind": "beyond"},
            "works, values are taken as they are, as stage 1 makes them",
            KEEP_VALUES,
        ),
    ):
        rows += [
            Row(
                PICTURES,
                nodes,
                f"image: {use}",
                outcome,
                every_image(**sizes, height=16, width=16),
                "works",
                size_of,
                "RGBA" if "is kept" in outcome else "RGB",
            )
        ]
    return rows


def without_names(left_out: tuple[str, ...]) -> tuple[str, ...]:
    """Return the nodes that take an image, but these."""
    return tuple(node_id for node_id in MAKES if node_id not in left_out)


def size_of(node_id: str) -> Size | None:
    """Return what a node makes of one picture of 16x16."""
    side = MAKES[node_id]
    return None if side is None else (1, side, side)


def narrow_picture_rows() -> list[Row]:
    """Return rows of pictures of a few pixels."""
    factors = {
        "ResShiftRestoreImage": (4, 1),
        "ResShiftConditioning": (32, 8),
        "DiffBIRRemoveDegradation": (4, 1),
        "DiffBIRConditioning": (64, 64),
        "DiffBIRRestoreImage": (1, 1),
        "HYPIRRestoreImage": (1, 1),
        "RestorationColorFix": (1, 1),
        "RestorationFinish": (1, 1),
        "RestorationDegrade": (1, 1),
        "RestorationDamage": (1, 1),
        "RestorationAutoLevels": (1, 1),
    }

    def made(width: int, height: int) -> Callable[[str], Size]:
        def size(node_id: str) -> Size:
            factor, multiple = factors[node_id]
            sides = (-(-side // multiple) * factor for side in (width, height))
            return (1, *sides)  # pyright: ignore[reportReturnType]

        return size

    few = tuple(factors)
    # What needs minutes on such a ribbon is shown to be prepared, or refused, below.
    ribbon = tuple(node_id for node_id in few if not node_id.startswith(("DiffBIR", "HYPIR")))
    rows = [
        Row(
            PICTURES,
            nodes,
            f"image: {width}x{height}",
            "works",
            every_image(width=width, height=height),
            "works",
            made(width, height),
        )
        for width, height, nodes in ((1, 1, few), (7, 3, few), (4096, 1, ribbon))
    ]
    return [
        *rows,
        Row(
            PICTURES,
            ("DiffBIRRemoveDegradation", "DiffBIRRestoreImage"),
            "image: 4096x1, rules of a network",
            "'image' is 4096x1: with its shorter side at the 512 pixels of stage 1, its longer side"
            " would exceed 16384. Cut it into pieces, or set rules to 'none', which keeps its size.",
            on({"picture": picture(width=4096, height=1)}, rules="auto"),
        ),
        Row(
            PICTURES,
            ("HYPIRRestoreImage",),
            "image: 4096x1",
            "'image' is 4096x1: with its shorter side at the 512 pixels of HYPIR, its longer side"
            " would exceed 16384. Cut it into pieces.",
            on({"picture": picture(width=4096, height=1)}),
        ),
        Row(
            PICTURES,
            ("DiffBIRRemoveDegradation",),
            "image: 4096x1, rules 'none'",
            "works",
            on({"picture": picture(width=4096, height=1)}),
            "works",
            lambda _: (1, 16384, 4),
        ),
        Row(
            PICTURES,
            ("DiffBIRConditioning",),
            "image: 4096x1",
            "works, but sampling it takes minutes on a processor",
            ribbon_conditioning,
            "works",
        ),
        Row(
            PICTURES,
            ("RestorationMetrics",),
            "image: 7x3",
            "'image' is 7x3 and 0 pixels are left out on each side; SSIM needs 11x11 pixels inside,"
            " so take a smaller border or larger images.",
            every_image(width=7, height=3),
        ),
    ]


def ribbon_conditioning(node_id: str) -> Prompt:
    """Return a prompt that prepares a ribbon and shows the latent to start from."""
    prompt = every_image(width=4096, height=1)(node_id)
    return {**prompt, "out": node("PreviewAny", source=["node", 2])}


def batch_rows() -> list[Row]:
    two = {"picture": picture(batch=2), "other": picture(batch=3)}
    fits_not = "'{}' has 3 pictures for 2 images; give one, or one for each."
    finish = ("RestorationFinish",)
    return [
        Row(
            BATCHES,
            ("RestorationColorFix", "RestorationMetrics"),
            "reference: three pictures for two images",
            fits_not.format("reference"),
            on(
                {
                    name: {**part, "inputs": {**part["inputs"], "height": 16, "width": 16}}
                    for name, part in two.items()
                }
            ),
        ),
        Row(
            BATCHES,
            finish,
            "reference: three pictures for two images",
            fits_not.format("reference"),
            on(two, reference=["other", 0], color_fix="adain"),
        ),
        Row(
            BATCHES,
            finish,
            "original: three pictures for two images",
            fits_not.format("original"),
            on(two, original=["other", 0], mask=["mask", 0]),
        ),
        Row(
            BATCHES,
            ("RestorationFidelitySweep",),
            "batches of two and of three",
            "'image0' has 2 pictures and another input has 3; give each one picture or as many as"
            " the others.",
            on(two, **{"images.image1": ["other", 0]}),
        ),
        Row(
            BATCHES,
            ("RestorationFlicker",),
            "image: one frame",
            "'image' has one frame; flicker is what changes between frames, so give it the frames of"
            " a clip as one batch.",
            on({}),
        ),
        Row(
            BATCHES,
            ("RestorationFlicker",),
            "reference: three frames for two",
            "'reference' has 3 frames and 'image' 2; give it the frames that were restored, one for"
            " each.",
            on(two, reference=["other", 0]),
        ),
        Row(
            BATCHES,
            ("RestorationFlicker",),
            "reference: frames of another size and shape",
            "works, the motion found in them is resized",
            on(
                {"picture": picture(batch=2), "other": picture(batch=2, width=9)},
                reference=["other", 0],
            ),
            "works",
        ),
        Row(
            BATCHES,
            ("RestorationColorFix",),
            "reference: one picture for two images",
            "works, it serves both",
            on({"picture": picture(batch=2)}),
            "works",
            lambda _: (2, 8, 8),
        ),
        Row(
            BATCHES,
            ("DiffBIRLatentGuidance",),
            "image: two targets for one picture",
            "the guidance has 2 targets for 1 images; give one, or one for each.",
            on({"guide": picture(batch=2)}),
            "elsewhere",
        ),
        Row(
            BATCHES,
            ("DiffBIRLatentGuidance",),
            "image: larger than the latent",
            "the target of the guidance is 80 x 80, and the latent that is sampled decodes to 64 x"
            " 64. Connect the image that the latent was made for: the result of stage 1, at its own"
            " size or padded.",
            on({"guide": picture(width=80, height=80)}),
            "elsewhere",
        ),
        Row(
            BATCHES,
            ("RestorationColorFix",),
            "reference: another size",
            "'image' is 8x8 (batch 1) and 'reference' 9x8 (batch 1); resize the reference to"
            " the size of the image.",
            on({"other": picture(width=9)}),
        ),
        Row(
            BATCHES,
            ("RestorationMetrics",),
            "reference: another size",
            "'image' is 8x8 and 'reference' 9x8; resize one to the size of the other.",
            on({"other": picture(width=9)}),
        ),
        Row(
            BATCHES,
            finish,
            "original: another size",
            "'original' is 9x8 and the picture 8x8; they must be of one size.",
            on({"other": picture(width=9)}, original=["other", 0], mask=["mask", 0]),
        ),
        Row(
            BATCHES,
            finish,
            "width: more than the image has",
            "the image is 8x8, smaller than the width and height to crop to, 100x8. Connect the"
            " width and height of the conditioning node.",
            on(width=100),
        ),
        Row(
            BATCHES,
            finish,
            "color_fix without a reference",
            "the colour fix 'wavelet' needs a picture at 'reference'; connect the image before its"
            " restoration, or choose 'none'.",
            on(color_fix="wavelet"),
        ),
        Row(
            BATCHES,
            ("RestorationFidelitySweep",),
            "labels: two lines for one image",
            "'labels' has 2 lines for 1 images; write one line for each image, or none.",
            on(labels="a\nb"),
        ),
    ]


def training_rows() -> list[Row]:
    pairs = ("ResShiftTrainingPairs", "ResShiftValidation")
    large = {"other": picture(height=32, width=32)}
    return [
        Row(
            TRAINING,
            pairs,
            "clean: two pictures for one",
            "'clean' has 2 pictures and 'degraded' 1; each clean picture needs its own degraded"
            " version.",
            on({"other": picture(batch=2, height=32, width=32)}),
        ),
        Row(
            TRAINING,
            pairs,
            "clean: of the size of the degraded ones",
            "'clean' is 8x8 and must be 32x32: this model enlarges 4 times, so that is the size of"
            " 'degraded' times 4.",
            on({"other": picture()}),
        ),
        Row(
            TRAINING,
            pairs,
            "model: not ResShift",
            "the model connected to 'model' is a …, not a ResShift model. Load one with 'Load"
            " ResShift Model'.",
            on(large, model=["sd", 0]),
        ),
        Row(
            TRAINING,
            ("ResShiftTrainingPairs",),
            "mask: to a model that fills nothing",
            "this model (super-resolution) takes no mask. Disconnect it, or load an inpainting"
            " model; to keep pixels, connect the mask to 'Finish Restoration'.",
            on(large, mask=["mask", 0]),
        ),
        Row(
            TRAINING,
            ("RestorationTrainModel",),
            "model: not ResShift",
            "the model connected to 'model' is a …, not a ResShift model. Load one with 'Load"
            " ResShift Model'.",
            on(model=["sd", 0]),
        ),
        Row(
            TRAINING,
            ("RestorationTrainModel",),
            "latents: of other pictures",
            "'latents' are 8x8 of 4 channels and those of 'positive' 8x8 of 48 channels. Connect"
            " latents and positive of one 'ResShift Training Pairs' that got this model.",
            on(latents=["latent", 0]),
        ),
        Row(
            TRAINING,
            ("RestorationTrainModel",),
            "positive: a text",
            "'positive' has not one degraded picture in each of its entries. Connect latents and"
            " positive of one 'ResShift Training Pairs' that got this model.",
            on(positive=["text", 0]),
        ),
        Row(
            TRAINING,
            ("RestorationTrainModel",),
            "filename_prefix: outside the folder",
            "'filename_prefix' is '../model' and names no file inside ComfyUI's"
            " output/restoration_training; write a name such as 'own_model'.",
            on(filename_prefix="../model"),
        ),
    ]


def mask_rows() -> list[Row]:
    filling = ("ResShiftConditioning", "ResShiftRestoreImage")
    finish = ("RestorationFinish",)
    sides = {"ResShiftConditioning": 32, "ResShiftRestoreImage": 8, "RestorationFinish": 8}

    def masked(**values: Any) -> Callable[[str], Prompt]:
        def prompt(node_id: str) -> Prompt:
            links = {"original": ["other", 0]} if node_id in finish else FILLING
            return graph(node_id, {"mask": mask(**values)}, mask=["mask", 0], **links)

        return prompt

    def size(node_id: str) -> Size:
        return (1, sides[node_id], sides[node_id])

    return [
        Row(
            MASKS,
            (*filling, *finish),
            "mask: another size",
            "'mask' is 9x8 and the image 8x8; resize the mask to the size of the image.",
            masked(width=9),
        ),
        Row(
            MASKS,
            (*filling, *finish),
            "mask: three for one image",
            "'mask' has 3 masks for 1 images; give one, or one for each.",
            masked(batch=3),
        ),
        Row(
            MASKS,
            (*filling, *finish),
            "mask: NaN",
            "'mask' has NaN or infinite values; mend or replace the node that made it.",
            masked(value="nan"),
        ),
        *(
            Row(
                MASKS,
                (*filling, *finish),
                f"mask: all {value}",
                outcome,
                masked(value=value),
                "works",
                size,
            )
            for value, outcome in (
                ("0", "works, nothing is filled"),
                ("1", "works, all of it is filled"),
                ("7", "works, as 1"),
            )
        ),
        Row(
            MASKS,
            filling,
            "a mask for a model that takes none",
            "this model (super-resolution) takes no mask. Disconnect it, or load an inpainting"
            " model; to keep pixels, connect the mask to 'Finish Restoration'.",
            on(mask=["mask", 0]),
        ),
        Row(
            MASKS,
            filling,
            "no mask for a model that fills holes",
            "this model fills holes: connect a mask, 1 where pixels are missing.",
            on(**FILLING),
        ),
        Row(
            MASKS,
            filling,
            "the MASK of a Load Image whose picture has no transparency",
            "this model fills holes, and 'mask' is the empty one that Load Image gives with a picture"
            " without transparency. Paint a mask (right-click on Load Image, Open in MaskEditor), or"
            " load one with Load Image (as Mask): 1 where pixels are missing.",
            masked(value="0", height=64, width=64),
        ),
        Row(
            MASKS,
            finish,
            "the MASK of a Load Image whose picture has no transparency",
            "'mask' is the empty one that Load Image gives with a picture without transparency."
            " Connect the mask of what was restored, 1 where the restored pixels stay, or disconnect"
            " 'original' and 'mask'.",
            masked(value="0", height=64, width=64),
        ),
        Row(
            MASKS,
            filling,
            "an empty mask for a model that takes none",
            "works, as without it",
            lambda node_id: graph(
                node_id, {"mask": mask(value="0", height=64, width=64)}, mask=["mask", 0]
            ),
            "works",
            lambda node_id: (1, 32, 32),
        ),
        Row(
            MASKS,
            finish,
            "mask without original",
            "'original' and 'mask' belong together: connect both or neither.",
            on(mask=["mask", 0]),
        ),
    ]
