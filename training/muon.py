"""Muon: momentum whose update is made orthogonal, for weights that are matrices.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale of
the update follows Liu et al. 2025 (arXiv 2502.16982), section 2.2.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..model_loaders.weight_names import TABLE_IN_NETWORK
from .precision import fast_dtype

# Coefficients of the quintic Newton-Schulz iteration that pushes singular values towards 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
# First and last layers of the networks that are trained, by the beginnings of their names.
OUTER_LAYERS = ("input_blocks.0.", "out.", "conv_first.", "conv_last.")


class Muon(torch.optim.Optimizer):
    """Updates weights of two and more dimensions, convolutions as matrices of their filters.

    Args:
        parameters: The weights.
        lr: Learning rate; the update's elements have a spread of about 0.2 times it.
        momentum: Decay of the averaged gradient.
        weight_decay: Share of a weight that a step at learning rate 1 takes away.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override] - no closure is used here
        """Take one step."""
        for group in self.param_groups:
            # Many small matrix products cost their start; equal matrices go through as one batch.
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape.setdefault(weight.flatten(1).shape, []).append(weight)
            for weights in by_shape.values():
                self._step_alike(weights, group)

    def _step_alike(self, weights: list[nn.Parameter], group: dict) -> None:
        momentum = group["momentum"]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["average"] = torch.zeros_like(weight)
        gradients = [weight.grad for weight in weights]
        averages = [self.state[weight]["average"] for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        wanted = torch._foreach_lerp(gradients, averages, momentum)
        updates = orthogonalise(torch.stack([matrix.flatten(1) for matrix in wanted]))
        rate = 0.2 * max(updates.shape[1:]) ** 0.5 * group["lr"]
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        shaped = [update.view_as(weight) for weight, update in zip(weights, updates, strict=True)]
        torch._foreach_add_(weights, shaped, alpha=-rate)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return the nearest matrices with singular values about 1.

    Args:
        matrices: `(K, M, N)`; computed in the dtype that the device is fast in.
    Returns:
        `(K, M, N)` float32.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(fast_dtype(matrices.device))
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = torch.bmm(x, x.mT)
        step = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, step, x, beta=a)
    return (x.mT if is_tall else x).float().contiguous()


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the weights for Muon, and the rest: first and last layer, norms, biases, tables."""
    matrices, rest = [], []
    for name, parameter in network.named_parameters():
        is_inner = not name.startswith(OUTER_LAYERS)
        is_matrix = parameter.ndim >= 2 and not name.endswith(TABLE_IN_NETWORK)
        (matrices if is_inner and is_matrix else rest).append(parameter)
    return matrices, rest
