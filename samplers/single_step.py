"""HYPIR's one step: a clean latent is taken for a noised one and its noise predicted away.

The scaled latent z of the picture goes into the network as it is, as the state x_t of a timestep t,
though no noise was added to it:

    x_0 = (z - sqrt(1 - a) eps(z, t)) / sqrt(a),    a = alpha-bar of t

ComfyUI's samplers hold x = x_t / sqrt(a) = z sqrt(1 + sigma^2) with sigma = sqrt((1 - a) / a), in
which the step is one of Euler's from sigma to 0.

| name in code | symbol |
|---|---|
| latent | z |
| x | z / sqrt(a) |

Source: facts on the released code's behaviour; Lin et al. 2025 (arXiv 2507.20590).
"""

from __future__ import annotations

from torch import Tensor


def noise_without_noise(latent: Tensor, sigma: Tensor, *, spread: bool) -> Tensor:
    """Return the noise from which ComfyUI's start is z sqrt(1 + sigma^2): a multiple of the latent.

    Args:
        latent: `(B, C, H, W)` scaled latent z, any dtype and device.
        sigma: Noise level of the step, a positive scalar tensor.
        spread: Whether ComfyUI multiplies the noise by sqrt(1 + sigma^2), as it does at the largest
            sigma, or by sigma.
    """
    total = (1 + sigma**2).sqrt()
    # total - 1 without the cancellation of small sigmas.
    added = sigma**2 / (total + 1)
    return latent * (added / (total if spread else sigma))


def take_share(latent: Tensor, restored: Tensor, strength: float) -> Tensor:
    """Return the latent moved to the restored one by a share of the way.

    Args:
        latent: `(B, C, H, W)` latent before the step.
        restored: The same after it.
        strength: 1 takes the whole step and returns `restored` itself, 0 none.
    """
    return restored if strength == 1 else latent + strength * (restored - latent)
