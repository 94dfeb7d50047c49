"""Damages that old and badly copied pictures have, drawn at random.

What ages (dyes fade and shift), what lies on the surface (scratches, dust), how the picture was made
(film grain, printed dots) and how it was copied (colour fringes, interlaced video, compression).
Every function leaves the picture as it is at a strength of 0 and is at its worst at 1.

Source: screening of printed dots: Ulichney 1987, "Digital Halftoning", chapter 5 (clustered dots).
Grain as smoothed noise that is strongest in the middle tones: Newson et al. 2017 (IPOL,
"Realistic Film Grain Rendering"), figure 2.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from .blur import gaussian_blur
from .color import luminance
from .resize import quantize_8bit

Generator = np.random.Generator
# Damage that has no map of where it is.
Damage = Callable[[Tensor, float, Generator], Tensor]

# Scratches, hairs and specks of dust on a picture of a million pixels, at full strength.
SCRATCHES, HAIRS, SPECKS = 24, 40, 400
DRAWN_LARGER = 4  # lines are drawn so many times larger and reduced, which smooths their edges
SCREEN_ANGLES = (15.0, 75.0, 0.0)  # of the inks cyan, magenta and yellow, in degrees
SCREEN_CELL_PX = (3.0, 5.0)
GRAIN_RADIUS_PX = 3  # how far its smoothing reaches
GRAIN_SPREAD = 0.11  # standard deviation of full grain in the middle tones
WORST_SCALE = 31  # of MPEG-4's quantiser
LONGEST_FRAME_PX = 8190  # of MPEG-4, in even sides


def fade(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Return a picture whose dyes have faded: paler, with grey shadows, unevenly.

    Args:
        image: `(3, H, W)` float32 in [0, 1] on the CPU, as for all functions here.
        strength: From 0, nothing, to 1, the worst.
        generator: Every random choice comes from it.
    Returns:
        Like `image`, as from all functions here.
    """
    pale = 0.45 + 0.4 * (0.6 * luminance(image[None])[0] + 0.4 * image)
    uneven = 1 - 0.35 * _slow_field(image.shape[1:], generator)
    return _mix(image, pale, strength * uneven)


