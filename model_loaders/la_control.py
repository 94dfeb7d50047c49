"""The CONTROL_NET that a LAControlNet becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.controlnet
import torch
from torch import Tensor

from ..samplers.places import places_in_batch


@dataclass
class _Run:
    places: list[int] | None = None


class LAControl(comfy.controlnet.ControlNet):
    """ComfyUI's ControlNet, in which each latent of a batch meets the hint of its own picture.

    ComfyUI takes the first hints of a batch whatever pictures of it are sampled. A sampler tells a
    control nothing of that but the state, whose noise ComfyUI drew from the default generator.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Shared with the copies that tiles make during a run.
        self._run = _Run()

    def copy(self) -> LAControl:
        """Return a control that shares the network."""
        own = LAControl(
            None,
            global_average_pooling=self.global_average_pooling,
            load_device=self.load_device,
            manual_cast_dtype=self.manual_cast_dtype,
        )
        own.control_model = self.control_model
        own.control_model_wrapped = self.control_model_wrapped
        self.copy_to(own)
        return own

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Begin a run."""
        super().pre_run(model, percent_to_timestep_function)
        self._run = _Run()

    def get_control(
        self,
        x_noisy: Tensor,
        t: Tensor,
        cond: dict[str, Any],
        batched_number: int,
        transformer_options: dict[str, Any],
    ) -> Any:
        """Return the tensors that are added to the UNet's."""
        hints: Any = self.cond_hint_original
        run = self._run
        if run.places is None:
            state = x_noisy[: len(x_noisy) // batched_number]
            run.places = places_in_batch(
                len(state), len(hints), noise=state, seed=torch.initial_seed()
            )
        try:
            if len(hints) > 1:
                self.cond_hint_original = hints[run.places]
            return super().get_control(x_noisy, t, cond, batched_number, transformer_options)
        finally:
            self.cond_hint_original = hints
