"""What a training of all weights has reached, and the checkpoint that keeps it.

A checkpoint is a model file whose weights are those reached so far, with what the optimiser
remembers beside them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..model_loaders.checkpoint import read_checkpoint
from ..model_loaders.weight_names import key_in_files

INNER_PREFIX = "model.diffusion_model."
NETWORK_PREFIX = "diffusion_model."
# The network that makes the start of some models is no part of the chain.
START_PREFIX = "diffusion_model.start."
TRAINING_PREFIX = "resshift_training."
LOSSES_KEY = "losses"


@dataclass(frozen=True)
class TrainingState:
    """What a training has reached; all tensors are float32 on the CPU.

    Attributes:
        weights: Trained weights by their keys in the MODEL.
        means: Adam's mean of each weight's gradient, like `weights`.
        squares: Adam's mean of its square, like `weights`.
        losses: Of each step so far.
    """

    weights: dict[str, Tensor]
    means: dict[str, Tensor]
    squares: dict[str, Tensor]
    losses: list[float]

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self.losses)

    @staticmethod
    def of(
        parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, losses: list[float]
    ) -> TrainingState:
        """Return a copy of what a training holds."""
        memory = {key: optimizer.state[parameter] for key, parameter in parameters.items()}
        return TrainingState(
            {key: _kept(parameter) for key, parameter in parameters.items()},
            {key: _kept(own["exp_avg"]) for key, own in memory.items()},
            {key: _kept(own["exp_avg_sq"]) for key, own in memory.items()},
            list(losses),
        )


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a ResShift model that are trained, by their keys in the MODEL."""
    return {
        key: parameter
        for key, parameter in network.named_parameters()
        if key.startswith(NETWORK_PREFIX) and not key.startswith(START_PREFIX)
    }


def new_optimizer(
    parameters: dict[str, nn.Parameter], state: TrainingState | None
) -> torch.optim.Optimizer:
    """Return Adam over parameters, which are made ready for it and brought to `state`.

    Args:
        parameters: Of `trained_parameters`.
        state: What a checkpoint holds; None leaves the parameters as they are.
    """
    optimizer = torch.optim.Adam(parameters.values())
    steps = 0 if state is None else state.steps
    for key, parameter in parameters.items():
        parameter.requires_grad_(True)
        mean, square = torch.zeros_like(parameter), torch.zeros_like(parameter)
        if state is not None:
            with torch.no_grad():
                parameter.copy_(state.weights[key])
            mean.copy_(state.means[key])
            square.copy_(state.squares[key])
        optimizer.state[parameter] = {
            "step": torch.tensor(float(steps)),
            "exp_avg": mean.detach(),
            "exp_avg_sq": square.detach(),
        }
    return optimizer


def write_state(path: Path, network: Any, state: TrainingState) -> None:
    """Write a checkpoint in place of the one before, which stays whole if this fails.

    Args:
        path: A safetensors file; folders are made.
        network: The ResShift model that is trained, for the weights that are not, and its record.
        state: What was reached.
    Raises:
        ValueError: If it cannot be written.
    """
    own = network.diffusion_model.state_dict()
    own |= {key.removeprefix(NETWORK_PREFIX): weight for key, weight in state.weights.items()}
    tensors = network.state_dict_for_saving(own)
    for name, values in (("mean", state.means), ("square", state.squares)):
        tensors |= {
            f"{TRAINING_PREFIX}{name}.{key_in_files(key)}": value for key, value in values.items()
        }
    tensors[TRAINING_PREFIX + LOSSES_KEY] = torch.tensor(state.losses, dtype=torch.float64)
    unfinished = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous().cpu() for key, value in tensors.items()}, unfinished)
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        if unfinished.is_file():
            unfinished.unlink()
        raise ValueError(
            f"the checkpoint '{path.name}' cannot be written ({error}). Free space in ComfyUI's"
            " output folder, or set 'checkpoint_every' to 0."
        ) from error


def read_state(path: Path, network: nn.Module) -> TrainingState:
    """Return what a checkpoint holds.

    Args:
        path: A file of `write_state`.
        network: The ResShift model that goes on with it.
    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, no checkpoint of a training, or of another model.
    """
    beside = read_checkpoint(path, inner_prefix=TRAINING_PREFIX, holder_prefixes=()).state_dict
    if LOSSES_KEY not in beside:
        raise ValueError(
            f"'{path.name}' is no checkpoint of a training. Choose one that 'Restoration Train"
            " Model' has written; load any other model with 'Load ResShift Model'."
        )
    inner = read_checkpoint(path, inner_prefix=INNER_PREFIX, holder_prefixes=()).state_dict
    parameters = trained_parameters(network)
    read = [
        {key: inner.get(key_in_files(key).removeprefix(NETWORK_PREFIX)) for key in parameters},
        {key: beside.get(f"mean.{key_in_files(key)}") for key in parameters},
        {key: beside.get(f"square.{key_in_files(key)}") for key in parameters},
    ]
    found: list[dict[str, Tensor]] = []
    for tensors in read:
        fitting = {
            key: tensor
            for key, tensor in tensors.items()
            if tensor is not None and tensor.shape == parameters[key].shape
        }
        if len(fitting) < len(parameters):
            raise ValueError(
                f"the checkpoint '{path.name}' is of another model than the one connected to"
                " 'model'. Connect the model that its training began with."
            )
        found.append(fitting)
    weights, means, squares = found
    return TrainingState(weights, means, squares, beside[LOSSES_KEY].tolist())
