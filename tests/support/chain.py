"""What ResShift's networks are trained to give."""

from __future__ import annotations

from torch import Tensor

from pack.samplers.chain import PredictType


def network_target(
    predict_type: PredictType, x_0: Tensor, y: Tensor, noise: Tensor, eta: Tensor, kappa: float
) -> Tensor:
    """Return what a perfect network of this predict type outputs."""
    if predict_type == "xstart":
        return x_0
    if predict_type == "residual":
        return y - x_0
    return noise if predict_type == "epsilon" else kappa * eta.sqrt() * noise
