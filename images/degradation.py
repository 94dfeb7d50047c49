"""Degradations that turn a sharp picture into a low-quality one.

Second order: the picture is blurred, resized, made noisy and compressed, then once more, and at
the end brought to its low-quality size, with a last sinc filter (ringing) and JPEG in either order.
First order: blurred, reduced, made noisy, compressed and brought to its size, once.

Source: second order: Wang et al. 2021 (arXiv 2107.10833, Real-ESRGAN), section 3, with the ranges
that Yue et al. 2023 (arXiv 2307.12348, ResShift) and DiffBIR v2.1 train with. First order: Zhou et
al. 2022 (arXiv 2206.11253, CodeFormer), section 4.1, with the ranges of Lin et al. 2023
(arXiv 2308.15070, DiffBIR).
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .resize import quantize_8bit

KERNELS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
FILTERS = ("area", "bilinear", "bicubic", "bicubic_antialias")

Range = tuple[float, float]


@dataclass(frozen=True)
class Stage:
    """One round of blur, resize, noise and JPEG. Ranges are uniform, ends included.

    Attributes:
        blur_probability: How often the picture is blurred.
        kernel_sizes: Smallest and largest side of the blur kernel, both odd.
        kernel_weights: How often each of `KERNELS` is drawn.
        sinc_probability: How often the kernel is a sinc instead.
        sigma: Standard deviation of a kernel along each axis, in pixels.
        generalized_beta: Exponent of generalised Gaussians.
        plateau_beta: Exponent of plateau kernels.
        resize_weights: How often the picture is enlarged, reduced and kept.
        resize: Smallest and largest factor; below 1 reduces, above 1 enlarges.
        reduction: How many times smaller the picture gets, drawn evenly; below 1 enlarges. None
            draws from `resize_weights` and `resize` instead.
        filters: Filters drawn from, of `FILTERS`.
        noise_probability: How often noise is added.
        gaussian_probability: How often that noise is Gaussian; otherwise it is Poisson.
        gaussian_sigma: Standard deviation of Gaussian noise, of 255.
        poisson_scale: Poisson noise over that of the picture's own number of levels.
        gray_probability: How often the noise is the same in all channels.
        jpeg_probability: How often the picture is compressed.
        jpeg_quality: JPEG quality.
    """

    blur_probability: float = 1.0
    kernel_sizes: tuple[int, int] = (3, 19)
    kernel_weights: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_probability: float = 0.1
    sigma: Range = (0.2, 3.0)
    generalized_beta: Range = (0.5, 4.0)
    plateau_beta: Range = (1.0, 2.0)
    resize_weights: tuple[float, float, float] = (0.2, 0.7, 0.1)
    resize: Range = (0.15, 1.5)
    reduction: Range | None = None
    filters: tuple[str, ...] = ("area", "bilinear", "bicubic")
    noise_probability: float = 1.0
    gaussian_probability: float = 0.5
    gaussian_sigma: Range = (1.0, 30.0)
    poisson_scale: Range = (0.05, 3.0)
    gray_probability: float = 0.4
    jpeg_probability: float = 1.0
    jpeg_quality: Range = (30.0, 95.0)


SECOND_STAGE = Stage(
    blur_probability=0.8,
    kernel_sizes=(3, 13),
    sigma=(0.2, 1.5),
    resize_weights=(0.3, 0.4, 0.3),
    resize=(0.3, 1.2),
    gaussian_sigma=(1.0, 25.0),
    poisson_scale=(0.05, 2.5),
    jpeg_probability=0.0,
)


@dataclass(frozen=True)
class Degradation:
    """The whole way from a sharp picture to a low-quality one.

    Attributes:
        scale: Side of the sharp picture over that of the low-quality one.
        first: The first stage, relative to the sharp picture's size.
        second: The second stage; its factors are relative to the low-quality size.
        second_probability: How often there is a second stage.
        final_filters: Filters drawn from for the resize to the low-quality size, of `FILTERS`.
        final_sinc_probability: How often the last sinc filter is applied.
        final_sinc_sizes: Smallest and largest side of that filter, both odd.
        final_jpeg_quality: Quality of the last JPEG; None leaves it out.
        final_jpeg_last_probability: How often JPEG comes after the sinc filter, not before the
            resize.
    """

    scale: int = 4
    first: Stage = Stage()
    second: Stage = SECOND_STAGE
    second_probability: float = 0.5
    final_filters: tuple[str, ...] = ("area", "bilinear", "bicubic")
    final_sinc_probability: float = 0.8
    final_sinc_sizes: tuple[int, int] = (3, 13)
    final_jpeg_quality: Range | None = (30.0, 95.0)
    final_jpeg_last_probability: float = 0.5


def _single_stage(sigma: Range, noise: Range, quality: Range) -> Degradation:
    """Return blur, one reduction to the low-quality size, noise there, and one JPEG."""
    first = Stage(
        kernel_sizes=(7, 19),
        kernel_weights=(0.7, 0.3, 0.0, 0.0, 0.0, 0.0),
        sinc_probability=0.0,
        sigma=sigma,
        resize_weights=(0.0, 1.0, 0.0),
        resize=(0.25, 0.25),
        filters=("area", "bicubic_antialias"),
        gaussian_probability=0.9,
        gaussian_sigma=noise,
        poisson_scale=(0.05, 0.3),
        gray_probability=0.2,
        jpeg_probability=0.0,
    )
    return Degradation(
        first=first,
        second_probability=0.0,
        final_sinc_probability=0.0,
        final_jpeg_quality=quality,
        final_jpeg_last_probability=1.0,
    )


def _first_order(sigma: Range, reduction: Range, noise: Range, quality: Range) -> Degradation:
    """Return DiffBIR's first-order degradation, whose pictures keep their size."""
    first = Stage(
        kernel_sizes=(41, 41),
        kernel_weights=(0.5, 0.5, 0.0, 0.0, 0.0, 0.0),
        sinc_probability=0.0,
        sigma=sigma,
        reduction=reduction,
        filters=("bilinear",),
        gaussian_probability=1.0,
        gaussian_sigma=noise,
        gray_probability=0.0,
        jpeg_quality=quality,
    )
    return Degradation(
        scale=1,
        first=first,
        second_probability=0.0,
        final_filters=("bilinear",),
        final_sinc_probability=0.0,
        final_jpeg_quality=None,
    )


