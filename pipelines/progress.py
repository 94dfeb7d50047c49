"""One progress bar over all pictures and steps of a restoration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.utils
import latent_preview
from torch import Tensor


class RunProgress:
    """The node's progress bar, shared by everything that a restoration runs.

    Args:
        model: The MODEL whose latents are previewed.
        total: Steps of all pictures together.
    """

    def __init__(self, model: Any, total: int):
        self.total = total
        self.bar = comfy.utils.ProgressBar(total)
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def move(self, done: int, preview: Any = None) -> None:
        """Say how many steps are done."""
        self.bar.update_absolute(done, self.total, preview)

    def show(self, done: int, denoised: Tensor) -> None:
        """Say how many steps are done, with a preview of the clean latent `(B, C, h, w)`."""
        preview = None
        if self.previewer is not None:
            preview = self.previewer.decode_latent_to_preview_image("JPEG", denoised)
        self.move(done, preview)

    def steps_after(
        self, done: int, pictures: int = 1
    ) -> Callable[[int, Tensor, Tensor, int], None]:
        """Return the callback of a run of several pictures that begins after `done` steps."""

        def callback(step: int, denoised: Tensor, x: Tensor, steps: int) -> None:
            self.show(done + (step + 1) * pictures, denoised)

        return callback
