"""Training of all weights of a ResShift MODEL inside ComfyUI.

The loop runs where a sampler does, so that loading, patches and wrappers of the MODEL are ComfyUI's
own. What is learnt is what ComfyUI's Train LoRA learns on such a MODEL: the clean latent from
the state of the chain, at the noise levels of its steps.

Everything random is a function of the seed and of how many pictures were seen before, so a training
that goes on from a checkpoint is the training that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import numpy as np
import torch
from comfy_extras.nodes_train import TrainGuider
from torch import Tensor

from ..model_loaders.resshift import copy_for_training, copy_with_weights, cpu_has_bf16_units
from ..model_loaders.resshift_model import LATENT_KEY, LQ_KEY
from ..model_loaders.resshift_sampling import check_sampling
from .noise import PictureSeeds, draw_noise
from .progress import RunProgress
from .resshift_conditioning import resshift_model
from .training_state import (
    NETWORK_PREFIX,
    TrainingState,
    new_optimizer,
    read_state,
    trained_parameters,
    write_state,
)

TrainingDtype = Literal["bf16", "fp32"]
TRAINING_DTYPES: tuple[str, ...] = get_args(TrainingDtype)
_TORCH_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

# Shares of the steps and of the learning rate. An end at a small rate takes away what single steps
# leave in the weights, which shows as a grid of dots.
WARMUP_SHARE = 0.05
FINAL_RATE = 0.02
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained.

    Attributes:
        steps: Steps of the whole training, those of a checkpoint that it goes on from among them.
        learning_rate: The highest one, see `rate_share`.
        seed: Decides order, noise levels and noise.
        dtype: What products are computed in, float32 where a processor has no units for bfloat16;
            the weights are trained in float32.
        pictures_per_step: Pictures whose gradients are added up for a step.
        checkpoint_every: Steps between two checkpoints; 0 writes one only if it is interrupted.
    """

    steps: int
    learning_rate: float
    seed: int
    dtype: TrainingDtype = "bf16"
    pictures_per_step: int = 1
    checkpoint_every: int = 0


def rate_share(step: int, steps: int) -> float:
    """Return the learning rate of a step over the highest: a short rise, then half a cosine.

    Args:
        step: Steps done before, in [0, steps).
        steps: Steps of the whole training.
    """
    warmup = max(1, round(WARMUP_SHARE * steps))
    fall = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / warmup) * (FINAL_RATE + (1 - FINAL_RATE) * fall)


def pair_of_turn(turn: int, pairs: int, seed: int) -> int:
    """Return which pair a turn shows: each once before any comes again, in an order of the seed's.

    Args:
        turn: Pictures shown before.
        pairs: Number of pairs.
        seed: Of the node.
    """
    again, place = divmod(turn, pairs)
    return int(np.random.default_rng((seed, again)).permutation(pairs)[place])


def train_model(
    model: Any,
    latents: dict[str, Any],
    positive: list,
    settings: TrainingSettings,
    *,
    checkpoint: Path,
    resume: Path | None = None,
) -> tuple[Any, dict[str, list[float]], int]:
    """Return a ResShift MODEL like another with trained weights, its losses, and the steps done.

    A network inside the model that makes its start is not trained.

    Args:
        model: A ResShift MODEL; patches that it carries are trained on.
        latents: LATENT of `prepare_pairs`.
        positive: CONDITIONING of `prepare_pairs`.
        settings: How to train.
        checkpoint: The file that checkpoints are written to, each in place of the one before. It
            is a model file as well.
        resume: A checkpoint to go on from.
    Raises:
        ValueError: If pairs or checkpoint do not fit the model, or the training fails.
        UnsupportedCheckpointError: If `resume` is another kind of file.
        InterruptProcessingException: If the user stops it; the checkpoint is written before.
    """
    _check_pairs(model, latents["samples"], positive)
    with torch.inference_mode(False):
        copy = copy_for_training(model)
        pairs = [_own_tensors(entry) for entry in comfy.sampler_helpers.convert_cond(positive)]
        x_0 = copy.model.process_latent_in(latents["samples"].clone().float())
        trainer = _TrainingSampler(copy, x_0, pairs, settings, checkpoint, resume)
        guider = TrainGuider(copy)
        guider.set_conds(positive[:1])
        # ComfyUI's own training sets this too: the model gives its own noise levels by it.
        comfy.model_management.in_training = True
        try:
            guider.sample(
                torch.zeros_like(x_0[:1]), x_0[:1], trainer, torch.zeros(1), seed=settings.seed
            )
        finally:
            comfy.model_management.in_training = False
    weights = trainer.state.weights.items()
    own = {key.removeprefix(NETWORK_PREFIX): weight for key, weight in weights}
    trained = copy_with_weights(model, own)
    return trained, {"loss": trainer.state.losses}, trainer.state.steps


def _check_pairs(model: Any, x_0: Tensor, positive: list) -> None:
    resshift_model(model)
    advice = "Connect latents and positive of one 'ResShift Training Pairs' that got this model."
    if len(positive) != len(x_0):
        raise ValueError(
            f"'latents' holds {len(x_0)} pictures and 'positive' {len(positive)} entries. {advice}"
        )
    for _, values in positive:
        lq, y = values.get(LQ_KEY), values.get(LATENT_KEY)
        if lq is None or y is None or len(lq) != 1:
            raise ValueError(
                f"'positive' has not one degraded picture in each of its entries. {advice}"
            )
        if y.shape[1:] != x_0.shape[1:]:
            raise ValueError(
                f"'latents' are {_size(x_0)} and those of 'positive' {_size(y)}. {advice}"
            )