PRESETS: dict[str, Degradation] = {
    "real-esrgan": Degradation(),
    "diffbir v2.1": Degradation(
        first=Stage(kernel_sizes=(7, 21)),
        second=replace(SECOND_STAGE, kernel_sizes=(7, 21)),
        second_probability=1.0,
        final_sinc_sizes=(7, 21),
    ),
    "first order": _first_order((0.1, 12.0), (1.0, 12.0), (0.0, 15.0), (30.0, 100.0)),
    "first order, faces": _first_order((0.1, 10.0), (0.8, 8.0), (0.0, 20.0), (60.0, 100.0)),
    "heavy": _single_stage((0.8, 3.0), (4.0, 18.0), (40.0, 75.0)),
    "medium": _single_stage((0.3, 2.0), (1.0, 8.0), (60.0, 90.0)),
    "light": _single_stage((0.2, 1.0), (0.0, 3.0), (80.0, 96.0)),
}


def degrade(image: Tensor, settings: Degradation, generator: np.random.Generator) -> Tensor:
    """Return the low-quality version of one sharp picture.

    Args:
        image: `(3, H, W)` in [0, 1], any size of at least `settings.scale` pixels.
        settings: What is drawn from.
        generator: Every random choice comes from it, so the same state gives the same picture.
    Returns:
        `(3, H // scale, W // scale)` float32 in [0, 1] on the CPU, on the 256 levels of 8 bit.
    """
    image = image.detach().to("cpu", torch.float32)[None]
    target = (image.shape[2] // settings.scale, image.shape[3] // settings.scale)
    x = _run_stage(image, settings.first, tuple(image.shape[2:]), generator)
    if generator.random() < settings.second_probability:
        x = _run_stage(x, settings.second, target, generator)
    jpeg_comes_last = generator.random() < settings.final_jpeg_last_probability
    if not jpeg_comes_last:
        x = _compress(x, settings.final_jpeg_quality, generator)
    x = _resize(x, target, generator.choice(settings.final_filters))
    if generator.random() < settings.final_sinc_probability:
        size = _odd_between(settings.final_sinc_sizes, generator)
        x = filter_image(x, sinc_kernel(size, generator.uniform(math.pi / 3, math.pi)))
    if jpeg_comes_last:
        x = _compress(x, settings.final_jpeg_quality, generator)
    return quantize_8bit(x[0])


def _run_stage(
    x: Tensor, stage: Stage, reference: tuple[int, ...], generator: np.random.Generator
) -> Tensor:
    if generator.random() < stage.blur_probability:
        x = filter_image(x, draw_kernel(stage, generator))
    factor = _draw_factor(stage, generator)
    size = (max(1, round(reference[0] * factor)), max(1, round(reference[1] * factor)))
    x = _resize(x, size, generator.choice(stage.filters))
    if generator.random() < stage.noise_probability:
        x = _add_noise(x, stage, generator)
    if generator.random() < stage.jpeg_probability:
        x = _compress(x, stage.jpeg_quality, generator)
    return x


def draw_kernel(stage: Stage, generator: np.random.Generator) -> np.ndarray:
    """Return a random blur kernel `(n, n)` of `stage`, float64, of sum 1."""
    size = _odd_between(stage.kernel_sizes, generator)
    if generator.random() < stage.sinc_probability:
        lowest = math.pi / 3 if size < 13 else math.pi / 5
        return sinc_kernel(size, generator.uniform(lowest, math.pi))
    weights = np.asarray(stage.kernel_weights) / np.sum(stage.kernel_weights)
    kind = KERNELS[generator.choice(len(KERNELS), p=weights)]
    sigma_x = sigma_y = generator.uniform(*stage.sigma)
    angle = 0.0
    if kind.endswith("aniso"):
        sigma_y = generator.uniform(*stage.sigma)
        angle = generator.uniform(-math.pi, math.pi)
    beta = 1.0
    if kind.startswith("generalized"):
        beta = _draw_beta(stage.generalized_beta, generator)
    elif kind.startswith("plateau"):
        beta = _draw_beta(stage.plateau_beta, generator)
    return gaussian_kernel(
        size, sigma_x, sigma_y, angle, beta=beta, plateau=kind.startswith("plateau")
    )


def gaussian_kernel(
    size: int,
    sigma_x: float,
    sigma_y: float,
    angle: float = 0.0,
    *,
    beta: float = 1.0,
    plateau: bool = False,
) -> np.ndarray:
    """Return a Gaussian, generalised Gaussian or plateau kernel.

    Args:
        size: Side, odd.
        sigma_x: Standard deviation along the first axis of the ellipse, in pixels.
        sigma_y: Standard deviation along the second.
        angle: Rotation of the ellipse, radians.
        beta: Exponent; 1 with `plateau` off is the Gaussian.
        plateau: Whether the kernel is 1 / (1 + d^beta) instead of exp(-d^beta / 2).
    Returns:
        `(size, size)` float64 of sum 1.
    """
    radius = size // 2
    rows, cols = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    along = (cols * math.cos(angle) + rows * math.sin(angle)) / sigma_x
    across = (-cols * math.sin(angle) + rows * math.cos(angle)) / sigma_y
    distance = (along**2 + across**2) ** beta
    kernel = 1 / (1 + distance) if plateau else np.exp(-0.5 * distance)
    return kernel / kernel.sum()


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """Return the ideal circular low-pass filter of `cutoff` in (0, pi], `(size, size)` of sum 1."""
    radius = size // 2
    rows, cols = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    distance = np.sqrt(rows**2 + cols**2)
    distance[radius, radius] = 1.0  # replaced by the limit below
    bessel = torch.special.bessel_j1(torch.from_numpy(cutoff * distance)).numpy()
    kernel = cutoff * bessel / (2 * math.pi * distance)
    kernel[radius, radius] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()


def filter_image(image: Tensor, kernel: np.ndarray) -> Tensor:
    """Return `image` (B, C, H, W) convolved with `kernel`, borders reflected, same shape."""
    channels = image.shape[1]
    weight = torch.from_numpy(kernel).to(image.dtype).flip(0, 1)
    pad = kernel.shape[0] // 2
    mode = "reflect" if pad < min(image.shape[2:]) else "replicate"
    padded = F.pad(image, (pad, pad, pad, pad), mode=mode)
    return F.conv2d(padded, weight.expand(channels, 1, -1, -1), groups=channels)


def jpeg_compress(image: Tensor, quality: int) -> Tensor:
    """Return `image` (B, 3, H, W) in [0, 1] after JPEG with chroma at half size, same shape."""
    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    decoded = []
    for pixels in levels:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
        with Image.open(stream) as opened:
            decoded.append(np.array(opened.convert("RGB")))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).to(image.dtype) / 255


