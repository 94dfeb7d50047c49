"""Full-reference measures of image quality."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .color import luminance

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
# Constant of the gradient similarity: 170 for values up to 255.
GMSD_CONSTANT = 170 / 255**2


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB over all channels.

    Args:
        image: `(B, C, H, W)` in [0, 1].
        reference: Like `image`.
    Returns:
        `(B,)`; infinite where the images are equal.
    """
    error = (image.double() - reference.double()).square().mean(dim=(1, 2, 3))
    return -10 * error.log10()


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Return the structural similarity of the luma, mean over the picture.

    Gaussian window of 11 pixels and sigma 1.5, no padding, C1 = 0.01^2 and C2 = 0.03^2, on BT.601
    full-range luma.

    Args:
        image: `(B, 3, H, W)` in [0, 1], both sides at least 11.
        reference: Like `image`.
    Returns:
        `(B,)` in [-1, 1].

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural
    similarity", eq. 13.
    """
    return channel_ssim(luminance(image.double()), luminance(reference.double()))


def channel_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Return the structural similarity of every channel by itself, mean over all.

    The window and the constants are those of `ssim`.

    Args:
        image: `(B, C, H, W)` in [0, 1], both sides at least 11.
        reference: Like `image`.
    Returns:
        `(B,)` in [-1, 1].
    """
    batch, channels, height, width = image.shape
    x, y = (t.double().reshape(batch * channels, 1, height, width) for t in (image, reference))
    blurred = [_gaussian_blur(t) for t in (x, y, x * x, y * y, x * y)]
    mean_x, mean_y = blurred[0], blurred[1]
    variance_x = blurred[2] - mean_x**2
    variance_y = blurred[3] - mean_y**2
    covariance = blurred[4] - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return similarity.reshape(batch, -1).mean(dim=1)


def gmsd(image: Tensor, reference: Tensor) -> Tensor:
    """Return the gradient magnitude similarity deviation of the luma; 0 is equal, less is better.

    Prewitt gradients of the luma (BT.601 full-range) halved by means of 2x2 pixels, black around it;
    an odd side is halved with a black row or column more, as in the authors' program.

    Args:
        image: `(B, 3, H, W)` in [0, 1], both sides at least 4.
        reference: Like `image`.
    Returns:
        `(B,)`, from 0.

    Source: Xue et al. 2014 (arXiv 1308.3052), "Gradient Magnitude Similarity Deviation", eq. 1-5.
    """
    x, y = (_gradient_magnitude(luminance(t.double())) for t in (image, reference))
    similarity = (2 * x * y + GMSD_CONSTANT) / (x * x + y * y + GMSD_CONSTANT)
    return similarity.flatten(1).std(dim=1, correction=0)


def _gradient_magnitude(luma: Tensor) -> Tensor:
    height, width = luma.shape[-2:]
    even = F.pad(luma, (0, width % 2, 0, height % 2))
    halved = F.avg_pool2d(even, 2)  # (B, 1, ceil(H / 2), ceil(W / 2))
    across = torch.tensor([1, 0, -1], dtype=luma.dtype, device=luma.device).expand(3, 3) / 3
    kernels = torch.stack([across, across.T]).unsqueeze(1)
    return F.conv2d(halved, kernels, padding=1).square().sum(dim=1, keepdim=True).sqrt()


def _gaussian_blur(x: Tensor) -> Tensor:
    offset = torch.arange(SSIM_WINDOW, dtype=x.dtype, device=x.device) - SSIM_WINDOW // 2
    kernel = torch.exp(-(offset**2) / (2 * SSIM_SIGMA**2))
    kernel = kernel / kernel.sum()
    x = F.conv2d(x, kernel.view(1, 1, -1, 1))
    return F.conv2d(x, kernel.view(1, 1, 1, -1))
