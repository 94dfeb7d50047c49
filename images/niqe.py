"""NIQE: how far a picture's statistics are from those of photographs, without a reference.

| name in code | symbol |
|---|---|
| normalized | mean-subtracted contrast-normalised luma, eq. 1 |
| shape, left, right | alpha, beta_l, beta_r of an asymmetric generalised Gaussian, eq. 4-7 |
| features | the 36 numbers of a block: 18 at each of two scales |

`niqe_parameters.npz` holds the published mean and covariance of the features of pristine photographs
and the published window. It is `niqe_pris_params.npz` of basicsr 1.4.2 (Apache-2.0, Copyright
2018-2022 BasicSR Authors), whose numbers are those of the authors' release.

Source: Mittal et al. 2013, "Making a 'Completely Blind' Image Quality Analyzer".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .color import luminance

PARAMETERS = Path(__file__).with_name("niqe_parameters.npz")
BLOCK = 96
LEAST_BLOCKS = 2
# Down and right of a pixel: the neighbours whose products are looked at.
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
# Exponents that are tried for the generalised Gaussian.
SHAPES = (0.2, 10.0, 0.001)


def niqe(image: Tensor) -> Tensor:
    """Return the NIQE of every picture; less is more like a photograph.

    As most papers and packages compute it: MATLAB's luma (16 to 235) rounded to 8 bit, blocks of 96
    pixels from the top left, what is left over at right and bottom ignored. Photographs have 2 to 5.

    Args:
        image: `(B, 3, H, W)` in [0, 1].
    Returns:
        `(B,)` float64; NaN where fewer than two blocks fit or have any texture.
    """
    luma = (16 + 219 * luminance(image.double())).round()
    return torch.stack([_distance_of_one(plane) for plane in luma])


def _distance_of_one(luma: Tensor) -> Tensor:
    height, width = (side // BLOCK * BLOCK for side in luma.shape[-2:])
    if height * width < LEAST_BLOCKS * BLOCK**2:
        return luma.new_tensor(torch.nan)
    with np.load(PARAMETERS, allow_pickle=False) as arrays:
        mean, covariance, window = (
            torch.from_numpy(arrays[name]).to(luma.device)
            for name in ("mu_pris_param", "cov_pris_param", "gaussian_window")
        )
    plane = luma[None, :, :height, :width]
    scales = [_block_features(_normalize(plane, window), BLOCK)]
    scales.append(_block_features(_normalize(_halve(plane), window), BLOCK // 2))
    features = torch.cat(scales, dim=1)
    complete = features[~features.isnan().any(dim=1)]
    if len(complete) < LEAST_BLOCKS:
        return luma.new_tensor(torch.nan)
    difference = mean.flatten() - features.nanmean(dim=0)
    # Eq. 10
    inverse = torch.linalg.pinv((covariance + complete.T.cov()) / 2)
    return (difference @ inverse @ difference).sqrt()


def _normalize(plane: Tensor, window: Tensor) -> Tensor:
    """Return the contrast-normalised luma; eq. 1-3."""
    radius = len(window) // 2
    padded = F.pad(plane, [radius] * 4, mode="replicate")
    kernel = window[None, None]
    mean = F.conv2d(padded, kernel)
    deviation = (F.conv2d(padded.square(), kernel) - mean.square()).abs().sqrt()
    return (plane - mean) / (deviation + 1)


def _halve(plane: Tensor) -> Tensor:
    """Return `plane` (1, 1, H, W), sides even, at half its size as MATLAB's `imresize` makes it."""
    distance = (torch.arange(8, dtype=plane.dtype, device=plane.device) - 3.5).abs() / 2
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = torch.where(distance <= 1, near, far)
    taps = taps / taps.sum()
    for dim in (-2, -1):
        plane = plane.movedim(dim, -1)
        # The border is mirrored with its own pixels: 2 1 0 | 0 1 2.
        padded = torch.cat([plane[..., :3].flip(-1), plane, plane[..., -3:].flip(-1)], dim=-1)
        plane = (padded.unfold(-1, 8, 2) @ taps).movedim(-1, dim)
    return plane


def _block_features(normalized: Tensor, side: int) -> Tensor:
    """Return the 18 features of every block of a scale, `(blocks, 18)`."""
    blocks = normalized[0, 0].unfold(0, side, side).unfold(1, side, side).reshape(-1, side, side)
    shape, left, right = _fit_gaussian(blocks)
    features = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        shape, left, right = _fit_gaussian(blocks * blocks.roll(shift, dims=(1, 2)))
        # Eq. 8
        mean = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
        features += [shape, mean, left, right]
    return torch.stack(features, dim=1)


def _fit_gaussian(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return exponent, left and right scale of an asymmetric generalised Gaussian, each `(B,)`.

    By moments, the exponent to the nearest of `SHAPES`; NaN where a side has no values.
    """
    values = blocks.flatten(1)
    left, right = (
        (values.square() * side).sum(dim=1).div(side.sum(dim=1)).sqrt()
        for side in (values < 0, values > 0)
    )
    ratio = left / right
    moment = values.abs().mean(dim=1).square() / values.square().mean(dim=1)
    wanted = moment * (ratio**3 + 1) * (ratio + 1) / (ratio.square() + 1).square()
    first, last, step = SHAPES
    shapes = first + step * torch.arange(round((last - first) / step) + 1, dtype=torch.float64)
    shapes = shapes.to(values.device)
    moments = 2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)
    moments = moments.exp()  # increasing
    above = torch.searchsorted(moments, wanted.nan_to_num()).clamp(1, len(moments) - 1)
    is_lower_nearer = wanted - moments[above - 1] <= moments[above] - wanted
    shape = shapes[torch.where(is_lower_nearer, above - 1, above)]
    scale = ((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2).exp()
    return shape.where(~wanted.isnan(), wanted), left * scale, right * scale
