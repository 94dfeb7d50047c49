"""Drawings for the help pages: how nodes are wired, and curves of schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

BOX = (146, 30)
MARGIN = 8
NOTE_HEIGHT = 20
INK, PALE, STRONG = "#303030", "#e8e8e8", "#ffd27f"
COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#7d3c98")
PLOT = (640, 260)
FRAME = (52, 14, 626, 216)  # left, top, right, bottom of a plot's axes


@dataclass(frozen=True)
class Wiring:
    """A graph of nodes.

    Attributes:
        places: Left and top of each node's box, by display name.
        links: From node, to node, type of what goes along.
        note: A line under it.
    """

    places: Mapping[str, tuple[int, int]]
    links: Sequence[tuple[str, str, str]]
    note: str = ""


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
    canvas = Image.new("RGB", (right, bottom + (NOTE_HEIGHT if wiring.note else 0)), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, bottom), wiring.note, INK, ImageFont.load_default(11))
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
    """Draw an arrow from the right side of a box to the left one, or from its foot to the top."""
    small = ImageFont.load_default(10)
    if end[0] >= start[0] + BOX[0]:
        a = (start[0] + BOX[0], start[1] + BOX[1] // 2)
        b = (end[0], end[1] + BOX[1] // 2)
        half = b[0] - 14
        draw.line((a, (half, a[1]), (half, b[1]), b), INK, 1)
        draw.polygon((b, (b[0] - 7, b[1] - 4), (b[0] - 7, b[1] + 4)), INK)
        draw.text((a[0] + 4, a[1] - 2), name, INK, small, anchor="lb")
        return
    down = end[1] > start[1]
    a = (start[0] + BOX[0] // 2, start[1] + (BOX[1] if down else 0))
    b = (end[0] + BOX[0] // 2, end[1] + (0 if down else BOX[1]))
    tip = -7 if down else 7
    draw.line((a, b), INK, 1)
    draw.polygon((b, (b[0] - 4, b[1] + tip), (b[0] + 4, b[1] + tip)), INK)
    draw.text((a[0] + 5, a[1] + 0.3 * (b[1] - a[1])), name, INK, small, anchor="lm")


def _font_that_fits(draw: ImageDraw.ImageDraw, name: str) -> ImageFont.FreeTypeFont:
    size = 12
    while draw.textlength(name, font=ImageFont.load_default(size)) > BOX[0] - 8:
        size -= 1
    return ImageFont.load_default(size)


COLUMNS = tuple(MARGIN + number * (BOX[0] + 74) for number in range(4))
ROWS = tuple(MARGIN + number * (BOX[1] + 22) for number in range(5))

RESSHIFT = Wiring(
    {
        "Load ResShift Model": (COLUMNS[0], ROWS[0]),
        "Load Image": (COLUMNS[0], ROWS[1]),
        "Load ResShift VAE": (COLUMNS[0], ROWS[2]),
        "ResShift Conditioning": (COLUMNS[1], ROWS[1]),
        "Residual Shift Sampler": (COLUMNS[2], ROWS[0]),
        "VAE Decode": (COLUMNS[2], ROWS[2]),
        "Finish Restoration": (COLUMNS[3], ROWS[1]),
    },
    (
        ("Load ResShift Model", "Residual Shift Sampler", "MODEL"),
        ("Load ResShift Model", "ResShift Conditioning", ""),
        ("Load Image", "ResShift Conditioning", "IMAGE"),
        ("Load ResShift VAE", "ResShift Conditioning", ""),
        ("Load ResShift VAE", "VAE Decode", "VAE"),
        ("ResShift Conditioning", "Residual Shift Sampler", "positive, LATENT; width, height"),
        ("ResShift Conditioning", "Finish Restoration", ""),
        ("Residual Shift Sampler", "VAE Decode", "LATENT"),
        ("VAE Decode", "Finish Restoration", "IMAGE"),
    ),
)
CUSTOM_SAMPLING = Wiring(
    {
        "RandomNoise": (COLUMNS[1], ROWS[3]),
        "Load ResShift Model": (COLUMNS[0], ROWS[1]),
        "ResShift Conditioning": (COLUMNS[0], ROWS[4]),
        "BasicGuider": (COLUMNS[1], ROWS[1]),
        "Residual Shift Scheduler": (COLUMNS[1], ROWS[2]),
        "Residual Shift Sampler Select": (COLUMNS[1], ROWS[0]),
        "SamplerCustomAdvanced": (COLUMNS[2], ROWS[1]),
        "VAE Decode": (COLUMNS[3], ROWS[1]),
    },
    (
        ("RandomNoise", "SamplerCustomAdvanced", "NOISE"),
        ("Load ResShift Model", "BasicGuider", "MODEL"),
        ("Load ResShift Model", "Residual Shift Scheduler", ""),
        ("ResShift Conditioning", "BasicGuider", ""),
        ("ResShift Conditioning", "SamplerCustomAdvanced", "positive, LATENT"),
        ("BasicGuider", "SamplerCustomAdvanced", "GUIDER"),
        ("Residual Shift Scheduler", "SamplerCustomAdvanced", "SIGMAS"),
        ("Residual Shift Sampler Select", "SamplerCustomAdvanced", "SAMPLER"),
        ("SamplerCustomAdvanced", "VAE Decode", "LATENT"),
    ),
    "ResShift Conditioning takes model, VAE and image.",
)
DIFFBIR = Wiring(
    {
        "Load Restoration Network": (COLUMNS[0], ROWS[0]),
        "Load Image": (COLUMNS[0], ROWS[1]),
        "Load LAControlNet": (COLUMNS[0], ROWS[2]),
        "Load Checkpoint": (COLUMNS[0], ROWS[3]),
        "Remove Degradation": (COLUMNS[1], ROWS[0]),
        "CLIP Text Encode (two)": (COLUMNS[1], ROWS[3]),
        "DiffBIR Conditioning": (COLUMNS[2], ROWS[1]),
        "DiffBIR Sampler": (COLUMNS[2], ROWS[3]),
        "VAE Decode": (COLUMNS[3], ROWS[3]),
        "Finish Restoration": (COLUMNS[3], ROWS[0]),
    },
    (
        ("Load Restoration Network", "Remove Degradation", "network"),
        ("Load Image", "Remove Degradation", "IMAGE"),
        ("Remove Degradation", "Finish Restoration", "IMAGE as reference, size"),
        ("Remove Degradation", "DiffBIR Conditioning", ""),
        ("Load LAControlNet", "DiffBIR Conditioning", "CONTROL_NET"),
        ("Load Checkpoint", "CLIP Text Encode (two)", "CLIP"),
        ("CLIP Text Encode (two)", "DiffBIR Conditioning", "prompts"),
        ("DiffBIR Conditioning", "DiffBIR Sampler", "positive, negative, LATENT"),
        ("DiffBIR Conditioning", "Finish Restoration", "width, height"),
        ("DiffBIR Sampler", "VAE Decode", "LATENT"),
        ("VAE Decode", "Finish Restoration", "IMAGE"),
    ),
    "Load Checkpoint also gives MODEL to DiffBIR Sampler, and VAE to DiffBIR Conditioning and VAE Decode.",
)
DIFFBIR_ONE_NODE = Wiring(
    {
        "Load Restoration Network": (COLUMNS[0], ROWS[0]),
        "Load Image": (COLUMNS[0], ROWS[1]),
        "Load LAControlNet": (COLUMNS[0], ROWS[2]),
        "Load Checkpoint": (COLUMNS[0], ROWS[3]),
        "Restore Image (DiffBIR)": (COLUMNS[1] + 40, ROWS[1]),
        "Save Image": (COLUMNS[2] + 40, ROWS[1]),
    },
    (
        ("Load Restoration Network", "Restore Image (DiffBIR)", "UPSCALE_MODEL"),
        ("Load Image", "Restore Image (DiffBIR)", "IMAGE"),
        ("Load LAControlNet", "Restore Image (DiffBIR)", "CONTROL_NET"),
        ("Load Checkpoint", "Restore Image (DiffBIR)", "MODEL, CLIP, VAE"),
        ("Restore Image (DiffBIR)", "Save Image", "IMAGE"),
    ),
)
