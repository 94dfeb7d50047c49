"""The share of a conditioning that belongs to the pictures of a latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..model_loaders.la_control import ControlHint
from ..model_loaders.resshift_model import LATENT_KEY, LQ_KEY, MASK_KEY
from ..samplers.places import places_in_batch
from .diffbir_conditioning import CONDITION_KEY

# What a conditioning holds for each picture.
PICTURE_KEYS = (LATENT_KEY, LQ_KEY, MASK_KEY, CONDITION_KEY)


def own_pictures(conditionings: Sequence[list], latent: dict[str, Any]) -> list[list]:
    """Return conditionings that hold what belongs to each picture of a latent.

    Args:
        conditionings: Conditionings of `prepare_resshift` or `prepare_diffbir`, made for a batch.
        latent: The LATENT of that batch, of a part of it, or of the batch several times.
    Raises:
        ValueError: If it cannot be told which part it is.
    """
    samples = latent["samples"]

    def chosen(pictures: Tensor, candidates: Tensor | None = None) -> Tensor:
        if len(pictures) == 1:
            return pictures
        places = places_in_batch(
            len(samples),
            len(pictures),
            batch_index=latent.get("batch_index"),
            latent=samples,
            candidates=candidates,
        )
        return pictures if places == list(range(len(pictures))) else pictures[places]

    controls: dict[int, Any] = {}  # what shares a control goes on doing so

    def chosen_control(control: Any) -> Any:
        if control is None:
            return None
        if id(control) not in controls:
            hint = control.cond_hint_original
            own_hint = None if hint is None else chosen(hint)
            own, previous = control, chosen_control(control.previous_controlnet)
            if own_hint is not hint or previous is not control.previous_controlnet:
                own = control.copy()
                own.set_previous_controlnet(previous)
                own.cond_hint_original = own_hint
            controls[id(control)] = own
        return controls[id(control)]

    def chosen_values(values: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {
            key: chosen(values[key], values.get(LATENT_KEY))
            for key in PICTURE_KEYS
            if key in values
        }
        if "control" in values:
            made["control"] = chosen_control(values["control"])
        conds = values.get("model_conds", {})
        hints = {
            key: ControlHint(chosen(cond.cond), cond.device)
            for key, cond in conds.items()
            if isinstance(cond, ControlHint)
        }
        if hints:
            made["model_conds"] = {**conds, **hints}
        return {**values, **made}

    return [
        [[embedding, chosen_values(values)] for embedding, values in conditioning]
        for conditioning in conditionings
    ]
