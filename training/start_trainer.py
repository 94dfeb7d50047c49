"""Trains the network that the chain starts from to make up for the blocks that were cut away."""

from __future__ import annotations

import torch
from torch import Tensor

from .features import FeatureDistance
from .loss import Goal, LossShares
from .pool import Pool
from .precision import mixed_precision
from .start import build_start
from .trainer import Training, TrainSettings

START_SETTINGS = TrainSettings(
    matrix_rate=8e-4,
    other_rate=3e-4,
    discriminator_rate=4e-4,
    ema=0.999,
    shapes=((64, 64, 32, 0.85), (96, 96, 14, 0.15)),
    teacher_share=1.0,
    pooled=4,
    quiet_steps=50,
    ramp_steps=100,
    shares=LossShares(structure=0.1, feature=3.0, energy=1.0, phase=0.0, grid=0.3, adversarial=3.0),
)


class StartTrainer(Training):
    """The training of the start, on the teacher's pictures where they are to be trusted.

    Args:
        settings: How it is trained; what concerns chains is not used.
        pool: Draws the crops.
        weights: Of `cut_teacher`.
        features: Feature distance.
        device: Where everything is computed.
    """

    def __init__(
        self,
        settings: TrainSettings,
        pool: Pool,
        weights: dict[str, Tensor],
        features: FeatureDistance,
        device: torch.device,
    ):
        super().__init__(settings, pool, lambda: build_start(weights), features, device)

    def restore_crops(self, generator: torch.Generator) -> tuple[Tensor, Goal]:
        """Return a batch of crops restored, and what they are compared with."""
        height, width, count = self.draw_shape(generator)
        lq, photograph, teacher, trust = self.pool.draw(count, height, width, generator)
        goal = self.goal(photograph, teacher, trust, torch.ones_like(trust), teacher)
        with mixed_precision(self.device):
            image = self.forward(lq)
        return image.float(), goal

    @torch.no_grad()
    def restore_picture(self, lq: Tensor, generator: torch.Generator) -> Tensor:
        """Return `lq` (B, 3, h, w) in [0, 1] restored with the averaged weights, in [0, 1]."""
        return self.average(lq).float().clamp(0, 1)
