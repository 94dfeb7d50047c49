"""ResShift's chain as ComfyUI's model_sampling: a variance-exploding diffusion.

| name in code | symbol |
|---|---|
| x | w = (x_t - eta y) / (1 - eta), what ComfyUI's samplers hold |
| sigma | kappa sqrt(eta) / (1 - eta), noise level of w |

Source: Yue et al. 2023 (arXiv 2307.12348), rewritten for w.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..samplers.chain import PredictType
from ..samplers.schedules import (
    ResShiftSchedule,
    dense_sigmas,
    index_from_sigma,
    one_minus_eta_from_sigma,
    sigma_from_index,
    sqrt_eta_from_sigma,
)

# What ComfyUI's own classes return for the start of sampling: above every sigma.
BEFORE_SAMPLING = 999999999.9


class ResShiftSampling(nn.Module):
    """The model_sampling of a ResShift MODEL.

    Args:
        schedule: Numbers of the chain.
        predict_type: What the network predicts.

    Attributes:
        trained_sigmas: `(T,)` float32 sigmas of the trained steps, increasing.
        sigmas: `(N,)` float32, a dense table around `trained_sigmas` for ComfyUI's schedulers.
        sigma_data: Read by some samplers; latents have about unit spread.
    """

    trained_sigmas: Tensor
    sigmas: Tensor

    def __init__(self, schedule: ResShiftSchedule, predict_type: PredictType):
        super().__init__()
        self.schedule = schedule
        self.predict_type = predict_type
        self.sigma_data = 1.0
        trained = schedule.trained_sigmas()
        self.register_buffer("trained_sigmas", trained.float(), persistent=False)
        self.register_buffer("sigmas", dense_sigmas(trained).float(), persistent=False)

    @property
    def kappa(self) -> float:
        """Noise scale of the chain."""
        return self.schedule.kappa

    @property
    def sigma_min(self) -> Tensor:
        """Smallest sigma of the trained steps."""
        return self.trained_sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        """Largest sigma of the trained steps."""
        return self.trained_sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the diffusion index the network takes, whole on the trained steps."""
        return index_from_sigma(sigma.float(), self.trained_sigmas.to(sigma.device))

    def sigma(self, timestep: Tensor) -> Tensor:
        """Return the sigma of a diffusion index, fractional or whole."""
        return sigma_from_index(timestep.float(), self.trained_sigmas.to(timestep.device))

    def percent_to_sigma(self, percent: float) -> float:
        """Return the sigma at a share of the run, 0 its start and 1 its end."""
        if percent <= 0:
            return BEFORE_SAMPLING
        if percent >= 1:
            return 0.0
        index = torch.tensor(
            (1 - percent) * (len(self.trained_sigmas) - 1), device=self.trained_sigmas.device
        )
        return self.sigma(index).item()

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False
    ) -> Tensor:
        """Return the start state; at the last sigma that is the paper's start around y."""
        return latent_image + _per_sample(sigma, noise) * noise

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        """Return `latent`: a finished sample is the latent itself."""
        return latent

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """Return the share of the network's input that comes from `noise`, the state w."""
        sigma = _per_sample(sigma, noise)
        return noise * one_minus_eta_from_sigma(sigma, self.kappa) / self._spread(sigma)

    def shift_scale(self, sigma: Tensor, y: Tensor) -> Tensor:
        """Return the share of the network's input that comes from `y`, which is added to it."""
        sigma = _per_sample(sigma, y)
        return y * sqrt_eta_from_sigma(sigma, self.kappa) ** 2 / self._spread(sigma)

    def calculate_denoised(
        self, sigma: Tensor, model_output: Tensor, model_input: Tensor
    ) -> Tensor:
        """Return the denoised latent; for `residual`, y must still be added to it."""
        sigma = _per_sample(sigma, model_output)
        if self.predict_type == "xstart":
            return model_output
        if self.predict_type == "residual":
            return -model_output
        if self.predict_type == "epsilon":
            return model_input - sigma * model_output
        return model_input - model_output / one_minus_eta_from_sigma(sigma, self.kappa)

    def _spread(self, sigma: Tensor) -> Tensor:
        eta = sqrt_eta_from_sigma(sigma, self.kappa) ** 2
        return (self.kappa**2 * eta + 1).sqrt()


def check_sampling(sampling: Any) -> ResShiftSampling:
    """Return the model_sampling of a ResShift MODEL as what it must be.

    Raises:
        ValueError: If a node has put that of another kind of model in its place.
    """
    if not isinstance(sampling, ResShiftSampling):
        raise ValueError(
            "a node such as 'ModelSamplingDiscrete' or 'ModelSamplingSD3' has given this ResShift"
            f" model the noise levels of another kind of model ({type(sampling).__name__}), which its"
            " chain cannot follow. Leave that node out; 'ResShift Model Sampling' changes the"
            " schedule of a ResShift model."
        )
    return sampling


def _per_sample(sigma: Tensor, like: Tensor) -> Tensor:
    if sigma.ndim == 0:
        return sigma
    return sigma.view(sigma.shape[0], *([1] * (like.ndim - 1)))
