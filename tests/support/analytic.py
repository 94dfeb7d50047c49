"""A MODEL whose answers are known: the exact denoiser of a normal distribution."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor, nn

from pack.samplers.discrete import alphas_cumprod

VARIANCE = 0.25


class NormalDenoiser(nn.Module):
    """Predicts for latents drawn around a mean, which comes as the text embedding."""

    def __init__(self, velocity: bool, zero_snr: bool) -> None:
        super().__init__()
        self.velocity = velocity
        self.dtype = torch.float32
        self.register_buffer("kept", alphas_cumprod(zero_snr=zero_snr), persistent=False)
        self.timesteps: list[float] = []

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_: Any) -> Tensor:
        self.timesteps.append(timesteps[0].item())
        a = self.kept[timesteps.long().clamp(max=len(self.kept) - 1)].view(-1, 1, 1, 1)
        mean = context.view(len(context), *x.shape[1:]).double()
        clean = mean + VARIANCE * a.sqrt() / (VARIANCE * a + 1 - a) * (x - a.sqrt() * mean)
        if self.velocity:
            return ((a.sqrt() * x - clean) / (1 - a).sqrt()).float()
        return ((x - a.sqrt() * clean) / (1 - a).sqrt()).float()


def analytic_model(*, velocity: bool = False, zero_snr: bool | None = None) -> Any:
    """Return the denoiser as a MODEL of SD 2's class, which is taken for one that predicts noise.

    Args:
        velocity: Whether it predicts v.
        zero_snr: Whether its schedule has zero terminal SNR; as `velocity` if None.
    """
    zero_snr = velocity if zero_snr is None else zero_snr
    config = comfy.supported_models.SD20(
        {
            "in_channels": 4,
            "context_dim": 1024,
            "model_channels": 320,
            "adm_in_channels": None,
            "use_linear_in_transformer": True,
            "disable_unet_model_creation": True,
        }
    )
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.EPS)
    model.diffusion_model = NormalDenoiser(velocity, zero_snr)
    return comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def around(mean: Tensor) -> list:
    """Return a CONDITIONING for latents around `mean`, `(1, C, H, W)` in the network's scale."""
    return [[mean.reshape(1, 1, -1), {}]]
