"""ResShift's Markov chain in the paper's own variable x, for training and for parity.

Sampling runs in w = (x - eta y) / (1 - eta) instead, where the chain is an ordinary
variance-exploding diffusion (`residual_shift.py`).

| name in code | symbol |
|---|---|
| x, x_0, y | x_t, x_0, y_0: state, clean latent, latent of the enlarged low-quality image |
| eta, eta_prev | eta_t, eta_{t-1} |
| output | output of the network |

Tensors are `(B, C, H, W)`; eta is a number or broadcasts over them. Dtype and device follow the
inputs.

Source: Yue et al. 2023 (arXiv 2307.12348), eq. 1 to 8; Yue et al. 2024 (arXiv 2403.07319).
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

PredictType = Literal["xstart", "residual", "epsilon", "epsilon_scale"]
PREDICT_TYPES: tuple[str, ...] = get_args(PredictType)


def forward_sample(x_0: Tensor, y: Tensor, noise: Tensor, eta: Tensor, kappa: float) -> Tensor:
    """Return a sample of the forward marginal q(x_t | x_0, y) made with `noise` (eq. 2)."""
    return x_0 + eta * (y - x_0) + kappa * eta.sqrt() * noise


def prior_sample(y: Tensor, noise: Tensor, eta_last: Tensor, kappa: float) -> Tensor:
    """Return the start of the reverse chain, around `y` itself."""
    return y + kappa * eta_last.sqrt() * noise


def posterior_step(
    x: Tensor, x_0: Tensor, noise: Tensor, eta: Tensor, eta_prev: Tensor, kappa: float
) -> Tensor:
    """Return a sample of q(x_{t-1} | x_t, x_0) (eq. 7); at `eta_prev` 0 that is `x_0` itself."""
    kept = eta_prev / eta
    std = kappa * (eta_prev * (eta - eta_prev) / eta).sqrt()
    return kept * x + (1 - kept) * x_0 + std * noise


def scale_input(x: Tensor, eta: Tensor, kappa: float) -> Tensor:
    """Return `x` divided by its spread, as the network takes it."""
    return x / (kappa**2 * eta + 1).sqrt()


def predict_x_0(
    predict_type: PredictType, output: Tensor, x: Tensor, y: Tensor, eta: Tensor, kappa: float
) -> Tensor:
    """Return the clean latent that a network output stands for."""
    if predict_type == "xstart":
        return output
    if predict_type == "residual":
        return y - output
    noise = output * kappa * eta.sqrt() if predict_type == "epsilon" else output
    return (x - noise - eta * y) / (1 - eta)
