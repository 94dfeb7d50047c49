"""Optical flow: estimating it, sampling along it, and telling where it is to be trusted.

A flow is `(B, 2, H, W)` float32 in pixels of its own size, channel 0 along x, channel 1 along y. A
flow from one picture to another says that what the first shows at (x, y), the other shows at
(x + dx, y + dy). The backward flow of frame t is its flow to frame t - 1, so that frame t - 1
sampled along it looks like frame t; the forward flow is that of frame t - 1 to frame t.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .blur import gaussian_blur

# Of the forward-backward check: shares of the lengths, and pixels squared.
CHECK_SHARE = 0.01
CHECK_SLACK = 0.5

# The smallest side that a level of the pyramid may have, and how far its search goes.
COARSEST_PX = 12
SEARCH_PX = 3
# A longer step is taken only where it is better by more than rounding, for flat places stand still.
CLEARLY = 0.999
# Of a level's pictures before gradients are taken, which are of no use at single pixels.
SMOOTHING_SIGMA = 0.8
# The window of the normal equations.
WINDOW_SIGMA = 2.0
WINDOW_RADIUS = 5
ITERATIONS = 8
# Differences below this are noise: some 2 of 255 levels.
NOISE = 0.008
# A window whose gradients are this small follows what the motion is around it, as far as this.
FLAT = 0.016
AROUND_SIGMA = 4.0
AROUND_RADIUS = 10
MOST_STEP_PX = 1.0


def warp_along(
    picture: Tensor, flow: Tensor, mode: Literal["bilinear", "bicubic"] = "bilinear"
) -> Tensor:
    """Return a picture sampled along a flow; outside of it its border is repeated.

    Args:
        picture: `(B, C, H, W)` float: what the flow leads to.
        flow: `(B, 2, H, W)`, from the picture that is to be made; one serves a whole batch.
        mode: Interpolation between pixels; the bicubic one keeps more detail and overshoots.
    Returns:
        `(B, C, H, W)`: at (x, y) what `picture` shows at (x + dx, y + dy); dtype and device of
        `picture`. Where the flow is 0, that is `picture` up to rounding.
    """
    height, width = flow.shape[-2:]
    x, y = _places(flow)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)  # (B, H, W, 2)
    return F.grid_sample(
        picture.float(),  # half precision cannot tell the places of a large picture apart
        grid.expand(len(picture), -1, -1, -1),
        mode=mode,
        padding_mode="border",
        align_corners=False,
    ).to(picture.dtype)


def lies_inside(flow: Tensor) -> Tensor:
    """Return `(B, 1, H, W)` bool: where a flow leads to a place inside the picture."""
    height, width = flow.shape[-2:]
    x, y = _places(flow)
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    return inside.unsqueeze(1)


def trusted(backward: Tensor, forward: Tensor) -> Tensor:
    """Return where a backward flow is to be trusted: where the way there and back ends where it began.

    Elsewhere the frame shows what the frame before did not, or the flow is wrong. What is trusted
    fulfils |w_b + w_f|^2 <= 0.01 (|w_b|^2 + |w_f|^2) + 0.5, where w_f is taken at the place to which
    w_b leads, and leads to a place inside the picture. The rule is one of pixels: apply it to flows
    at the frames' size, and reduce what it returns for latents.

    Args:
        backward: `(B, 2, H, W)`, of the frames to those before them.
        forward: `(B, 2, H, W)`, of the frames before to these.
    Returns:
        `(B, 1, H, W)` float32, 1 where trusted and 0 elsewhere.

    Source: Sundaram et al. 2010, "Dense Point Trajectories by GPU-accelerated Large Displacement
    Optical Flow", eq. 5; used for masks by Ruder et al. 2016 and Lai et al. 2018.
    """
    back = warp_along(forward, backward)
    lost = (backward + back).square().sum(dim=1, keepdim=True)
    lengths = (backward.square() + back.square()).sum(dim=1, keepdim=True)
    return (lies_inside(backward) & (lost <= CHECK_SHARE * lengths + CHECK_SLACK)).float()


def resized_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a flow for pictures of another size: it is resized, and so are its lengths.

    Args:
        flow: `(B, 2, H, W)`.
        size: New (height, width), as of a latent or an enlargement.
    Returns:
        `(B, 2, height, width)`, bilinear with antialias; the flow itself where the size fits.
    """
    height, width = flow.shape[-2:]
    if (height, width) == size:
        return flow
    resized = F.interpolate(flow, size, mode="bilinear", align_corners=False, antialias=True)
    return resized * flow.new_tensor([size[1] / width, size[0] / height]).view(2, 1, 1)


