"""How well a ResShift MODEL restores pictures it does not learn from, while ComfyUI trains it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..images.charts import Panel, draw_panels
from ..images.conversion import planes_to_image
from ..images.labels import label_grid
from ..images.metrics import SSIM_WINDOW
from ..model_loaders.resshift_sampling import check_sampling
from ..samplers.residual_shift import sample_residual_shift
from .measure import Measured, measure_images
from .noise import PictureSeeds, draw_noise, step_noise_sampler
from .pairs import check_pairs
from .resshift_conditioning import ResShiftInputs, prepare_resshift

KEY = "resshift_validation"
CHART_SIZE = (900, 260)  # width and height of a panel
SHARE_LEFT_OUT = 0.9  # of the loss's running mean


@dataclass
class Validation:
    """Restorations of a few pictures at several moments of one training.

    Attributes:
        vae: Decodes them.
        clean: `(B, H, W, C)` IMAGE, their originals.
        latents: `(B, C, h, w)` restored latents on the CPU by the number of steps trained before.
    """

    vae: Any
    clean: Tensor
    latents: dict[int, Tensor] = field(default_factory=dict)

    def restored(self, steps: int) -> Tensor:
        """Return the restored pictures after so many steps, an IMAGE of the size of `clean`."""
        height, width = self.clean.shape[1:3]
        return self.vae.decode(self.latents[steps])[:, :height, :width].cpu().clamp(0, 1)

    def measured(self) -> dict[int, Measured]:
        """Return figures of the restored pictures by steps."""
        return {steps: measure_images(self.restored(steps), self.clean) for steps in self.latents}


def watch_training(
    model: Any, vae: Any, clean: Tensor, degraded: Tensor, every: int, seed: int
) -> tuple[Any, Validation]:
    """Return a clone of a ResShift MODEL that restores pictures while it is trained, and its results.

    Args:
        model: A ResShift MODEL.
        vae: Its VAE.
        clean: `(B, scale H, scale W, C)` IMAGE, not among the pictures that are learnt from.
        degraded: `(B, H, W, C)` IMAGE.
        every: Steps between two restorations; there is one before the first step and one after the
            last.
        seed: Decides the noise, the same each time.
    Raises:
        ValueError: If the MODEL or the pictures do not fit; while training, if the model restores
            NaN.
    """
    check_pairs(model, clean, degraded)
    height, width = clean.shape[1:3]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"'clean' is {width}x{height}; SSIM needs {SSIM_WINDOW}x{SSIM_WINDOW} pixels, so take a"
            " larger picture to judge by."
        )
    inputs = [prepare_resshift(model, vae, degraded[k : k + 1]) for k in range(len(degraded))]
    seeds = [PictureSeeds(seed).moved_by(k) for k in range(len(degraded))]
    validation = Validation(vae, clean)
    watched = model.clone()

    def watch(executor: Any, model_wrap: Any, *rest: Any) -> Any:
        if not comfy.model_management.in_training:
            return executor(model_wrap, *rest)
        sampler = executor.class_obj
        validation.latents.clear()
        losses = getattr(sampler, "steps_before", 0) * sampler.grad_acc

        def restore_all(steps: int) -> None:
            with torch.no_grad(), _computing_as(sampler, model_wrap):
                restored = [
                    _restore(model_wrap, *given) for given in zip(inputs, seeds, strict=True)
                ]
            latents = torch.cat(restored).cpu()  # (B, C, h, w)
            _check_finite(latents, steps)
            validation.latents[steps] = latents

        listen = sampler.loss_callback

        def listen_and_restore(loss: float) -> None:
            nonlocal losses
            listen(loss)
            steps, part = divmod(losses, sampler.grad_acc)
            if part == 0 and (steps % every == 0 or not validation.latents):
                # the weights have learnt `steps` times so far
                restore_all(steps)
            losses += 1

        sampler.loss_callback = listen_and_restore
        made = executor(model_wrap, *rest)
        restore_all(sampler.total_steps // sampler.grad_acc)
        return made

    watched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, watch)
    return watched, validation


def _check_finite(latents: Tensor, steps: int) -> None:
    if torch.isfinite(latents).all():
        return
    if steps == 0:
        raise ValueError(
            "ResShift Validation: the model restores NaN before it is trained. Load it with 'dtype'"
            " fp32, and set 'training_dtype' of Train LoRA to fp32."
        )
    raise ValueError(
        f"ResShift Validation: after {steps} steps the model restores NaN, so the training has"
        " failed. Lower 'learning_rate' of Train LoRA, or set its 'training_dtype' and"
        " 'lora_dtype' to fp32."
    )


def _computing_as(sampler: Any, model_wrap: Any) -> torch.autocast:
    """Return the context that ComfyUI's training computes in."""
    device = model_wrap.model_patcher.load_device
    dtype = sampler.training_dtype
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def _restore(model_wrap: Any, inputs: ResShiftInputs, seeds: PictureSeeds) -> Tensor:
    """Return the latent that the usual chain makes with the weights as they are now."""
    network, device = model_wrap.inner_model, model_wrap.model_patcher.load_device
    sampling = check_sampling(network.model_sampling)
    y = inputs.latent["samples"].to(device, torch.float32)
    noise = draw_noise(seeds.generators(1), y)
    entries = comfy.sampler_helpers.convert_cond(inputs.positive)
    conds = comfy.samplers.process_conds(
        network, noise, {"positive": entries}, device, latent_image=y, seed=seeds.seed
    )

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        return comfy.samplers.sampling_function(
            network, x, sigma, None, conds["positive"], 1.0, model_options=model_wrap.model_options
        )

    state = y + sampling.usual_sigmas[0] * noise
    return sample_residual_shift(
        predict,
        state,
        torch.cat([sampling.usual_sigmas, sampling.usual_sigmas.new_zeros(1)]),
        kappa=sampling.kappa,
        noise_sampler=step_noise_sampler(state, seeds, len(sampling.usual_sigmas)),
    )


