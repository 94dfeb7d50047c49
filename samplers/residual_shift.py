"""ResShift's reverse chain as a sampler for ComfyUI.

In w = (x - eta y) / (1 - eta) the latent y of the low-quality image cancels out of the reverse
step, so the sampler needs only the denoised latent and sigma:

    w_prev = x_0 + sigma_prev sqrt(r) (w - x_0) / sigma + sigma_prev sqrt(1 - r) n,   r = eta_prev / eta

Source: Yue et al. 2023 (arXiv 2307.12348), eq. 7, rewritten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .schedules import sqrt_eta_from_sigma


def residual_shift_step(
    x: Tensor,
    denoised: Tensor,
    noise: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    kappa: float,
    randomness: float,
) -> Tensor:
    """Return the state after one reverse step.

    Args:
        x: `(B, C, H, W)` state w at `sigma`, float32.
        denoised: Prediction of the clean latent, like `x`.
        noise: Standard normal noise, like `x`.
        sigma: Noise level of `x`, a scalar tensor, positive.
        sigma_next: Noise level to reach, a scalar tensor in [0, sigma); 0 gives `denoised`.
        kappa: Noise scale of the model's chain.
        randomness: 1 is the published chain; 0 is its deterministic member, which keeps the noise
            that is already in `x`; in between the shares mix with the marginals unchanged.
    """
    # r = eta_prev / eta, raised towards 1 where less of the noise is drawn afresh
    eta_ratio = (sqrt_eta_from_sigma(sigma_next, kappa) / sqrt_eta_from_sigma(sigma, kappa)) ** 2
    kept = 1 - randomness * (1 - eta_ratio)
    x = denoised + (sigma_next * kept.sqrt() / sigma) * (x - denoised)  # mean of eq. 7
    return x + sigma_next * (1 - kept).sqrt() * noise  # its deviation


def sample_residual_shift(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    kappa: float,
    randomness: float = 1.0,
    noise_sampler: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return the sample that ResShift's reverse chain makes from `x`.

    Args:
        model: `model(x, sigma, **extra_args)` predicts the clean latent; sigma is `(B,)`.
        x: `(B, C, H, W)` start state y + sigma_T n, float32.
        sigmas: `(steps + 1,)` decreasing noise levels, the last one usually 0.
        extra_args: Passed to `model`.
        callback: Called after each prediction with ComfyUI's dictionary.
        disable: Unused by this sampler; part of ComfyUI's calling convention.
        kappa: Noise scale of the model's chain.
        randomness: See `residual_shift_step`, in [0, 1].
        noise_sampler: `noise_sampler(sigma, sigma_next)` draws noise like `x`, called once a step
            that adds noise.
    """
    extra_args = extra_args or {}
    ones = x.new_ones([x.shape[0]])
    ends_clean = bool(sigmas[-1] == 0)  # read once: a look at each sigma would wait for the device
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        # 1. Predict x_0
        denoised = model(x, sigma * ones, **extra_args)  # (B, C, H, W)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
        if ends_clean and i == len(sigmas) - 2:
            return denoised  # eq. 7 at eta_prev = 0
        # 2. Draw w_prev from q(w_prev | w, x_0), eq. 7
        noise = noise_sampler(sigma, sigma_next) if randomness > 0 else torch.zeros_like(x)
        x = residual_shift_step(x, denoised, noise, sigma, sigma_next, kappa, randomness)
    return x