def cast_color(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Return a picture with a colour cast of a drawn hue; brightness stays about the same."""
    angle = generator.uniform(0, 2 * math.pi)
    turns = angle + 2 * math.pi / 3 * np.arange(3)
    gain = torch.from_numpy(np.exp(0.5 * strength * np.cos(turns))).float()
    return (image * gain[:, None, None]).clamp(0, 1)


def add_grain(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Return a picture with film grain: mostly grey, soft, strongest in the middle tones."""
    noise = torch.from_numpy(generator.standard_normal((4, *image.shape[1:]), np.float32))
    noise = gaussian_blur(noise[None], generator.uniform(0.5, 1.0), GRAIN_RADIUS_PX)[0]
    noise = noise / noise.std().clamp(min=1e-6)
    noise = 0.95 * noise[:1] + 0.3 * noise[1:]
    light = luminance(image[None])[0]
    return (image + strength * GRAIN_SPREAD * 2 * (light * (1 - light)).sqrt() * noise).clamp(0, 1)


def print_dots(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Return a picture printed in dots of cyan, magenta and yellow ink (halftone)."""
    cell = generator.uniform(*SCREEN_CELL_PX)
    turn = generator.uniform(0, 90)
    rows, columns = torch.meshgrid(
        *(torch.arange(side, dtype=torch.float32) for side in image.shape[1:]), indexing="ij"
    )
    printed = []
    for channel, angle in zip(image, SCREEN_ANGLES, strict=True):
        radians = math.radians(angle + turn)
        u = (columns * math.cos(radians) + rows * math.sin(radians)) / cell
        v = (rows * math.cos(radians) - columns * math.sin(radians)) / cell
        first, second = generator.uniform(0, 1, 2)
        hill = torch.cos(2 * math.pi * (u + first)) + torch.cos(2 * math.pi * (v + second))
        threshold = _ranks(hill)  # evenly spread, so that tones are kept in the mean
        ink = torch.sigmoid(12 * (1 - channel - threshold))
        printed.append(1 - ink)
    return _mix(image, torch.stack(printed), torch.tensor(strength))


def shift_channels(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Return a picture with colour fringes: red and blue moved and scaled against green."""
    angle = generator.uniform(0, 2 * math.pi)
    shift = 2.5 * strength * np.array([math.cos(angle), math.sin(angle)])
    scale = 0.004 * strength * generator.uniform(-1, 1)
    return torch.stack(
        [
            _move(image[0], shift, 1 + scale),
            image[1],
            _move(image[2], -shift, 1 - scale),
        ]
    )


def interlace(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Return a picture of interlaced video: every other row is from a moment later."""
    farthest = generator.uniform(3, 8) * strength * generator.choice([-1, 1])
    field = _move_rows(image, farthest)
    rows = torch.arange(image.shape[1]) % 2 == int(generator.integers(2))
    return torch.where(rows[:, None], field, image)


def compress_video(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Return a frame of MPEG-4 video, predicted from one before that stood a little elsewhere."""
    if strength == 0:
        return image
    quantiser = max(2, round(WORST_SCALE * strength))
    height, width = image.shape[1:]
    padded = F.pad(image[None], (0, width % 2, 0, height % 2), mode="replicate")[0]
    down, right = (int(shift) for shift in generator.integers(-3, 4, 2))
    before = padded.roll((down, right), (1, 2))
    frames = _encode_and_decode([_levels(before), _levels(padded)], quantiser)
    decoded = torch.from_numpy(frames[-1]).permute(2, 0, 1).to(image.dtype) / 255
    return decoded[:, :height, :width].contiguous()


def scratch(image: Tensor, strength: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return a picture with scratches, hairs and dust, light and dark, and where they are.

    Returns:
        The picture like `image`, and `(H, W)` in [0, 1], how far a pixel is covered.
    """
    height, width = image.shape[1:]
    drawn = (width * DRAWN_LARGER, height * DRAWN_LARGER)
    layers = [Image.new("L", drawn) for _ in range(2)]  # light and dark
    share = strength * height * width / 1e6
    for count, draw in ((SCRATCHES, _draw_scratch), (HAIRS, _draw_hair), (SPECKS, _draw_speck)):
        for _ in range(_whole(count * share, generator)):
            layer = layers[int(generator.random() < 0.4)]
            draw(ImageDraw.Draw(layer), layer.size, generator)
    light, dark = (
        torch.from_numpy(np.asarray(layer.reduce(DRAWN_LARGER), np.float32)) / 255
        for layer in layers
    )
    covered = _mix(image, torch.tensor(0.95), light)
    covered = _mix(covered, torch.tensor(0.04), dark)
    return covered, 1 - (1 - light) * (1 - dark)


# In the order in which they happen: made, aged, copied; scratches come before copying.
MAKING_AND_AGEING: dict[str, Damage] = {
    "grain": add_grain,
    "halftone": print_dots,
    "fading": fade,
    "color_cast": cast_color,
}
SCRATCHES_AND_DUST = "scratches"
COPYING: dict[str, Damage] = {
    "chromatic_shift": shift_channels,
    "interlacing": interlace,
    "video_compression": compress_video,
}
DAMAGES: tuple[str, ...] = (*MAKING_AND_AGEING, SCRATCHES_AND_DUST, *COPYING)


def damage(
    image: Tensor, strengths: dict[str, float], generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return a picture with several damages, one after the other as they happen, and its scratches.

    Args:
        image: `(3, H, W)` in [0, 1], any size.
        strengths: Strength by name, of `DAMAGES`; one left out is 0.
        generator: Every random choice comes from it.
    Returns:
        `(3, H, W)` float32 in [0, 1] on the CPU, on the 256 levels of 8 bit, and where scratches
        and dust are, `(H, W)` in [0, 1].
    """
    x = image.detach().to("cpu", torch.float32).clamp(0, 1)
    # Each has a stream of its own, so that one strength changes nothing of the others.
    streams = dict(zip(DAMAGES, generator.spawn(len(DAMAGES)), strict=True))

    def apply(x: Tensor, kinds: dict[str, Damage]) -> Tensor:
        for name, function in kinds.items():
            if strengths.get(name, 0) > 0:
                x = function(x, strengths[name], streams[name])
        return x

    x = apply(x, MAKING_AND_AGEING)
    x, where = scratch(x, strengths.get(SCRATCHES_AND_DUST, 0), streams[SCRATCHES_AND_DUST])
    x = apply(x, COPYING)
    return quantize_8bit(x), where


def _mix(image: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return image + share * (other - image)


def _whole(count: float, generator: Generator) -> int:
    """Return a whole number whose mean is `count`."""
    return int(count + generator.random())


def _levels(image: Tensor) -> np.ndarray:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _slow_field(size: tuple[int, ...], generator: Generator) -> Tensor:
    """Return a map `(H, W)` in [0, 1] that changes slowly over the picture."""
    coarse = torch.from_numpy(generator.uniform(0, 1, (1, 1, 4, 4))).float()
    field = F.interpolate(coarse, size=tuple(size), mode="bicubic", align_corners=True)
    return field[0, 0].clamp(0, 1)


def _ranks(x: Tensor) -> Tensor:
    """Return what share of the elements of `x` lies below each, same shape."""
    ranks = torch.empty(x.numel())
    ranks[x.flatten().argsort()] = (torch.arange(x.numel()) + 0.5) / x.numel()
    return ranks.view_as(x)


def _move(channel: Tensor, shift_px: np.ndarray, scale: float) -> Tensor:
    """Return `(H, W)` moved by (right, down) pixels and scaled around its middle."""
    height, width = channel.shape
    right, down = (2 * shift / side for shift, side in zip(shift_px, (width, height), strict=True))
    matrix = torch.tensor([[[1 / scale, 0.0, -right], [0.0, 1 / scale, -down]]]).float()
    grid = F.affine_grid(matrix, [1, 1, height, width], align_corners=False)
    moved = F.grid_sample(channel[None, None], grid, padding_mode="border", align_corners=False)
    return moved[0, 0]


def _move_rows(image: Tensor, shift_px: float) -> Tensor:
    """Return the picture moved to the right, its border repeated."""
    return torch.stack([_move(channel, np.array([shift_px, 0.0]), 1.0) for channel in image])


def _encode_and_decode(frames: list[np.ndarray], quantiser: int) -> list[np.ndarray]:
    """Return `(H, W, 3)` frames after MPEG-4 at one quantiser, the first whole, the rest predicted."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="avi") as container:
        encoder = container.add_stream("mpeg4", rate=Fraction(25))
        encoder.height, encoder.width = frames[0].shape[:2]
        encoder.pix_fmt = "yuv420p"
        encoder.thread_count = 1  # the same bytes everywhere
        encoder.codec_context.qmin = encoder.codec_context.qmax = quantiser
        for pixels in frames:
            container.mux(encoder.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(encoder.encode())
    stream.seek(0)
    with av.open(stream) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def _draw_scratch(draw: ImageDraw.ImageDraw, size: tuple[int, int], generator: Generator) -> None:
    """Draw a long scratch, nearly straight and mostly upright, as films and prints get them."""
    length = generator.uniform(0.2, 1.2) * size[1]
    angle = math.radians(90 + generator.normal(0, 12 if generator.random() < 0.7 else 60))
    _draw_path(draw, size, length, angle, bend=0.02, width_px=(0.5, 1.8), generator=generator)


def _draw_hair(draw: ImageDraw.ImageDraw, size: tuple[int, int], generator: Generator) -> None:
    """Draw a short, curled line in any direction."""
    length = generator.uniform(8, 40) * DRAWN_LARGER
    angle = generator.uniform(0, 2 * math.pi)
    _draw_path(draw, size, length, angle, bend=0.25, width_px=(0.5, 1.2), generator=generator)


def _draw_path(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    length: float,
    angle: float,
    *,
    bend: float,
    width_px: tuple[float, float],
    generator: Generator,
) -> None:
    x, y = generator.uniform(0, size[0]), generator.uniform(-0.1, 1.0) * size[1]
    points = [(x, y)]
    for _ in range(12):
        angle += generator.normal(0, bend)
        x, y = x + length / 12 * math.cos(angle), y + length / 12 * math.sin(angle)
        points.append((x, y))
    thickness = max(1, round(generator.uniform(*width_px) * DRAWN_LARGER))
    draw.line(points, fill=int(generator.integers(140, 256)), width=thickness, joint="curve")


def _draw_speck(draw: ImageDraw.ImageDraw, size: tuple[int, int], generator: Generator) -> None:
    """Draw a speck of dust, an ellipse of one to four pixels."""
    x, y = (generator.uniform(0, side) for side in size)
    half_width, half_height = generator.uniform(0.4, 2.0, 2) * DRAWN_LARGER
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    draw.ellipse(box, fill=int(generator.integers(140, 256)))
