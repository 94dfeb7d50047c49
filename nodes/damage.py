"""Damages that old and badly copied pictures have, where they are, and faded levels."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..images.damage import DAMAGES
from ..images.levels import STRETCHINGS, Stretching
from ..images.scratches import SHADES, Shade
from ..pipelines.damage import MIXINGS, Mixing, correct_levels, damage_image, scratch_mask
from .messages import names_its_node
from .widgets import seed_input

CATEGORY = "restoration/image"
MEANINGS = {
    "grain": "Film grain: soft noise, strongest in the middle tones.",
    "halftone": "Dots of a printed picture.",
    "fading": "Faded dyes: paler, grey shadows, unevenly.",
    "color_cast": "A tint of one hue, which is drawn.",
    "scratches": "Scratches, hairs and dust, light and dark; the mask says where.",
    "chromatic_shift": "Colour fringes: red and blue moved against green.",
    "interlacing": "The comb of interlaced video: every other row from a moment later.",
    "video_compression": "Blocks and smears of MPEG-4 video at a low rate.",
}
# A photograph from an old album, so that a fresh node shows something.
DEFAULTS = {"grain": 0.3, "fading": 0.5, "scratches": 0.6}


class RestorationDamage(io.ComfyNode):
    """Damages pictures as age and bad copies do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationDamage",
            display_name="Restoration Damage",
            category=CATEGORY,
            description=(
                "Scratches, dust, grain, printed dots, fading, colour casts, colour fringes,"
                " interlacing and video compression, drawn at random: to make pairs for training"
                " and pictures for tests. It keeps the size; Restoration Degrade blurs and reduces."
            ),
            search_aliases=[
                "scratches",
                "dust",
                "halftone",
                "film grain",
                "interlace",
                "old photo",
                "degradation",
                "augment",
            ],
            inputs=[
                io.Image.Input("image", tooltip="Pictures; alpha is dropped."),
                seed_input(),
                *(
                    io.Float.Input(
                        name,
                        default=DEFAULTS.get(name, 0.0),
                        min=0.0,
                        max=1.0,
                        step=0.05,
                        tooltip=f"{MEANINGS[name]} 0 leaves it out, 1 is the worst.",
                    )
                    for name in DAMAGES
                ),
                io.Combo.Input(
                    "mixing",
                    options=list(MIXINGS),
                    default=MIXINGS[0],
                    tooltip=(
                        "Every picture of a batch gets all damages as they are set; or all of them,"
                        " each drawn from 0 up to what is set; or one of those that are set."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="Damaged pictures of the same size."),
                io.Mask.Output(tooltip="Where scratches and dust are, 1 where they hide all."),
            ],
        )

    @classmethod
    @names_its_node
    def execute(cls, image: Tensor, seed: int, mixing: Mixing, **strengths: float) -> io.NodeOutput:
        """Damage the pictures."""
        return io.NodeOutput(*damage_image(image, strengths, mixing, seed))


class RestorationScratchMask(io.ComfyNode):
    """Finds scratches and dust."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationScratchMask",
            display_name="Restoration Scratch Mask",
            category=CATEGORY,
            description=(
                "A mask of thin light and dark lines and of specks, for inpainting. It cannot tell"
                " a scratch from a thin line that belongs to the picture: look at the mask, and"
                " correct it in the mask editor."
            ),
            search_aliases=["scratch", "dust", "old photo", "defect", "inpainting mask", "hair"],
            inputs=[
                io.Image.Input("image", tooltip="Scratched pictures."),
                io.Float.Input(
                    "sensitivity",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Higher finds fainter lines and takes more of the picture for scratches.",
                ),
                io.Int.Input(
                    "width",
                    default=3,
                    min=1,
                    max=32,
                    tooltip="Widest scratch and largest speck in pixels; wider ones are not found.",
                ),
                io.Combo.Input(
                    "shade",
                    options=list(SHADES),
                    default=SHADES[0],
                    tooltip="Light scratches, dark ones, or both. One kind alone takes less of the picture.",
                ),
                io.Boolean.Input("specks", default=True, tooltip="Looks for dust besides lines."),
                io.Int.Input(
                    "grow",
                    default=2,
                    min=0,
                    max=64,
                    tooltip="Pixels by which what was found grows, so that no edge of it stays.",
                ),
            ],
            outputs=[io.Mask.Output(tooltip="1 on scratches and dust.")],
        )

    @classmethod
    @names_its_node
    def execute(
        cls,
        image: Tensor,
        sensitivity: float,
        width: int,
        shade: Shade,
        specks: bool,
        grow: int,
    ) -> io.NodeOutput:
        """Find them."""
        return io.NodeOutput(scratch_mask(image, sensitivity, width, shade, specks, grow))


class RestorationAutoLevels(io.ComfyNode):
    """Brings black, white and colours of faded pictures back."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return inputs and outputs of the node."""
        return io.Schema(
            node_id="RestorationAutoLevels",
            display_name="Restoration Auto Levels",
            category=CATEGORY,
            description=(
                "Stretches the levels of a faded picture until its darkest pixels are black and its"
                " lightest white; each channel by itself takes a colour cast away too."
            ),
            search_aliases=["auto contrast", "white balance", "faded", "levels", "old photo"],
            inputs=[
                io.Image.Input("image", tooltip="Faded pictures; alpha is kept."),
                io.Float.Input(
                    "strength",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0 leaves the picture as it is, 1 stretches to the whole range.",
                ),
                io.Combo.Input(
                    "stretching",
                    options=list(STRETCHINGS),
                    default=STRETCHINGS[0],
                    tooltip=(
                        "'each channel' also removes a colour cast, and the hue of a sunset with"
                        " it; 'brightness' keeps all hues."
                    ),
                ),
                io.Float.Input(
                    "clipped_percent",
                    default=0.5,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    tooltip="Percentage of pixels at each end that may become black or white.",
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    @names_its_node
    def execute(
        cls, image: Tensor, strength: float, stretching: Stretching, clipped_percent: float
    ) -> io.NodeOutput:
        """Stretch the levels."""
        return io.NodeOutput(correct_levels(image, strength, stretching, clipped_percent))
