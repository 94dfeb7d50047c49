"""DiffBIR's restoration guidance and its rescaled classifier-free guidance.

The prediction of the clean latent is moved against the gradient of its distance to a target,

    D = 1/n sum_j w_j (pred_j - target_j)^2,   delta = -scale dD/dpred,

by step * delta, `repeat` times, n being the elements of one picture. The published versions differ in
what the move is multiplied with, so that it shifts the posterior's mean by as much as they mean to:

| version | step of each repeat | share of the moves that counts |
|---|---|---|
| v2 | 1 / c1 | 1 |
| v1 | 1 | 0.5 / c1 |

| name in code | symbol |
|---|---|
| mean_weight | c1, the coefficient of the predicted clean latent in the posterior's mean |
| gain | the share of the way to the target that the prediction moves |

Source: Lin et al. 2023 (arXiv 2308.15070), DiffBIR, "Restoration Guidance".
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .schedules import sqrt_eta_from_sigma

GuidanceVersion = Literal["v2", "v1"]
GUIDANCE_VERSIONS: tuple[str, ...] = get_args(GuidanceVersion)

# The reference multiplies the scale of its v2 guidance by this; v1 takes the scale itself.
V2_SCALE = 3000.0
V1_MEAN_SHARE = 0.5

GREY = (0.2989, 0.5870, 0.1140)
SOBEL_X = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))
SOBEL_Y = ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0))
EDGE_BLOCK = 2

# How far below a sigma the next one must lie to be another step's and not a rounding of the same.
SAME_SIGMA = 1e-4


def guidance_delta(
    pred: Tensor, target: Tensor, scale: float, weight: Tensor | float = 1.0
) -> Tensor:
    """Return -scale times the gradient of the mean squared distance of every picture.

    Args:
        pred: `(B, C, H, W)` prediction, a latent or a picture.
        target: What it is pulled to, like `pred` or broadcast to it.
        scale: Strength of the pull.
        weight: Weight of each element's distance, broadcast to `pred`.
    """
    return (-2 * scale / pred[0].numel()) * weight * (pred - target)


def edge_weights(target: Tensor) -> Tensor:
    """Return the weight of each pixel's distance: low where the target has strong edges.

    Flat regions then follow the target and textured ones are left to the model.

    Args:
        target: `(B, 3, H, W)` picture in [-1, 1]; H and W even.
    Returns:
        `(B, 1, H, W)` in [0, 1], equal within aligned blocks of 2x2 pixels.

    Source: Lin et al. 2023 (arXiv 2308.15070), "region-adaptive restoration guidance".
    """
    grey = ((target + 1) / 2 * target.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)
    kernels = target.new_tensor([SOBEL_X, SOBEL_Y])[:, None]
    gradient = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), kernels)  # (B, 2, H, W)
    strength = gradient.square().sum(1, keepdim=True).sqrt()
    block_sum = F.avg_pool2d(strength, EDGE_BLOCK, divisor_override=1)
    flat = 1 - block_sum.tanh()
    return flat.repeat_interleave(EDGE_BLOCK, dim=2).repeat_interleave(EDGE_BLOCK, dim=3)


def next_sigma(sigma: Tensor, sigmas: Tensor) -> Tensor:
    """Return the noise level that the step at `sigma` leads to, a scalar tensor.

    It is the largest entry of the run below `sigma`, also where a sampler calls the model between
    two entries; 0 where there is none.

    Args:
        sigma: Current noise level, a scalar tensor.
        sigmas: `(steps + 1,)` noise levels of the run, on the device of `sigma`.
    """
    below = sigmas < sigma * (1 - SAME_SIGMA)
    return torch.where(below, sigmas, torch.zeros_like(sigmas)).amax()


def posterior_mean_weight(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Return c1 of a step of DDPM, same shape and dtype; 1 for a step to 0.

    Args:
        sigma: Noise level of x_t / sqrt(alpha-bar), positive; may be infinite.
        sigma_next: Noise level to reach, in [0, sigma).
    """
    return (1 - (sigma_next / sigma) ** 2) / (1 + sigma_next**2).sqrt()


def chain_mean_weight(sigma: Tensor, sigma_next: Tensor, kappa: float) -> Tensor:
    """Return c1 = 1 - eta_next / eta of a step of ResShift's chain, same shape and dtype.

    Args:
        sigma: Noise level in ComfyUI's terms, positive.
        sigma_next: Noise level to reach, in [0, sigma).
        kappa: Noise scale of the chain.

    Source: Yue et al. 2023 (arXiv 2307.12348), eq. 7.
    """
    ratio = sqrt_eta_from_sigma(sigma_next, kappa) / sqrt_eta_from_sigma(sigma, kappa)
    return 1 - ratio**2


def guidance_scale(scale: float, version: GuidanceVersion) -> float:
    """Return the factor of the gradient for the `scale` that users of a version know."""
    return V2_SCALE * scale if version == "v2" else scale


def guidance_steps(mean_weight: Tensor, version: GuidanceVersion) -> tuple[Tensor, Tensor]:
    """Return the step of each repeat and the share of all moves that counts, scalar tensors."""
    inverse = 1 / mean_weight
    if version == "v2":
        return inverse, torch.ones_like(inverse)
    return torch.ones_like(inverse), V1_MEAN_SHARE * inverse


def latent_gain(
    mean_weight: Tensor,
    elements: int,
    *,
    scale: float,
    version: GuidanceVersion,
    repeat: int,
    clamp: bool,
) -> Tensor:
    """Return the gain g of latent guidance: it makes pred - g (pred - target) of a prediction.

    The distance is quadratic and the target fixed, so all repeats have a closed form and no
    gradient is computed.

    Args:
        mean_weight: c1 of the step, a scalar tensor, positive.
        elements: Elements C H W of one picture's latent.
        scale: Strength in the terms of `version`.
        version: Whose rule is followed.
        repeat: Moves in a step, at least 1.
        clamp: Whether no move goes beyond the target. The official one does at early steps, where
            only c1 of it reaches the mean; other samplers and repeats then diverge.
    """
    step, share = guidance_steps(mean_weight, version)
    move = (2 * guidance_scale(scale, version) / elements) * step
    if clamp:
        move = move.clamp(max=1)
    gain = share * (1 - (1 - move) ** repeat)
    return gain.clamp(max=1) if clamp else gain


def best_share(before: Tensor, after: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Return how much of a move, 0 to 1, brings a picture nearest to its target.

    Args:
        before: `(B, C, H, W)` difference to the target before the move.
        after: The same after it; between them the difference is taken as linear.
        weight: Weight of each element, broadcast to `before`.
    Returns:
        `(B, 1, 1, 1)`.
    """
    change = after - before
    every = (1, 2, 3)
    toward = -(weight * before * change).sum(every, keepdim=True)
    length = (weight * change.square()).sum(every, keepdim=True)
    return (toward / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(0, 1)


def rescaled_cfg_scale(scale: float, timestep: Tensor, total: float = 1000.0) -> Tensor:
    """Return DiffBIR's rescaled scale of classifier-free guidance.

    Args:
        scale: The scale that is set.
        timestep: Training timesteps, any shape, floating point.
        total: The noisiest of them.
    Returns:
        Like `timestep`: about 1 at the noisiest timestep, growing to `scale` + 1 at 0; `scale`
        itself where that is 1 or less.
    """
    if scale <= 1:
        return torch.full_like(timestep, scale)
    progress = ((total - timestep) / total) ** 5
    return 1 + scale * (1 - torch.cos(math.pi * progress)) / 2