def draw_validation(
    loss: dict[str, list[float]], validation: Validation
) -> tuple[Tensor, Tensor, str]:
    """Return a chart of a training, its pictures, and its figures.

    Args:
        loss: LOSS_MAP of ComfyUI's Train LoRA.
        validation: What `watch_training` gave.
    Returns:
        IMAGE `(1, H, W, 3)`: the loss, PSNR, SSIM and NIQE over the steps; IMAGE `(B, H, W, 3)`:
        each picture before the training, after it and its original side by side; a table.
    Raises:
        ValueError: If the model of `watch_training` was not trained.
    """
    if not validation.latents:
        raise ValueError(
            "'validation' holds nothing: connect the model of 'ResShift Validation' to Train LoRA,"
            " whose loss_map belongs here."
        )
    figures = validation.measured()
    steps = list(figures)
    losses = loss["loss"]
    per_step = max(steps) / max(1, len(losses))
    panels = [
        Panel("training loss", [per_step * (k + 1) for k in range(len(losses))], smoothed(losses)),
        Panel("PSNR (luma, dB), more is better", steps, [m.psnr_y for m in figures.values()]),
        Panel("SSIM (luma), more is better", steps, [m.ssim_y for m in figures.values()]),
        Panel("NIQE, less is better", steps, [m.niqe for m in figures.values()]),
    ]
    chart = draw_panels(panels, *CHART_SIZE)
    first, last = validation.restored(steps[0]), validation.restored(steps[-1])
    labels = [f"{steps[0]} steps", f"{steps[-1]} steps", "original"]
    strips = [
        label_grid([picture.movedim(-1, 0) for picture in row], labels, 3, 24)
        for row in zip(first, last, validation.clean[..., :3].cpu(), strict=True)
    ]
    return planes_to_image(chart[None]), planes_to_image(torch.stack(strips)), _table(figures)


def smoothed(losses: list[float]) -> list[float]:
    """Return the running mean of a loss, which single steps make ragged."""
    made, mean = [], losses[0] if losses else 0.0
    for value in losses:
        mean = SHARE_LEFT_OUT * mean + (1 - SHARE_LEFT_OUT) * value
        made.append(mean)
    return made


def _table(figures: dict[int, Measured]) -> str:
    rows = [
        f"| {steps} | {m.psnr_y:.2f} | {m.ssim_y:.4f} | {m.niqe:.2f} |"
        for steps, m in figures.items()
    ]
    return "\n".join(["| steps | PSNR Y | SSIM Y | NIQE |", "|---:|---:|---:|---:|", *rows])
