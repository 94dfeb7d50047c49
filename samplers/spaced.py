"""DiffBIR's spaced sampler: the ancestral sampler of DDPM on some of the training timesteps.

ComfyUI's samplers hold x = x_t / sqrt(alpha-bar). There the posterior of the step from sigma to
sigma_next is

    x_next = x_0 + r (x - x_0) + sigma_next sqrt(1 - r) n,   r = (sigma_next / sigma)^2

which for sigma = infinity (zero terminal SNR) is x_0 + sigma_next n, whatever x.

| name in code | symbol |
|---|---|
| x | x_t / sqrt(alpha-bar_t) |
| denoised | x_0, the prediction of the clean latent |
| kept | r, the share of x - x_0 that stays |

Source: Ho et al. 2020 (arXiv 2006.11239), eq. 6 and 7, divided by sqrt(alpha-bar).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def posterior_coefficients(sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coefficients of DDPM's posterior for every step of a run.

    Args:
        sigmas: `(steps + 1,)` decreasing noise levels; the first may be infinite, the last 0.
    Returns:
        Two of `(steps,)` in float64: the share r of x - x_0 that stays, and the spread
        sigma_next sqrt(1 - r) of the fresh noise.
    """
    sigmas = sigmas.double()
    kept = (sigmas[1:] / sigmas[:-1]) ** 2
    return kept, sigmas[1:] * (1 - kept).sqrt()


def velocity_clean(denoised: Tensor, x: Tensor, sigma: float) -> Tensor:
    """Return x_0 = -v, what a v-prediction means at zero SNR.

    A finite sigma in place of infinity leaves a share x / (1 + sigma^2) of the noise in `denoised`.

    Args:
        denoised: x / (1 + sigma^2) - v sigma / sqrt(1 + sigma^2), `(B, C, H, W)`.
        x: State that v was predicted from, like `denoised`.
        sigma: The finite noise level that stands for infinity.
    """
    return (denoised - x / (1 + sigma**2)) * ((1 + sigma**2) ** 0.5 / sigma)


def sample_spaced(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    zero_snr_start: bool = False,
    noise_sampler: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return the sample that DDPM's ancestral chain makes from `x`.

    Args:
        model: `model(x, sigma, **extra_args)` predicts the clean latent; sigma is `(B,)`.
        x: `(B, C, H, W)` start state, float32.
        sigmas: `(steps + 1,)` decreasing noise levels, the last one usually 0.
        extra_args: Passed to `model`.
        callback: Called after each prediction with ComfyUI's dictionary.
        disable: Unused by this sampler; part of ComfyUI's calling convention.
        zero_snr_start: Whether the first of `sigmas` stands for infinity and the model predicts v:
            that step is then taken exactly.
        noise_sampler: `noise_sampler(sigma, sigma_next)` draws noise like `x`, called once for each
            step that does not end at 0.
    """
    extra_args = extra_args or {}
    ones = x.new_ones([x.shape[0]])
    levels = sigmas.cpu()  # read once: a look at each sigma would wait for the device
    first = levels[0].item()
    if zero_snr_start:
        levels = torch.cat([torch.full_like(levels[:1], torch.inf), levels[1:]])
    kept, spread = (coefficient.tolist() for coefficient in posterior_coefficients(levels))
    ends = (levels[1:] == 0).tolist()
    for i in range(len(sigmas) - 1):
        sigma = sigmas[i]
        # 1. Predict x_0
        denoised = model(x, sigma * ones, **extra_args)  # (B, C, H, W)
        if i == 0 and zero_snr_start:
            denoised = velocity_clean(denoised, x, first)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
        # 2. Mean of the posterior, eq. 7
        x = denoised + kept[i] * (x - denoised) if kept[i] else denoised
        # 3. Fresh noise of its variance, eq. 7
        if not ends[i]:
            x = x + spread[i] * noise_sampler(sigma, sigmas[i + 1])
    return x
