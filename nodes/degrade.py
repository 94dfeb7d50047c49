"""Low-quality test inputs."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..pipelines.degrade import (
    LIMITS,
    METHODS,
    OF_THE_METHOD,
    RANGES,
    SECOND_RANGES,
    degrade_image,
)
from .messages import names_its_node
from .widgets import seed_input

CATEGORY = "restoration/image"
MEANINGS = {
    "blur": "standard deviation of the blur in pixels; 0 to 0 leaves blur out",
    "reduction": "how many times smaller the picture gets on the way, below 1 larger",
    "noise": "standard deviation of Gaussian noise, of 255",
    "poisson": "strength of Poisson noise, 1 being that of the picture's own number of levels",
    "jpeg": "JPEG quality; lower is worse",
}
STEPS = {"poisson": 0.05, "jpeg": 1.0}
PUBLISHED = {
    "blur": "ResShift and DiffBIR v2.1: 0.2 to 3, first order 0.1 to 12 (faces 10)",
    "reduction": "first order: 1 to 12 (faces 0.8 to 8)",
    "noise": "ResShift and DiffBIR v2.1: 1 to 30, first order 0 to 15 (faces 20)",
    "poisson": "ResShift and DiffBIR v2.1: 0.05 to 3; first order has none",
    "jpeg": "ResShift and DiffBIR v2.1: 30 to 95, first order 30 to 100 (faces 60 to 100)",
    "second_blur": "0.2 to 1.5",
    "second_reduction": "of the size that the result has",
    "second_noise": "1 to 25",
    "second_poisson": "0.05 to 2.5",
    "second_jpeg": "30 to 95",
}


def range_inputs(name: str) -> list[io.Input]:
    """Return inputs for the two ends of a range."""
    kind = name.removeprefix("second_")
    stage = "Second stage: " if name in SECOND_RANGES else ""
    return [
        io.Float.Input(
            f"{name}_{end}",
            default=OF_THE_METHOD,
            min=OF_THE_METHOD,
            max=LIMITS[kind][1],
            step=STEPS.get(kind, 0.1),
            advanced=True,
            tooltip=(
                f"{stage}{title} {MEANINGS[kind]}. -1 takes that of the method ({PUBLISHED[name]})."
            ),
        )
        for end, title in (("min", "Smallest"), ("max", "Largest"))
    ]


class RestorationDegrade(io.ComfyNode):
    """Makes low-quality pictures of sharp ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationDegrade",
            display_name="Restoration Degrade",
            category=CATEGORY,
            description=(
                "Blurs, reduces, adds noise and compresses at random, as ResShift and DiffBIR do in"
                " training: for tests of the kind picture, degrade, restore, measure."
            ),
            search_aliases=[
                "degradation",
                "low quality",
                "real-esrgan",
                "codeformer",
                "blur",
                "noise",
                "jpeg",
            ],
            inputs=[
                io.Image.Input("image", tooltip="Sharp pictures; alpha is dropped."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=next(iter(METHODS)),
                    tooltip=(
                        "'second order' degrades twice (Real-ESRGAN) and varies most; 'first order'"
                        " degrades once and strongly (CodeFormer); 'one round' is milder and nearer"
                        " to everyday pictures."
                    ),
                ),
                seed_input(),
                io.Int.Input(
                    "scale",
                    default=4,
                    min=1,
                    max=16,
                    tooltip=(
                        "How many times smaller the result is. Take that of the restoration to be"
                        " tested; DiffBIR's first order has 1."
                    ),
                ),
                io.Boolean.Input(
                    "keep_size",
                    default=False,
                    tooltip="Enlarges the result to the picture's own size again, bicubic.",
                ),
                *(part for name in (*RANGES, *SECOND_RANGES) for part in range_inputs(name)),
            ],
            outputs=[io.Image.Output(tooltip="Low-quality pictures, on the 256 levels of 8 bit.")],
        )

    @classmethod
    @names_its_node
    def execute(
        cls, image: Tensor, method: str, seed: int, scale: int, keep_size: bool, **ends: float
    ) -> io.NodeOutput:
        """Degrade the pictures."""
        ranges = {
            name: (ends[f"{name}_min"], ends[f"{name}_max"]) for name in (*RANGES, *SECOND_RANGES)
        }
        return io.NodeOutput(degrade_image(image, method, seed, scale, keep_size, ranges))
