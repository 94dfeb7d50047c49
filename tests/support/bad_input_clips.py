"""Rows of docs/bad-input.md on the frames of clips."""

from __future__ import annotations

from pack.tests.support.bad_input import Row, on
from pack.tests.support.bad_input_graphs import picture

CLIPS = "Frames of a clip"
NOISE, STEADY = "RestorationMovingNoise", "RestorationSteadyFrames"
MOVING = "moving with the picture"


def clip_rows() -> list[Row]:
    two = {"other": picture(batch=2)}
    return [
        Row(
            CLIPS,
            (NOISE, STEADY),
            "frames: a NaN pixel",
            "'frames' has NaN or infinite pixels; the model that made it failed, often for lack of"
            " precision: run that model in float32 (fp32).",
            on({"other": picture("nan")}, frames=["other", 0]),
        ),
        Row(
            CLIPS,
            (NOISE, STEADY),
            "a single picture",
            "works, it comes out as without the node",
            on(),
            "works",
            lambda _: (1, 32, 32),
        ),
        Row(
            CLIPS,
            (STEADY,),
            "frames: two for one latent",
            "'frames' holds 2 pictures, and the latent that is sampled 1. Connect the frames of the"
            " latent's pictures, in their order.",
            on(two, frames=["other", 0]),
            "elsewhere",
        ),
        Row(
            CLIPS,
            (NOISE,),
            "frames: two for one latent",
            "'frames' holds 2 pictures, and the latent that is sampled 1. Connect the whole clip and"
            " its latents, or take latents out of the batch with Latent From Batch.",
            on(two, frames=["other", 0]),
            "elsewhere",
        ),
        Row(
            CLIPS,
            (NOISE,),
            "frames: of other proportions",
            "'frames' are 64x8, which does not fit the latent of 8x8 that is sampled. Connect the"
            " pictures that are restored, or pictures of the result's size.",
            on({"other": picture(width=64)}, frames=["other", 0]),
            "elsewhere",
        ),
        Row(
            CLIPS,
            (STEADY,),
            "previous_latent without previous_frame",
            "the frame before is told by its picture and by what was made of it. Connect both"
            " 'previous_latent' and 'previous_frame', or neither.",
            on(previous_latent=["lq", 2]),
        ),
        Row(
            CLIPS,
            (STEADY,),
            "previous_frame: of another size",
            "'previous_frame' is 9x8 and the frames are 8x8. Connect the frame before, of the same"
            " clip.",
            on(
                {"other": picture(width=9)},
                previous_latent=["lq", 2],
                previous_frame=["other", 0],
            ),
        ),
        Row(
            CLIPS,
            (STEADY,),
            "previous_latent: of another model",
            "'previous_latent' has shape (1, 4, 8, 8), and this model's latents have 48 channels."
            " Connect the sampled latent of the frame before.",
            on(previous_latent=["latent", 0], previous_frame=["other", 0]),
        ),
        Row(
            CLIPS,
            ("DiffBIRSampler",),
            f"batch_noise '{MOVING}' without frames",
            f"'batch_noise' is '{MOVING}', and there is no telling how these 2 pictures move. Connect"
            " the clip to 'frames' where the node has it, or choose another 'batch_noise'.",
            on({"picture": picture(batch=2)}, batch_noise=MOVING),
        ),
        Row(
            CLIPS,
            ("ResShiftRestoreImage",),
            "steadiness in pieces restored one by one",
            "a clip cannot be followed in pieces that are restored one by one. Set 'tiling' to 'per"
            " step'.",
            on(
                {"picture": picture(batch=2, height=32, width=32)},
                tiling="official chop",
                tile=64,
                steadiness=0.5,
            ),
        ),
        Row(
            CLIPS,
            ("ResShiftRestoreImage", "DiffBIRRestoreImage"),
            "steadiness: 1.5",
            "Value 1.5 bigger than max of 1.0: steadiness",
            on(steadiness=1.5),
            "refused",
        ),
    ]
