"""One progress bar over all pictures and steps of a restoration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.utils
import latent_preview
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Which pictures of a longer run a restoration has.

    Attributes:
        first: How many were restored before.
        count: How many it restores.
        total: How many there are in all.
    """

    first: int
    count: int
    total: int


class RunProgress:
    """The node's progress bar, shared by everything that a restoration runs.

    Args:
        model: The MODEL whose latents are previewed.
        total: Steps of all pictures together.
        share: Which part of the bar that is; None for all of it.
    """

    def __init__(self, model: Any, total: int, share: Share | None = None):
        share = share or Share(0, 1, 1)
        self.before = total * share.first // share.count
        self.total = total * share.total // share.count
        self.bar = comfy.utils.ProgressBar(self.total)
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def move(self, done: int, preview: Any = None) -> None:
        """Say how many steps are done."""
        self.bar.update_absolute(self.before + done, self.total, preview)

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