def estimate_flow(frames_from: Tensor, frames_to: Tensor) -> Tensor:
    """Return the flow from pictures to others, by Lucas and Kanade's method from coarse to fine.

    At the smallest level of a pyramid whole steps are tried (block matching). At every level the
    other picture is warped by the flow so far, the equations of a Gaussian window around each pixel
    are solved for what is missing, and a median takes single errors out of the flow. Pixels that
    differ much (hidden ones) and those that left the picture count little in a window, and where a
    window has little texture its flow is drawn to that around it.

    Args:
        frames_from: `(B, C, H, W)` float in [0, 1], on any device.
        frames_to: Like `frames_from`.
    Returns:
        `(B, 2, H, W)` float32 on the same device. Each pair is estimated by itself.

    Source: Bouguet 2000, "Pyramidal Implementation of the Lucas Kanade Feature Tracker"; the median
    is that of Sun et al. 2010, "Secrets of Optical Flow Estimation and Their Principles"; the
    weights are those of iteratively reweighted least squares for the L1 norm; windows and smoothness
    are joined as by Bruhn et al. 2005, "Lucas/Kanade Meets Horn/Schunck".
    """
    levels = [(frames_from.float(), frames_to.float())]
    while min(levels[-1][0].shape[-2:]) >= 2 * COARSEST_PX:
        levels.append((_halved(levels[-1][0]), _halved(levels[-1][1])))
    flow = _matched(*(_smoothed(level) for level in levels[-1]))
    for fine_from, fine_to in reversed(levels):
        height, width = fine_from.shape[-2:]
        flow = resized_flow(flow, (height, width))
        flow = _refined(flow, _smoothed(fine_from), _smoothed(fine_to))
    return flow


def _places(flow: Tensor) -> tuple[Tensor, Tensor]:
    height, width = flow.shape[-2:]
    columns = torch.arange(width, dtype=torch.float32, device=flow.device)
    rows = torch.arange(height, dtype=torch.float32, device=flow.device)
    return flow[:, 0].float() + columns, flow[:, 1].float() + rows[:, None]  # (B, H, W) each


def _halved(picture: Tensor) -> Tensor:
    height, width = picture.shape[-2:]
    size = (height + 1) // 2, (width + 1) // 2
    return F.interpolate(picture, size, mode="bilinear", align_corners=False, antialias=True)


def _smoothed(picture: Tensor) -> Tensor:
    return gaussian_blur(picture, SMOOTHING_SIGMA, radius=2)


def _window_mean(x: Tensor) -> Tensor:
    return gaussian_blur(x, WINDOW_SIGMA, WINDOW_RADIUS)


