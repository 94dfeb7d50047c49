"""The CONTROL_NET that a LAControlNet becomes."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.controlnet
import torch
from torch import Tensor

from ..samplers.places import places_in_batch


@dataclass
class _Run:
    places: list[int] | None = None


class LAControl(comfy.controlnet.ControlNet):
    """ComfyUI's ControlNet, in which every part of a picture and of a batch meets its own hint.

    ComfyUI scales one hint to whatever a control meets, and takes the first hints of a batch
    whatever pictures of it are sampled. A regional prompt meets a part of the picture: its hint
    comes with the conditioning, which ComfyUI cuts. Which pictures of a batch are sampled nobody
    tells a control but the state, whose noise ComfyUI drew from the default generator.

    Attributes:
        hint_key: Name of the conditioning's value that holds the hint of this control.
    """

    hint_key: str | None = None
    control_model: Any
    load_device: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Shared with the copies that tiles make during a run.
        self._run = _Run()

    def copy(self) -> LAControl:
        """Return a control of the same network and settings."""
        own = LAControl(
            None,
            global_average_pooling=self.global_average_pooling,
            load_device=self.load_device,
            manual_cast_dtype=self.manual_cast_dtype,
        )
        own.control_model = self.control_model
        own.control_model_wrapped = self.control_model_wrapped
        own.hint_key = self.hint_key
        self.copy_to(own)
        return own

    def hint_condition(self, hint: Tensor) -> dict[str, ControlHint]:
        """Return what a conditioning must hold in `model_conds` for its areas to get their parts.

        Args:
            hint: `(B, 4, h, w)` latent in the network's scale, of the size of the sampled latent.
        """
        self.hint_key = f"la_control_hint_{uuid.uuid4().hex}"
        return {self.hint_key: ControlHint(hint, self.load_device)}

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
        """Return the tensors that are added to the UNet's.

        Takes this control's hint out of `cond`, which the model gets.
        """
        hints: Any = self.cond_hint_original
        places = self._places(x_noisy[: len(x_noisy) // batched_number], len(hints))
        part = None if self.hint_key is None else cond.pop(self.hint_key, None)
        if part is not None and part.shape[-2:] == x_noisy.shape[-2:]:
            if len(part) != len(x_noisy):  # hints of a whole batch, and a part of it is sampled
                windows = len(x_noisy) // (batched_number * len(places))
                of_windows = part.unflatten(0, (batched_number, windows, -1))
                part = of_windows[:, :, places].flatten(0, 2)  # (branches windows B, 4, h, w)
            dtype = self.manual_cast_dtype or self.control_model.dtype
            self.cond_hint = part.to(x_noisy.device, dtype)
        try:
            if len(hints) > 1:
                self.cond_hint_original = hints[places]
            return super().get_control(x_noisy, t, cond, batched_number, transformer_options)
        finally:
            self.cond_hint_original = hints

    def _places(self, state: Tensor, count: int) -> list[int]:
        if self._run.places is None:
            self._run.places = places_in_batch(
                len(state), count, noise=state, seed=torch.initial_seed()
            )
        return self._run.places


class ControlHint(comfy.conds.CONDNoiseShape):
    """A hint as a value of a conditioning.

    Args:
        cond: `(B, 4, h, w)`.
        device: Where it is needed; it is moved there once.
    """

    def __init__(self, cond: Tensor, device: torch.device):
        super().__init__(cond)
        self.device = device

    def _copy_with(self, cond: Tensor) -> ControlHint:
        return ControlHint(cond, self.device)

    def process_cond(self, batch_size: int, area: Any, **kwargs: Any) -> ControlHint:
        """Return the part in an area; the whole where it has another size.

        One hint serves a whole batch; of several the control takes those of its pictures.
        """
        self.cond = self.cond.to(self.device)
        if area is not None:
            ends = [size + start for size, start in zip(area[:2], area[2:], strict=True)]
            if any(end > side for end, side in zip(ends, self.cond.shape[-2:], strict=True)):
                area = None
        kept = batch_size if len(self.cond) == 1 else len(self.cond)
        return super().process_cond(kept, area, **kwargs)
