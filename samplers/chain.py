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

import torch
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


def scale_input(x: Tensor, eta: Tensor, kappa: float, *, in_latent: bool = True) -> Tensor:
    """Return `x` divided by its spread, as the network takes it.

    Args:
        x: State of the chain.
        eta: eta of the state.
        kappa: Noise scale.
        in_latent: Whether the chain runs on latents; chains on pixels divide by three deviations
            plus the range instead.
    """
    if in_latent:
        return x / (kappa**2 * eta + 1).sqrt()
    return x / (3 * kappa * eta.sqrt() + 1)


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


def training_target(
    predict_type: PredictType, x_0: Tensor, y: Tensor, noise: Tensor, eta: Tensor, kappa: float
) -> Tensor:
    """Return what a network of this predict type should output."""
    if predict_type == "xstart":
        return x_0
    if predict_type == "residual":
        return y - x_0
    return noise if predict_type == "epsilon" else kappa * eta.sqrt() * noise


def training_loss(
    predict_type: PredictType,
    output: Tensor,
    target: Tensor,
    index: Tensor,
    eta: Tensor,
    kappa: float,
    *,
    weighted: bool = False,
) -> Tensor:
    """Return the squared error of each sample, `(B,)`.

    Args:
        predict_type: What the network predicts.
        output: Output of the network.
        target: `training_target` of the batch.
        index: `(B,)` int64 diffusion index of each sample.
        eta: `(T,)` schedule.
        kappa: Noise scale.
        weighted: Whether to weight by the variational bound instead of evenly.
    """
    error = (target - output).square().mean(dim=(1, 2, 3))
    eta_t = eta[index]
    if predict_type == "epsilon_scale":
        error = error / (kappa**2 * eta_t).to(error)
    if weighted:
        error = error * _bound_weight(predict_type, eta, kappa)[index].to(error)
    return error


def _bound_weight(predict_type: PredictType, eta: Tensor, kappa: float) -> Tensor:
    eta_prev = torch.cat([eta.new_zeros(1), eta[:-1]])
    alpha = eta - eta_prev
    variance = kappa**2 * eta_prev * alpha / eta
    variance = torch.cat([variance[1:2], variance[1:]])  # the first is 0: the second stands in
    if predict_type in ("xstart", "residual"):
        return 0.5 / variance * (alpha / eta) ** 2
    return 0.5 / variance * (kappa * alpha / ((1 - eta) * eta.sqrt())) ** 2