def _matched(first: Tensor, second: Tensor) -> Tensor:
    """Return for each pixel the whole step within the search whose window differs least."""
    height, width = first.shape[-2:]
    reach_x, reach_y = (min(SEARCH_PX, side // 4) for side in (width, height))
    best = torch.full_like(first[:, :1], torch.inf)
    flow = first.new_zeros(len(first), 2, height, width)
    steps = [(dx, dy) for dy in range(-reach_y, reach_y + 1) for dx in range(-reach_x, reach_x + 1)]
    # Of equals the shortest, which comes first.
    for dx, dy in sorted(steps, key=lambda step: step[0] ** 2 + step[1] ** 2):
        step = first.new_tensor([dx, dy]).view(1, 2, 1, 1).expand_as(flow)
        inside = lies_inside(step).float()
        error = (first - warp_along(second, step)).square().mean(dim=1, keepdim=True)
        cost = _window_mean(error * inside) / _window_mean(inside).clamp(min=1e-6)
        cost = torch.where(_window_mean(inside) > 0.25, cost + NOISE**2, torch.inf)
        better = cost < best * CLEARLY
        best = torch.where(better, cost, best)
        flow = torch.where(better, step, flow)
    return _median(flow)


def _refined(flow: Tensor, first: Tensor, second: Tensor) -> Tensor:
    gradient_first, gradient_second = _gradients(first), _gradients(second)
    channels = first.shape[1]
    for _ in range(ITERATIONS):
        warped = warp_along(torch.cat([second, gradient_second], dim=1), flow)
        missing = first - warped[:, :channels]  # (B, C, H, W)
        gradient = (gradient_first + warped[:, channels:]) / 2  # (B, 2 C, H, W): along x, along y
        along_x, along_y = gradient[:, :channels], gradient[:, channels:]
        error = missing.square().mean(dim=1, keepdim=True)
        weight = lies_inside(flow) / (error + NOISE**2).sqrt()
        products = [
            (a * b).mean(dim=1, keepdim=True) * weight
            for a, b in (
                (along_x, along_x),
                (along_y, along_y),
                (along_x, along_y),
                (along_x, missing),
                (along_y, missing),
            )
        ]
        sums = _window_mean(torch.cat([*products, weight], dim=1))  # (B, 6, H, W)
        xx, yy, xy, xd, yd, total = sums.split(1, dim=1)
        ridge = total * FLAT**2 + 1e-9
        xx, yy = xx + ridge, yy + ridge
        pull = ridge * (gaussian_blur(flow, AROUND_SIGMA, AROUND_RADIUS) - flow)
        xd, yd = xd + pull[:, :1], yd + pull[:, 1:]
        determinant = xx * yy - xy * xy
        step = torch.cat([yy * xd - xy * yd, xx * yd - xy * xd], dim=1) / determinant
        flow = _median(flow + step.clamp(-MOST_STEP_PX, MOST_STEP_PX))
    return flow


def _gradients(picture: Tensor) -> Tensor:
    """Return `(B, 2 C, H, W)`: derivatives along x and along y by five points."""
    channels = picture.shape[1]
    kernel = picture.new_tensor([1, -8, 0, 8, -1]) / 12
    padded = F.pad(picture, [2] * 4, mode="replicate")  # (B, C, H + 4, W + 4)
    kernel = kernel.expand(channels, 1, 1, -1)
    along_x = F.conv2d(padded[:, :, 2:-2], kernel, groups=channels)
    along_y = F.conv2d(padded[..., 2:-2], kernel.mT, groups=channels)
    return torch.cat([along_x, along_y], dim=1)


def _median(flow: Tensor) -> Tensor:
    """Return the median of five down, then across: close to that of a square, and much faster."""
    height, width = flow.shape[-2:]
    rows = F.pad(flow, (0, 0, 2, 2), mode="replicate")  # (B, 2, H + 4, W)
    flow = _median_of_five([rows[:, :, k : k + height] for k in range(5)])
    columns = F.pad(flow, (2, 2, 0, 0), mode="replicate")  # (B, 2, H, W + 4)
    return _median_of_five([columns[..., k : k + width] for k in range(5)])


def _median_of_five(values: list[Tensor]) -> Tensor:
    a, b, c, d, e = values
    # The least and the largest of four values cannot be the median of five.
    low = torch.maximum(torch.minimum(a, b), torch.minimum(c, d))
    high = torch.minimum(torch.maximum(a, b), torch.maximum(c, d))
    return torch.maximum(torch.minimum(low, high), torch.minimum(torch.maximum(low, high), e))
