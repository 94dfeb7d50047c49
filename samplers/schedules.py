"""ResShift's noise schedule, in the paper's terms and as the sigmas of ComfyUI.

| name in code | symbol |
|---|---|
| eta, sqrt_eta | eta_t and its square root |
| kappa | kappa, the noise scale |
| sigma | kappa sqrt(eta) / (1 - eta), the noise level of w = (x - eta y) / (1 - eta) |
| trained | sigma of every step of the training schedule, index 0 the least noisy |

Source: Yue et al. 2023 (arXiv 2307.12348), "Noise Schedule".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Spacing = Literal["even", "official"]
SPACINGS: tuple[str, ...] = get_args(Spacing)

DENSE_ENTRIES = 1024


@dataclass(frozen=True)
class ResShiftSchedule:
    """The numbers that make a ResShift chain.

    Attributes:
        steps: Number of diffusion steps T, at least 2.
        kappa: Noise scale of the chain, positive.
        min_noise_level: Noise level of the first step, in (0, etas_end).
        etas_end: Square root of the last eta, in (0, 1).
        power: Exponent of the growth from first to last; larger stays low for longer. Positive.
    """

    steps: int
    kappa: float
    min_noise_level: float
    etas_end: float = 0.99
    power: float = 0.3

    def eta(self) -> Tensor:
        """Return `eta_schedule` for these numbers."""
        return eta_schedule(
            self.steps,
            min_noise_level=self.min_noise_level,
            kappa=self.kappa,
            etas_end=self.etas_end,
            power=self.power,
        )

    def trained_sigmas(self) -> Tensor:
        """Return `(T,)` float64 sigmas, strictly increasing."""
        return sigma_from_eta(self.eta(), self.kappa)


def eta_schedule(
    steps: int,
    *,
    min_noise_level: float,
    kappa: float,
    etas_end: float = 0.99,
    power: float = 0.3,
) -> Tensor:
    """Return the shifting sequence eta of ResShift.

    Args:
        steps: Number of diffusion steps T, at least 2.
        min_noise_level: Noise level of the first step, in (0, etas_end).
        kappa: Noise scale of the chain, positive.
        etas_end: Square root of the last eta, in (0, 1).
        power: Exponent of the growth from first to last; larger stays low for longer. Positive.
    Returns:
        `(steps,)` float64 on the CPU, strictly increasing, in (0, 1).
    Raises:
        ValueError: If `steps` < 2 or an argument is outside its range.

    Source: Yue et al. 2023 (arXiv 2307.12348), "Noise Schedule".
    """
    if steps < 2:
        raise ValueError(f"A ResShift schedule needs at least 2 steps, not {steps}.")
    if kappa <= 0 or power <= 0:
        raise ValueError(f"kappa and power must be positive, not {kappa} and {power}.")
    first = min(min_noise_level / kappa, min_noise_level)
    if not 0 < first < etas_end < 1:
        raise ValueError(
            f"min_noise_level {min_noise_level} and etas_end {etas_end} must lie in (0, 1), and the"
            f" first sqrt(eta), {first:.4g}, below etas_end. Lower min_noise_level or raise etas_end."
        )
    position = torch.linspace(0, 1, steps, dtype=torch.float64)
    sqrt_eta = first * (etas_end / first) ** (position**power)
    return sqrt_eta**2


def sigma_from_eta(eta: Tensor, kappa: float) -> Tensor:
    """Return the noise level of w for `eta` in [0, 1), same shape and dtype."""
    return kappa * eta.sqrt() / (1 - eta)


def sqrt_eta_from_sigma(sigma: Tensor, kappa: float) -> Tensor:
    """Return the square root of eta for `sigma` >= 0, same shape and dtype; exact to rounding."""
    return 2 * sigma / (kappa + (kappa**2 + 4 * sigma**2).sqrt())


def one_minus_eta_from_sigma(sigma: Tensor, kappa: float) -> Tensor:
    """Return 1 - eta for `sigma` >= 0, same shape and dtype; exact to rounding also near eta = 1."""
    return 2 * kappa / (kappa + (kappa**2 + 4 * sigma**2).sqrt())


def dense_sigmas(trained: Tensor) -> Tensor:
    """Return a table of at least 1024 sigmas that contains `trained`, for ComfyUI's schedulers.

    ComfyUI's schedulers pick entries of a model's table and repeat some when it has few, which
    breaks multistep samplers. With N = T M entries `simple` at T steps hits the trained exactly.

    Args:
        trained: `(T,)` increasing sigmas.
    Returns:
        `(T M,)` in the dtype of `trained`, M = ceil(1024 / T): `trained` at every M-th entry,
        logarithmic between its entries and linear from 0 below the first.
    """
    per_step = math.ceil(DENSE_ENTRIES / len(trained))
    fraction = torch.arange(1, per_step + 1, dtype=trained.dtype) / per_step
    below = trained[:1] * fraction  # (M,)
    low, high = trained[:-1, None], trained[1:, None]
    between = low * (high / low) ** fraction  # (T - 1, M)
    between[:, -1] = trained[1:]
    return torch.cat([below, between.flatten()])


def index_from_sigma(sigma: Tensor, trained: Tensor) -> Tensor:
    """Return the diffusion index of `sigma`, fractional between entries of `trained`.

    Args:
        sigma: Any shape, >= 0.
        trained: `(T,)` increasing sigmas on the device of `sigma`.
    Returns:
        Like `sigma`, in [0, T - 1]: log-linear between entries, whole numbers within 1e-3 of an
        entry, so that rounding of a sigma never reaches the network.
    """
    log_trained = trained.log()
    log_sigma = sigma.clamp(min=trained[0], max=trained[-1]).log()
    above = torch.searchsorted(trained, sigma.contiguous()).clamp(1, len(trained) - 1)
    low, high = log_trained[above - 1], log_trained[above]
    index = above - 1 + (log_sigma - low) / (high - low)
    nearest = index.round()
    return torch.where((index - nearest).abs() < 1e-3, nearest, index)


def sigma_from_index(index: Tensor, trained: Tensor) -> Tensor:
    """Return the sigma of a fractional diffusion index in [0, T - 1], log-linear between entries."""
    index = index.clamp(0, len(trained) - 1)
    low = index.floor().long()
    high = index.ceil().long()
    fraction = index - low
    return trained[low] * (trained[high] / trained[low]) ** fraction


def sampling_sigmas(trained: Tensor, steps: int, spacing: Spacing = "even") -> Tensor:
    """Return the sigmas of a run, from the noisiest down to the closing 0.

    Args:
        trained: `(T,)` increasing sigmas of the trained schedule.
        steps: Network calls; 0 means T. With `even`, fewer than T take evenly spread indices that
            include the last, 1 takes the last alone (SinSR), and more are log-interpolated.
        spacing: `official` keeps the indices int(T / steps k), k = 0 .. steps - 1, as the reference
            implementation's respacing does; its noisiest index is in general not the last.
    Returns:
        `(steps + 1,)` in the dtype of `trained`.
    Raises:
        ValueError: If `steps` is negative, or larger than T with `official`.
    """
    total = len(trained)
    if steps < 0:
        raise ValueError(f"steps must be 0 (all {total} of the model) or more, not {steps}.")
    steps = steps or total
    if spacing == "official":
        if steps > total:
            raise ValueError(
                f"The official spacing keeps some of the model's {total} steps, so steps can be at"
                f" most {total}, not {steps}. Use spacing 'even' for more."
            )
        kept = sorted({int(total / steps * k) for k in range(steps)})
        run = trained[torch.tensor(kept)]
    elif steps == 1:
        run = trained[-1:]
    elif steps <= total:
        kept = [round(k * (total - 1) / (steps - 1)) for k in range(steps)]
        run = trained[torch.tensor(kept)]
    else:
        index = torch.arange(steps, dtype=trained.dtype) * (total - 1) / (steps - 1)
        run = sigma_from_index(index, trained)
    return torch.cat([run.flip(0), run.new_zeros(1)])