def _compress(x: Tensor, quality: Range | None, generator: np.random.Generator) -> Tensor:
    if quality is None:
        return x
    return jpeg_compress(x, round(generator.uniform(*quality)))


def _add_noise(x: Tensor, stage: Stage, generator: np.random.Generator) -> Tensor:
    is_gaussian = generator.random() < stage.gaussian_probability
    is_gray = generator.random() < stage.gray_probability
    channels = 1 if is_gray else x.shape[1]
    if is_gaussian:
        sigma = generator.uniform(*stage.gaussian_sigma) / 255
        noise = sigma * generator.standard_normal((x.shape[0], channels, *x.shape[2:]))
    else:
        scale = generator.uniform(*stage.poisson_scale)
        clean = (x.clamp(0, 1) * 255).round().numpy().astype(np.float64) / 255
        if is_gray:
            clean = _luminance(clean)
        levels = 2.0 ** math.ceil(math.log2(max(2, len(np.unique(clean)))))
        noise = scale * (generator.poisson(clean * levels) / levels - clean)
    return (x + torch.from_numpy(noise.astype(np.float32))).clamp(0, 1)


def _luminance(image: np.ndarray) -> np.ndarray:
    weights = np.array([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    return (image * weights).sum(axis=1, keepdims=True)


def _draw_factor(stage: Stage, generator: np.random.Generator) -> float:
    if stage.reduction is not None:
        return 1 / generator.uniform(*stage.reduction)
    weights = np.asarray(stage.resize_weights) / np.sum(stage.resize_weights)
    choice = generator.choice(3, p=weights)
    low, high = stage.resize
    if choice == 0:
        return generator.uniform(1.0, max(1.0, high))
    if choice == 1:
        return generator.uniform(low, min(1.0, high))
    return 1.0


def _draw_beta(limits: Range, generator: np.random.Generator) -> float:
    # Either side of 1 is as likely, whatever the lengths of the two ranges.
    low, high = limits
    if generator.random() < 0.5:
        return generator.uniform(low, max(low, 1.0))
    return generator.uniform(max(low, 1.0), high)


def _odd_between(limits: tuple[int, int], generator: np.random.Generator) -> int:
    return int(generator.integers(limits[0] // 2, limits[1] // 2, endpoint=True)) * 2 + 1


def _resize(x: Tensor, size: tuple[int, int], name: str) -> Tensor:
    if tuple(x.shape[2:]) == tuple(size):
        return x
    if name == "area":
        return F.interpolate(x, size=size, mode="area")
    mode, antialias = (name.removesuffix("_antialias"), name.endswith("_antialias"))
    return F.interpolate(x, size=size, mode=mode, align_corners=False, antialias=antialias)
