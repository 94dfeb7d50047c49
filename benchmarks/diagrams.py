"""Drawings for the help pages: how nodes are wired, and curves of schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

BOX = (132, 30)  # the help panel is narrow
MARGIN = 8
NOTE_HEIGHT = 18
INK, PALE, STRONG = "#303030", "#e8e8e8", "#ffd27f"
COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#7d3c98")
PLOT = (440, 260)
FRAME = (46, 14, 424, 214)  # left, top, right, bottom of a plot's axes


@dataclass(frozen=True)
class Wiring:
    """A graph of nodes.

    Attributes:
        places: Left and top of each node's box, by display name.
        links: From node, to node, type of what goes along.
        note: Lines under it.
    """

    places: Mapping[str, tuple[int, int]]
    links: Sequence[tuple[str, str, str]]
    note: Sequence[str] = ()


@dataclass(frozen=True)
class Curve:
    """A line or a row of points.

    Attributes:
        title: Its text in the legend.
        points: x and y.
        line: Whether points are joined.
    """

    title: str
    points: Sequence[tuple[float, float]]
    line: bool = True


def draw_wiring(wiring: Wiring, shown: str) -> Image.Image:
    """Return a picture of a graph in which one node is emphasised."""
    right = max(x for x, _ in wiring.places.values()) + BOX[0] + MARGIN
    bottom = max(y for _, y in wiring.places.values()) + BOX[1] + MARGIN
    canvas = Image.new("RGB", (right, bottom + NOTE_HEIGHT * len(wiring.note)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(wiring.note):
        place = (MARGIN, bottom + number * NOTE_HEIGHT)
        draw.text(place, line, INK, ImageFont.load_default(12))
    for start, end, name in wiring.links:
        _draw_link(draw, wiring.places[start], wiring.places[end], name)
    for name, (x, y) in wiring.places.items():
        fill = STRONG if name == shown else PALE
        box = (x, y, x + BOX[0], y + BOX[1])
        draw.rounded_rectangle(box, 5, fill, INK, 2 if name == shown else 1)
        middle = (x + BOX[0] / 2, y + BOX[1] / 2)
        draw.text(middle, name, INK, _font_that_fits(draw, name), anchor="mm")
    return canvas


def draw_plot(
    curves: Sequence[Curve],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    x_title: str,
    y_title: str,
    legend_left: int = FRAME[0] + 10,
) -> Image.Image:
    """Return a plot with a legend; an axis may run downwards."""
    canvas = Image.new("RGB", PLOT, "white")
    draw = ImageDraw.Draw(canvas)
    small = ImageFont.load_default(12)
    left, top, right, bottom = FRAME

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (y - y_range[0]) / (y_range[1] - y_range[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    for share in (0, 0.25, 0.5, 0.75, 1):
        x = x_range[0] + share * (x_range[1] - x_range[0])
        y = y_range[0] + share * (y_range[1] - y_range[0])
        column, row = place(x, y)
        draw.line((left, row, right, row), PALE)
        draw.text((column, bottom + 9), f"{x:g}", INK, small, anchor="mt")
        draw.text((left - 5, row), f"{y:g}", INK, small, anchor="rm")
    draw.rectangle(FRAME, outline=INK)
    draw.text(((left + right) / 2, PLOT[1] - 4), x_title, INK, small, anchor="mb")
    draw.text((legend_left, top + 6), y_title, INK, small)
    for number, (curve, colour) in enumerate(zip(curves, COLOURS, strict=False)):
        points = [place(*point) for point in curve.points]
        if curve.line:
            draw.line(points, colour, 2)
        else:
            for x, y in points:
                draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        row = top + 26 + 17 * number
        draw.rectangle((legend_left, row + 2, legend_left + 10, row + 12), fill=colour)
        draw.text((legend_left + 16, row), curve.title, INK, small)
    return canvas


def _draw_link(
    draw: ImageDraw.ImageDraw, start: tuple[int, int], end: tuple[int, int], name: str
) -> None:
    """Draw an arrow from the foot of a box to the top of a lower one, or to a neighbour."""
    if end[1] == start[1]:
        a = (start[0] + BOX[0], start[1] + BOX[1] // 2)
        b = (end[0], a[1])
        draw.line((a, b), INK)
        draw.polygon((b, (b[0] - 7, b[1] - 4), (b[0] - 7, b[1] + 4)), INK)
        return
    a = (start[0] + BOX[0] // 2, start[1] + BOX[1])
    b = (end[0] + BOX[0] // 2, end[1])
    bend = b[1] - 14
    draw.line((a, (a[0], bend), (b[0], bend), b), INK)
    draw.polygon((b, (b[0] - 4, b[1] - 7), (b[0] + 4, b[1] - 7)), INK)
    draw.text((a[0] + 4, a[1] + 3), name, INK, ImageFont.load_default(11))


def _font_that_fits(draw: ImageDraw.ImageDraw, name: str) -> ImageFont.FreeTypeFont:
    size = 12
    while draw.textlength(name, font=ImageFont.load_default(size)) > BOX[0] - 8:
        size -= 1
    return ImageFont.load_default(size)


COLUMNS = tuple(MARGIN + number * (BOX[0] + 14) for number in range(3))
ROWS = tuple(MARGIN + number * (BOX[1] + 32) for number in range(6))

RESSHIFT = Wiring(
    {
        "Load ResShift VAE": (COLUMNS[0], ROWS[0]),
        "Load Image": (COLUMNS[1], ROWS[0]),
        "Load ResShift Model": (COLUMNS[2], ROWS[0]),
        "ResShift Conditioning": (COLUMNS[1], ROWS[1]),
        "Residual Shift Sampler": (COLUMNS[2], ROWS[2]),
        "VAE Decode": (COLUMNS[0], ROWS[3]),
        "Finish Restoration": (COLUMNS[1], ROWS[4]),
    },
    (
        ("Load ResShift VAE", "ResShift Conditioning", "VAE"),
        ("Load ResShift VAE", "VAE Decode", ""),
        ("Load Image", "ResShift Conditioning", "IMAGE"),
        ("Load ResShift Model", "ResShift Conditioning", "MODEL"),
        ("Load ResShift Model", "Residual Shift Sampler", ""),
        ("ResShift Conditioning", "Residual Shift Sampler", "positive, LATENT"),
        ("ResShift Conditioning", "Finish Restoration", ""),
        ("Residual Shift Sampler", "VAE Decode", "LATENT"),
        ("VAE Decode", "Finish Restoration", "IMAGE"),
    ),
    ("Width and height go from the conditioning to Finish Restoration.",),
)
CUSTOM_SAMPLING = Wiring(
    {
        "Load ResShift Model": (COLUMNS[0], ROWS[0]),
        "ResShift Conditioning": (COLUMNS[1], ROWS[0]),
        "Residual Shift Scheduler": (COLUMNS[0], ROWS[1]),
        "BasicGuider": (COLUMNS[1], ROWS[1]),
        "Residual Shift Sampler Select": (COLUMNS[2], ROWS[1]),
        "SamplerCustomAdvanced": (COLUMNS[1], ROWS[2]),
        "VAE Decode": (COLUMNS[1], ROWS[3]),
    },
    (
        ("Load ResShift Model", "Residual Shift Scheduler", "MODEL"),
        ("Load ResShift Model", "BasicGuider", ""),
        ("ResShift Conditioning", "BasicGuider", "positive"),
        ("Residual Shift Scheduler", "SamplerCustomAdvanced", "SIGMAS"),
        ("BasicGuider", "SamplerCustomAdvanced", "GUIDER"),
        ("Residual Shift Sampler Select", "SamplerCustomAdvanced", "SAMPLER"),
        ("SamplerCustomAdvanced", "VAE Decode", "LATENT"),
    ),
    (
        "NOISE of RandomNoise and LATENT of ResShift Conditioning also go",
        "into SamplerCustomAdvanced.",
    ),
)
TRAINING = Wiring(
    {
        "Restoration Pair Crops": (COLUMNS[0], ROWS[0]),
        "held-back pictures": (COLUMNS[1], ROWS[0]),
        "Load ResShift Model": (COLUMNS[2], ROWS[0]),
        "Restoration Damage": (COLUMNS[0], ROWS[1]),
        "ResShift Validation": (COLUMNS[2], ROWS[1]),
        "ResShift Training Pairs": (COLUMNS[0], ROWS[2]),
        "Train LoRA": (COLUMNS[1], ROWS[3]),
        "Save LoRA": (COLUMNS[0], ROWS[4]),
        "Validation Chart": (COLUMNS[2], ROWS[4]),
    },
    (
        ("Restoration Pair Crops", "Restoration Damage", "degraded"),
        ("held-back pictures", "ResShift Validation", "clean, degraded"),
        ("Load ResShift Model", "ResShift Validation", "MODEL"),
        ("Restoration Damage", "ResShift Training Pairs", "degraded"),
        ("ResShift Training Pairs", "Train LoRA", "latents, positive"),
        ("ResShift Validation", "Train LoRA", ""),
        ("ResShift Validation", "Validation Chart", "validation"),
        ("Train LoRA", "Save LoRA", ""),
        ("Train LoRA", "Validation Chart", "lora, loss_map"),
    ),
    (
        "The clean pieces go from the crops to the pairs; the model and its VAE",
        "go to the pairs and to the validation, whose MODEL Train LoRA takes.",
    ),
)
MODEL_TRAINING = Wiring(
    {
        "Restoration Pair Crops": (COLUMNS[0], ROWS[0]),
        "Load ResShift Model": (COLUMNS[2], ROWS[0]),
        "Restoration Damage": (COLUMNS[0], ROWS[1]),
        "ResShift Validation": (COLUMNS[2], ROWS[1]),
        "ResShift Training Pairs": (COLUMNS[0], ROWS[2]),
        "Restoration Train Model": (COLUMNS[1], ROWS[3]),
        "Save Model": (COLUMNS[0], ROWS[4]),
        "Validation Chart": (COLUMNS[2], ROWS[4]),
    },
    (
        ("Restoration Pair Crops", "Restoration Damage", "degraded"),
        ("Load ResShift Model", "ResShift Validation", "MODEL"),
        ("Restoration Damage", "ResShift Training Pairs", "degraded"),
        ("ResShift Training Pairs", "Restoration Train Model", "latents, positive"),
        ("ResShift Validation", "Restoration Train Model", ""),
        ("ResShift Validation", "Validation Chart", "validation"),
        ("Restoration Train Model", "Save Model", ""),
        ("Restoration Train Model", "Validation Chart", "MODEL, loss_map"),
    ),
    (
        "The clean pieces go from the crops to the pairs; the model and its VAE",
        "go to the pairs and to the validation. MODEL restores at once, too.",
    ),
)
DIFFBIR = Wiring(
    {
        "Load Checkpoint": (COLUMNS[0], ROWS[0]),
        "Load Image": (COLUMNS[1], ROWS[0]),
        "Load Restoration Network": (COLUMNS[2], ROWS[0]),
        "CLIP Text Encode (two)": (COLUMNS[0], ROWS[1]),
        "Load LAControlNet": (COLUMNS[1], ROWS[1]),
        "Remove Degradation": (COLUMNS[2], ROWS[1]),
        "DiffBIR Conditioning": (COLUMNS[1], ROWS[2]),
        "DiffBIR Sampler": (COLUMNS[1], ROWS[3]),
        "VAE Decode": (COLUMNS[1], ROWS[4]),
        "Finish Restoration": (COLUMNS[2], ROWS[5]),
    },
    (
        ("Load Checkpoint", "CLIP Text Encode (two)", "CLIP"),
        ("Load Image", "Remove Degradation", "IMAGE"),
        ("Load Restoration Network", "Remove Degradation", "UPSCALE_M."),
        ("CLIP Text Encode (two)", "DiffBIR Conditioning", "prompts"),
        ("Load LAControlNet", "DiffBIR Conditioning", "CONTROL_NET"),
        ("Remove Degradation", "DiffBIR Conditioning", "IMAGE"),
        ("Remove Degradation", "Finish Restoration", ""),
        ("DiffBIR Conditioning", "DiffBIR Sampler", "prompts, LATENT"),
        ("DiffBIR Sampler", "VAE Decode", "LATENT"),
        ("VAE Decode", "Finish Restoration", "IMAGE"),
    ),
    (
        "Load Checkpoint also gives MODEL to DiffBIR Sampler, and VAE to",
        "DiffBIR Conditioning and VAE Decode. Finish Restoration takes width",
        "and height of DiffBIR Conditioning, reference and size of the result",
        "of Remove Degradation.",
    ),
)
HYPIR = Wiring(
    {
        "Load Checkpoint": (COLUMNS[0], ROWS[0]),
        "Load HYPIR": (COLUMNS[1], ROWS[0]),
        "Restoration Tiles": (COLUMNS[2], ROWS[0]),
        "VAE Encode": (COLUMNS[0], ROWS[1]),
        "HYPIR Single Step": (COLUMNS[1], ROWS[1]),
        "BasicGuider": (COLUMNS[2], ROWS[1]),
        "SamplerCustomAdvanced": (COLUMNS[1], ROWS[2]),
        "VAE Decode": (COLUMNS[1], ROWS[3]),
    },
    (
        ("Load Checkpoint", "Load HYPIR", "MODEL"),
        ("Load HYPIR", "HYPIR Single Step", ""),
        ("Load HYPIR", "Restoration Tiles", "MODEL"),
        ("Restoration Tiles", "BasicGuider", "MODEL"),
        ("VAE Encode", "SamplerCustomAdvanced", "LATENT"),
        ("HYPIR Single Step", "SamplerCustomAdvanced", ""),
        ("BasicGuider", "SamplerCustomAdvanced", "GUIDER"),
        ("SamplerCustomAdvanced", "VAE Decode", "LATENT"),
    ),
    (
        "SAMPLER and SIGMAS come from HYPIR Single Step. VAE Encode takes the",
        "enlarged picture, BasicGuider a CLIP Text Encode.",
    ),
)
HYPIR_ONE_NODE = Wiring(
    {
        "Load Checkpoint": (COLUMNS[0], ROWS[0]),
        "Load HYPIR": (COLUMNS[1], ROWS[0]),
        "Load Image": (COLUMNS[0], ROWS[1]),
        "Restore Image (HYPIR)": (COLUMNS[1], ROWS[1]),
        "Save Image": (COLUMNS[2], ROWS[1]),
    },
    (
        ("Load Checkpoint", "Load HYPIR", "MODEL"),
        ("Load HYPIR", "Restore Image (HYPIR)", "MODEL"),
        ("Load Image", "Restore Image (HYPIR)", ""),
        ("Restore Image (HYPIR)", "Save Image", ""),
    ),
    ("CLIP and VAE of the checkpoint also go into Restore Image (HYPIR).",),
)
DIFFBIR_ONE_NODE = Wiring(
    {
        "Load Checkpoint": (COLUMNS[0], ROWS[0]),
        "Load LAControlNet": (COLUMNS[1], ROWS[0]),
        "Load Restoration Network": (COLUMNS[2], ROWS[0]),
        "Load Image": (COLUMNS[0], ROWS[1]),
        "Restore Image (DiffBIR)": (COLUMNS[1], ROWS[1]),
        "Save Image": (COLUMNS[2], ROWS[1]),
    },
    (
        ("Load Checkpoint", "Restore Image (DiffBIR)", ""),
        ("Load LAControlNet", "Restore Image (DiffBIR)", ""),
        ("Load Restoration Network", "Restore Image (DiffBIR)", ""),
        ("Load Image", "Restore Image (DiffBIR)", ""),
        ("Restore Image (DiffBIR)", "Save Image", ""),
    ),
    ("MODEL, CLIP and VAE of the checkpoint, CONTROL_NET, UPSCALE_MODEL.",),
)