def _size(latent: Tensor) -> str:
    return f"{latent.shape[-1]}x{latent.shape[-2]} of {latent.shape[1]} channels"


def _own_tensors(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of a conditioning whose tensors may be part of a gradient."""
    return {
        key: value.clone() if isinstance(value, Tensor) else value for key, value in entry.items()
    }


class _TrainingSampler(comfy.samplers.Sampler):
    """Trains where a sampler samples.

    Attributes:
        state: The weights and what belongs to them, when it has ended.
        loss_callback: Called with the loss of a step before the weights learn from it.
        grad_acc: Losses that a step tells; read by ResShift Validation, as of ComfyUI's own.
        total_steps: The same: losses until the training ends.
        steps_before: Steps that were done before this run.
        training_dtype: What is computed in.
    """

    state: TrainingState

    def __init__(
        self,
        model: Any,
        x_0: Tensor,
        pairs: list[dict[str, Any]],
        settings: TrainingSettings,
        checkpoint: Path,
        resume: Path | None,
    ):
        self.patcher = model
        self.x_0 = x_0
        self.pairs = pairs
        self.settings = settings
        self.checkpoint = checkpoint
        self.resumed = None if resume is None else read_state(resume, model.model)
        self.losses = [] if self.resumed is None else list(self.resumed.losses)
        self.steps_before = len(self.losses)
        if self.steps_before >= settings.steps:
            raise ValueError(
                f"the checkpoint has {self.steps_before} steps and 'steps' is {settings.steps}; set"
                " 'steps' to more: it counts the whole training."
            )
        self.loss_callback: Callable[[float], None] = self.losses.append
        self.grad_acc = 1
        self.total_steps = settings.steps
        self.training_dtype = _TORCH_DTYPES[settings.dtype]

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Train; return nothing of use, as a sampler must return a latent."""
        settings = self.settings
        network = model_wrap.inner_model
        parameters = trained_parameters(network)
        optimizer = new_optimizer(parameters, self.resumed)
        progress = RunProgress(self.patcher, settings.steps)
        progress.move(self.steps_before)

        def reached() -> TrainingState:
            return TrainingState.of(parameters, optimizer, self.losses[:done])

        done, saved = self.steps_before, self.steps_before
        try:
            for done in range(self.steps_before, settings.steps):
                denoised = self._learn(model_wrap, parameters, optimizer, done, extra_args)
                done += 1
                if settings.checkpoint_every and done % settings.checkpoint_every == 0:
                    write_state(self.checkpoint, network, reached())
                    saved = done
                progress.show(done, denoised)
        except comfy.model_management.InterruptProcessingException:
            if done > saved:
                write_state(self.checkpoint, network, reached())
            raise
        finally:
            for parameter in parameters.values():
                parameter.requires_grad_(False)
                parameter.grad = None
        self.state = reached()
        if settings.checkpoint_every and done > saved:
            write_state(self.checkpoint, network, self.state)
        return torch.zeros_like(noise)

    def _learn(
        self,
        model_wrap: Any,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        done: int,
        extra_args: dict[str, Any],
    ) -> Tensor:
        """Take one step and return what was restored last."""
        settings = self.settings
        optimizer.zero_grad()
        total, denoised = 0.0, torch.empty(0)
        for turn in range(settings.pictures_per_step):
            comfy.model_management.throw_exception_if_processing_interrupted()
            turn += done * settings.pictures_per_step
            loss, denoised = self._loss(model_wrap, turn, extra_args["model_options"])
            loss = loss / settings.pictures_per_step
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise ValueError(
                f"the loss of step {done + 1} is {total}, so the training has failed. Lower"
                " 'learning_rate', or set 'training_dtype' to fp32."
            )
        self.loss_callback(total)
        torch.nn.utils.clip_grad_norm_(parameters.values(), LARGEST_GRADIENT)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate_share(done, settings.steps)
        optimizer.step()
        return denoised.detach()

    def _loss(
        self, model_wrap: Any, turn: int, model_options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the mean distance of a prediction from the clean latent, and the prediction."""
        network, device = model_wrap.inner_model, self.patcher.load_device
        sampling = check_sampling(network.model_sampling)
        seed = self.settings.seed
        index = pair_of_turn(turn, len(self.pairs), seed)
        x_0 = self.x_0[index : index + 1].to(device)  # (1, C, H, W)
        share = np.random.default_rng((seed, turn, 1)).random()
        sigma = torch.tensor([sampling.percent_to_sigma(share)], device=device)
        seeds = PictureSeeds(seed).moved_by(turn)
        noise = draw_noise(seeds.generators(1), x_0)
        entries = [{**self.pairs[index], "model_conds": {}}]
        conds = comfy.samplers.process_conds(
            network, noise, {"positive": entries}, device, latent_image=x_0, seed=seeds.seed
        )
        x = sampling.noise_scaling(sigma, noise, x_0)
        dtype = self.training_dtype
        if comfy.model_management.is_device_cpu(device) and not cpu_has_bf16_units():
            dtype = torch.float32  # such a processor takes a hundred times as long for bfloat16
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            denoised = comfy.samplers.sampling_function(
                network, x, sigma, None, conds["positive"], 1.0, model_options=model_options
            )
        return torch.nn.functional.l1_loss(denoised.float(), x_0), denoised
