"""Stable Diffusion's noise schedule and the timesteps that DiffBIR visits.

| name in code | symbol |
|---|---|
| alphas_cumprod | alpha-bar_t, the share of the clean latent's variance at timestep t |
| sigma | sqrt((1 - alpha-bar) / alpha-bar), the noise level of x_t / sqrt(alpha-bar) |
| sigmas (of a model) | sigma of every training timestep, index 0 the least noisy |

Source: Ho et al. 2020 (arXiv 2006.11239); Lin et al. 2023 (arXiv 2305.08891) for zero terminal SNR;
Lin et al. 2023 (arXiv 2308.15070), DiffBIR, for the timesteps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TRAINING_STEPS = 1000
LINEAR_START = 0.00085
LINEAR_END = 0.012

# What DiffBIR's EDM samplers put in place of the first sigma.
EDM_FIRST_SIGMA = math.sqrt(1 / 1e-8 - 1)


def training_betas() -> Tensor:
    """Return `(1000,)` float64 variances of Stable Diffusion's steps, linear in their square roots."""
    ends = math.sqrt(LINEAR_START), math.sqrt(LINEAR_END)
    return torch.linspace(*ends, TRAINING_STEPS, dtype=torch.float64) ** 2


def alphas_cumprod(*, zero_snr: bool = False) -> Tensor:
    """Return alpha-bar of every training timestep.

    Args:
        zero_snr: Whether the square roots are shifted and scaled so that the last is exactly 0 and
            the first stays, as DiffBIR v2.1's base model was trained.
    Returns:
        `(1000,)` float64, decreasing.

    Source: Lin et al. 2023 (arXiv 2305.08891), Algorithm 1.
    """
    kept = torch.cumprod(1 - training_betas(), dim=0)
    if not zero_snr:
        return kept
    root = kept.sqrt()
    shifted = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    return shifted**2


def sigmas_from_alphas_cumprod(kept: Tensor) -> Tensor:
    """Return the sigma of alpha-bar in [0, 1], same shape and dtype; infinite for 0."""
    return ((1 - kept) / kept).sqrt()


def spaced_timesteps(steps: int, total: int = TRAINING_STEPS) -> list[int]:
    """Return the timesteps of DiffBIR's spaced sampler, increasing.

    Args:
        steps: How many, 1 to `total`; 2 or more always include 0 and the last, 1 is 0 alone.
        total: Training timesteps of the model.
    Raises:
        ValueError: If `steps` is out of range.
    """
    _check_steps(steps, total)
    if steps == 1:
        return [0]
    stride = (total - 1) / (steps - 1)
    position = 0.0
    timesteps = []
    for _ in range(steps):
        timesteps.append(round(position))  # to even at a half, as the reference rounds
        position += stride  # added up, for the reference's rounding errors decide at a half
    return timesteps


def spaced_sigmas(sigmas: Tensor, steps: int) -> Tensor:
    """Return the sigmas of a run of the spaced sampler.

    Args:
        sigmas: `(total,)` increasing sigmas of a model's training timesteps.
        steps: See `spaced_timesteps`.
    Returns:
        `(steps + 1,)` decreasing, the last one 0, in the dtype and on the device of `sigmas`.
    """
    visited = torch.tensor(spaced_timesteps(steps, len(sigmas)), device=sigmas.device)
    return _ending_at_zero(sigmas[visited.flip(0)])


def edm_timesteps(steps: int, total: int = TRAINING_STEPS) -> list[int]:
    """Return the timesteps of DiffBIR's EDM samplers, decreasing from the last.

    Args:
        steps: How many, 1 to `total`.
        total: Training timesteps of the model.
    Raises:
        ValueError: If `steps` is out of range.
    """
    _check_steps(steps, total)
    # In the order of the reference's np.linspace, whose rounding decides where a whole number is met.
    stride = -(total - 1) / steps
    return [int(i * stride + (total - 1)) for i in range(steps)]


def edm_sigmas(sigmas: Tensor, steps: int, first: float) -> Tensor:
    """Return the sigmas of a run of DiffBIR's EDM samplers.

    Args:
        sigmas: `(total,)` increasing sigmas of a model's training timesteps.
        steps: See `edm_timesteps`.
        first: Stands in place of the first sigma, which is infinite with zero terminal SNR; the
            reference takes `EDM_FIRST_SIGMA` for every model.
    Returns:
        `(steps + 1,)` decreasing, the last one 0, in the dtype and on the device of `sigmas`.
    """
    run = sigmas[torch.tensor(edm_timesteps(steps, len(sigmas)), device=sigmas.device)]
    run[0] = first
    return _ending_at_zero(run)


def _ending_at_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def _check_steps(steps: int, total: int) -> None:
    if not 1 <= steps <= total:
        raise ValueError(f"steps must be 1 to {total}, the model's timesteps, not {steps}.")
