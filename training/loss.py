"""The training loss: closeness to the target in pixels and in features."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .features import FeatureDistance
from .network import from_latent

# Squared distances of the enlargement from its target, in latents of [-1, 1].
TYPICAL_DISTANCE = 0.01
LEAST_DISTANCE = 0.002


@dataclass(frozen=True)
class LossWeights:
    """What the parts of the loss count.

    Attributes:
        absolute: Weight of the mean absolute error beside the mean squared error, which counts 1.
        feature: Weight of the feature distance.
        feature_share: Share of a batch whose feature distance is taken; it is as costly as a third of
            the network.
        photograph: Share of the original photograph in the target; the rest is the teacher's
            picture.
    """

    absolute: float = 0.1
    feature: float = 0.006
    feature_share: float = 0.34
    photograph: float = 0.1


class RestorationLoss:
    """Squared error, a little absolute error and a feature distance (the paper's regulariser)."""

    def __init__(self, weights: LossWeights):
        self.weights = weights
        self.feature_distance = FeatureDistance() if weights.feature else None

    def target(self, teacher: Tensor, original: Tensor) -> Tensor:
        """Return the images to learn, from the teacher's and the original ones."""
        return teacher.lerp(original, self.weights.photograph)

    def __call__(self, x_0: Tensor, target: Tensor, y: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of predicted latents against target latents, and its parts.

        A crop counts the less in pixels the farther the enlargement `y` is from its target: where
        hardly anything of the picture is left nothing can be learnt, and its error drowns the rest.
        """
        error = x_0 - target
        distance = (y - target).square().mean(dim=(1, 2, 3))
        counts = TYPICAL_DISTANCE / (distance + LEAST_DISTANCE)
        squared = (counts * error.square().mean(dim=(1, 2, 3))).mean()
        absolute = (counts.sqrt() * error.abs().mean(dim=(1, 2, 3))).mean()
        loss = squared + self.weights.absolute * absolute
        parts = {"mse": squared.item(), "l1": absolute.item()}
        if self.feature_distance is not None:
            count = math.ceil(self.weights.feature_share * len(x_0))
            seen = (from_latent(x_0[:count]), from_latent(target[:count]))
            feature = self.feature_distance(*seen).mean()
            loss = loss + self.weights.feature * feature
            parts["feature"] = feature.item()
        return loss, parts
