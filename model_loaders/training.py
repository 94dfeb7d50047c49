"""What ComfyUI's training needs to be right on a ResShift MODEL."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

KEY = "resshift_training"


def suit_training(model: Any) -> None:
    """Let ComfyUI's Train LoRA show every picture of a batch its own conditioning, and stop it.

    That node hands over the conditionings of all pictures of a batch for the whole batch, whose
    predictions ComfyUI would average: right for one prompt, wrong for pairs.

    Args:
        model: A ResShift MODEL; changed in place.
    """
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, _own_conditions)


def _own_conditions(
    executor: Any,
    model: Any,
    conds: list[list[dict[str, Any]] | None],
    x: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
) -> list[Tensor]:
    if not comfy.model_management.in_training:
        return executor(model, conds, x, timestep, model_options)
    comfy.model_management.throw_exception_if_processing_interrupted()
    positive = conds[0] or []
    _check_entries(positive)
    if len(positive) != len(x):
        return executor(model, conds, x, timestep, model_options)
    each = [
        executor(model, [[entry], *conds[1:]], x[k : k + 1], timestep[k : k + 1], model_options)
        for k, entry in enumerate(positive)
    ]
    return [torch.cat(parts) for parts in zip(*each, strict=True)]


def _check_entries(positive: list[dict[str, Any]]) -> None:
    for entry in positive:
        pictures = len(entry["model_conds"]["y_latent"].cond)
        if pictures > 1:
            raise ValueError(
                f"the conditioning connected to 'positive' holds {pictures} pictures in one entry,"
                " and training would pair all latents with the first of them. Make latents and"
                " conditioning with 'ResShift Training Pairs', which gives each picture its own."
            )
