"""The training loss: closeness to the target in pixels, features, structure and sharpness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..images.metrics import ssim
from .features import FeatureDistance
from .network import from_latent

# Squared distances of the enlargement from its target, in latents of [-1, 1].
TYPICAL_DISTANCE = 0.01
LEAST_DISTANCE = 0.002
# Squared difference of neighbouring pixels in [0, 1] below which a block counts as flat.
FLAT_ENERGY = 3e-5


@dataclass(frozen=True)
class LossWeights:
    """What the parts of the loss count.

    Attributes:
        absolute: Weight of the mean absolute error beside the mean squared error, which counts 1.
        feature: Weight of the feature distance.
        feature_share: Share of a batch whose feature distance is taken; it is as costly as a third of
            the network.
        structure: Weight of what the structural similarity lacks to 1.
        energy: Weight of the difference of local gradient energies.
    """

    absolute: float = 0.1
    feature: float = 0.012
    feature_share: float = 0.34
    structure: float = 0.2
    energy: float = 0.006


def energy_difference(image: Tensor, target: Tensor) -> Tensor:
    """Return how much sharper or softer `image` is than `target`, block by block.

    A squared error alone answers doubt with blur. This one compares how strong the edges and the
    texture of a block are, not where exactly they lie.

    Args:
        image: `(B, 3, H, W)` in [0, 1].
        target: The same shape.
    Returns:
        Mean absolute logarithm of the ratio of the blocks' gradient energies, a scalar.
    """

    def energy(x: Tensor, block: int) -> Tensor:
        across = (x[..., :-1, 1:] - x[..., :-1, :-1]).square()
        down = (x[..., 1:, :-1] - x[..., :-1, :-1]).square()
        total = (across + down).mean(dim=1, keepdim=True)
        return F.avg_pool2d(total, block, block // 2)

    image, target = image.float(), target.float()
    differences = []
    for _ in range(2):
        ratio = (energy(image, 16) + FLAT_ENERGY) / (energy(target, 16) + FLAT_ENERGY)
        differences.append(ratio.log().abs().mean())
        image, target = F.avg_pool2d(image, 2), F.avg_pool2d(target, 2)
    return sum(differences)


class RestorationLoss:
    """Squared and absolute error, a feature distance (the paper's regulariser), SSIM, sharpness."""

    def __init__(self, weights: LossWeights):
        self.weights = weights
        self.feature_distance = FeatureDistance() if weights.feature else None

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
        if self.weights.structure:
            structure = 1 - ssim(from_latent(x_0), from_latent(target)).float().mean()
            loss = loss + self.weights.structure * structure
            parts["structure"] = structure.item()
        if self.weights.energy:
            energy = energy_difference(from_latent(x_0), from_latent(target))
            loss = loss + self.weights.energy * energy
            parts["energy"] = energy.item()
        return loss, parts
