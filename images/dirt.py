"""Measures of two faults that networks which enlarge leave, and that other figures overlook.

A network that ends in a pixel shuffle can draw a grid of dots with the shuffle's period, which looks
like sharpness to any measure of gradients. One that cannot tell noise from texture leaves blotches
where the photograph is flat.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .blur import gaussian_blur
from .color import luminance

GRID_BLOCK = 32
# Bins beside one of a grid's that the window spreads it to, and those that it is compared with.
SPREAD = 1
BESIDE = 3
# Noise of half a grey level: what is weaker than that is not seen.
UNSEEN = 0.5 / 255

# Pixels in each direction that are averaged before anything is smoothed; then sizes in pixels.
POOL = 4
BLOTCH_SIGMA = 5.0
FIELD_SIGMA = 20.0
FLAT_SIGMA = 8.0
# Spread of the original's luma around a pixel below which its surroundings are flat.
FLAT_SPREAD = 6 / 255


def grid_energy(image: Tensor, reference: Tensor) -> Tensor:
    """Return how strong a grid with a period of 2 or 4 pixels `image` has over `reference`.

    The power of the luma's spectrum at those periods over that at the frequencies beside them, mean
    over overlapping blocks of 32 pixels, divided by the same of the reference. 1 is as clean as the
    reference; enlargements by interpolation have less.

    Args:
        image: `(B, 3, H, W)` in [0, 1], both sides at least 32.
        reference: Like `image`, a photograph or whatever is known to be clean.
    Returns:
        `(B,)` float64.
    """
    return _grid_ratio(image) / _grid_ratio(reference)


def _grid_ratio(image: Tensor) -> Tensor:
    luma = luminance(image.double())[:, 0]
    step = GRID_BLOCK // 2
    blocks = luma.unfold(1, GRID_BLOCK, step).unfold(2, GRID_BLOCK, step)
    window = torch.hann_window(GRID_BLOCK, dtype=luma.dtype, device=luma.device)
    window = window[:, None] * window
    blocks = (blocks - blocks.mean(dim=(-2, -1), keepdim=True)) * window
    power = torch.fft.fft2(blocks).abs().square() / window.square().sum()
    power = power + UNSEEN**2
    flat = power.flatten(-2)
    grid, beside = grid_places(GRID_BLOCK, BESIDE).to(flat)
    ratios = (flat @ grid.T) / (flat @ beside.T)
    return ratios.mean(dim=(1, 2, 3))


def grid_places(block: int, beside: int) -> Tensor:
    """Return what picks a grid's bins of a spectrum, and what takes the mean of those beside each.

    Args:
        block: Side of the transformed blocks, a multiple of 4.
        beside: Bins from a grid's own to the farthest that it is compared with.
    Returns:
        `(2, 15, block block)` float32: weights of the bins at the periods of 2 and 4 pixels. Bins
        that a Hann window spreads the grid's own power to are in neither.
    """
    bins = torch.arange(block)
    periods = range(0, block, block // 4)
    places = [(row, column) for row in periods for column in periods if row or column]
    weights = torch.zeros(2, len(places), block, block)
    for number, place in enumerate(places):
        away = [((bins - k + beside) % block - beside).abs() for k in place]
        distance = torch.maximum(away[0][:, None], away[1][None])
        weights[0, number] = distance == 0
        weights[1, number] = (distance > SPREAD) & (distance <= beside)
    weights[1] /= weights[1, 0].sum()
    return weights.flatten(-2)


def blotches(image: Tensor, reference: Tensor) -> Tensor:
    """Return how blotchy `image` is where `reference` is flat, in grey levels of 255.

    The error is smoothed, so that grain does not count, and freed of what varies over a wide field,
    so that a change of colour or brightness as a whole does not. What is left is taken as the root
    mean square over channels and flat places.

    Args:
        image: `(B, 3, H, W)` in [0, 1], both sides at least 4.
        reference: Like `image`, the original.
    Returns:
        `(B,)` float64; 0 where nothing is flat.
    """
    image, reference = image.double(), reference.double()
    luma = luminance(reference)
    means = F.avg_pool2d(torch.cat([luma, luma.square(), image - reference], dim=1), POOL)
    moments, error = means[:, :2], means[:, 2:]
    mean, square = _blur(moments, FLAT_SIGMA).split(1, dim=1)
    is_flat = ((square - mean.square()).clamp(min=0).sqrt() < FLAT_SPREAD).to(image.dtype)
    band = _flat_mean(error, is_flat, BLOTCH_SIGMA) - _flat_mean(error, is_flat, FIELD_SIGMA)
    total = (band.square().mean(dim=1, keepdim=True) * is_flat).sum(dim=(1, 2, 3))
    return 255 * (total / is_flat.sum(dim=(1, 2, 3)).clamp(min=1)).sqrt()


def _flat_mean(error: Tensor, is_flat: Tensor, sigma: float) -> Tensor:
    """Return the smoothed error of the flat places alone, so that errors at edges do not leak in."""
    return _blur(error * is_flat, sigma) / _blur(is_flat, sigma).clamp(min=1e-6)


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Return the pooled `x` smoothed by a Gaussian of so many pixels, its border repeated."""
    sigma = sigma / POOL
    return gaussian_blur(x, sigma, round(3 * sigma))
