"""What the network is trained for, and how the parts are brought to one gradient.

Every part is a number for each crop, taken on the picture. Their gradients with respect to the
picture are scaled so that each has its stated share of the absolute error's, whatever its unit, and
added: one pass back through the network then serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images.color import luminance
from ..images.dirt import grid_places
from .discriminator import doubt
from .features import FeatureDistance, normalize, squared_distance
from .network import SCALE
from .precision import mixed_precision

# Squared difference of neighbouring pixels in [0, 1] below which a block counts as flat: with 3e-5
# the flat half of the blocks got nine tenths of the gradient, and edges a hundredth.
FLAT_ENERGY = 1e-3
# Low-quality pixels that the mean of a phase of the pixel shuffle is taken over, in each direction.
PHASE_WINDOW = 4
STRUCTURE_WINDOW = 8
# Side of the blocks whose spectra tell a grid, and the bins from it that tell a texture's power.
GRID_BLOCK = 16
BESIDE = 2
NORM_DECAY = 0.9
# The features' network takes every second pixel, five times over. Pictures are moved under it by
# less than that, so that no phase of theirs is always the one that is looked at.
PHASES = 16


@dataclass(frozen=True)
class LossShares:
    """Size of the parts' gradients over that of the mean absolute error to what is aimed at.

    Attributes:
        structure: What the structural similarity to it lacks to 1.
        feature: Feature distance to the photograph and, where it is good, to the teacher's picture.
        energy: Difference of local gradient energies from the teacher's picture, which asks for
            sharpness and not for what is where, so also where it is not to be trusted.
        phase: Unequal means of the phases of the pixel shuffle: a grid of dots.
        grid: The same in what the network adds, in colours too, and only what stands out from the
            texture around it.
        adversarial: The discriminator's doubt that the picture, of two, is the real one.
    """

    structure: float = 0.5
    feature: float = 1.5
    energy: float = 0.15
    phase: float = 0.6
    grid: float = 0.3
    adversarial: float = 0.6


@dataclass
class Goal:
    """What a batch of crops is compared with.

    Attributes:
        aim: `(B, 3, H, W)` in [0, 1], what the picture is to be, pixel by pixel.
        photograph: Like `aim`.
        teacher: Like `aim`, the teacher's picture.
        trust: `(B,)` 1 where the teacher's picture is nearer to the photograph than that of
            realesr-general-x4v3.
        detail: `(B,)` how much invented detail is asked for, 1 at the published noise.
        base: Like `aim`, the picture to which no grid is to be added.
    """

    aim: Tensor
    photograph: Tensor
    teacher: Tensor
    trust: Tensor
    detail: Tensor
    base: Tensor


class Comparison:
    """A batch of restored crops beside its goal, and what the features' network sees in both.

    Features are computed where they are first asked for, once for all parts that ask.

    Args:
        features: Feature distance.
        image: `(B, 3, H, W)`, about [0, 1]; it is detached.
        goal: What it is compared with.
        shift: Pixels by which all pictures are moved up and to the left under the features' network,
            each in [0, `PHASES`); None shows it them whole.
    """

    def __init__(
        self,
        features: FeatureDistance,
        image: Tensor,
        goal: Goal,
        shift: tuple[int, int] | None = None,
    ):
        self.features = features
        self.shift = shift
        self.image = image.detach().float().requires_grad_()
        self.goal = goal

    @cached_property
    def of_image(self) -> list[Tensor]:
        """Features of the picture, `FeatureDistance.taps`, with their gradient."""
        return self._taps(self.image)

    @cached_property
    def of_photograph(self) -> list[Tensor]:
        """Features of the photograph, without a gradient."""
        with torch.no_grad():
            return self._taps(self.goal.photograph)

    @cached_property
    def of_teacher(self) -> list[Tensor]:
        """Features of the teacher's picture, without a gradient."""
        with torch.no_grad():
            return self._taps(self.goal.teacher)

    @property
    def of_real(self) -> list[Tensor]:
        """Features of what passes for real."""
        trusted = self.goal.trust.view(-1, 1, 1, 1) > 0
        pairs = zip(self.of_teacher, self.of_photograph, strict=True)
        return [torch.where(trusted, taught, taken) for taught, taken in pairs]

    def _taps(self, image: Tensor) -> list[Tensor]:
        if self.shift is not None:
            top, left = self.shift
            height, width = (side - PHASES for side in image.shape[-2:])
            image = image[..., top : top + height, left : left + width]  # (B, 3, H - 16, W - 16)
        with torch.autocast(image.device.type, enabled=False):  # as `FeatureDistance.distances`
            return self.features.taps(image)

    def distance(self, reference: Sequence[Tensor]) -> Tensor:
        """Return the feature distance `(B,)` of the picture from what has these features."""
        found, wanted = ([normalize(t) for t in taps] for taps in (self.of_image, reference))
        return squared_distance(found, wanted)


def energy_difference(image: Tensor, target: Tensor) -> Tensor:
    """Return how much sharper or softer `image` is than `target`, block by block.

    An error in pixels answers doubt with blur. This one compares how strong the edges and the
    texture of a block are, not where exactly they lie.

    Args:
        image: `(B, 3, H, W)` in [0, 1].
        target: The same shape.
    Returns:
        `(B,)` mean absolute logarithm of the ratio of the blocks' gradient energies.
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
        differences.append(ratio.log().abs().mean(dim=(1, 2, 3)))
        image, target = F.avg_pool2d(image, 2), F.avg_pool2d(target, 2)
    return sum(differences)


def structure_difference(image: Tensor, target: Tensor) -> Tensor:
    """Return what the structural similarity of the luma lacks to 1, `(B,)`.

    The windows are squares of `STRUCTURE_WINDOW` pixels with even weights, at every second place,
    which costs a tenth of the Gaussian ones that pictures are judged by.

    Args:
        image: `(B, 3, H, W)` in [0, 1].
        target: The same shape.
    """
    x, y = (luminance(t.float()) - 0.5 for t in (image, target))
    maps = torch.cat([x, y, x * x, y * y, x * y], dim=1)  # (B, 5, H, W)
    means = F.avg_pool2d(maps, STRUCTURE_WINDOW, 2)
    mean_x, mean_y, square_x, square_y, product = means.split(1, dim=1)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    level_x, level_y = mean_x + 0.5, mean_y + 0.5
    similarity = (2 * level_x * level_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((level_x**2 + level_y**2 + c1) * (variances + c2))
    return 1 - similarity.mean(dim=(1, 2, 3))


def phase_difference(image: Tensor, target: Tensor) -> Tensor:
    """Return how strong a grid with the period of the pixel shuffle `image` has over `target`.

    Args:
        image: `(B, 3, H, W)` in [0, 1].
        target: The same shape.
    Returns:
        `(B,)` root mean square of what the means of the phases of the error differ by.
    """
    error = (image - target).mean(dim=1, keepdim=True)
    phases = F.pixel_unshuffle(error, SCALE)  # (B, SCALE SCALE, h, w)
    means = F.avg_pool2d(phases, PHASE_WINDOW, PHASE_WINDOW // 2)
    pattern = means - means.mean(dim=1, keepdim=True)
    return (pattern.square().mean(dim=(1, 2, 3)) + 1e-10).sqrt()


def grid_excess(added: Tensor) -> Tensor:
    """Return the power of a grid in what a network adds to a picture, `(B,)`.

    A texture has about as much power at the periods of the pixel shuffle as at those beside them.
    What there is above that is dots, of one colour or of several.

    Args:
        added: `(B, 3, H, W)`, both sides at least `GRID_BLOCK`.
    """
    red, green, blue = added.float().split(1, dim=1)
    maps = torch.cat([added.float().mean(dim=1, keepdim=True), red - green, blue - green], dim=1)
    step = GRID_BLOCK // 2
    blocks = maps.unfold(2, GRID_BLOCK, step).unfold(3, GRID_BLOCK, step)  # (B, 3, h, w, 16, 16)
    window = torch.hann_window(GRID_BLOCK, device=added.device)
    window = window[:, None] * window
    blocks = (blocks - blocks.mean(dim=(-2, -1), keepdim=True)) * window
    power = torch.fft.fft2(blocks).abs().square() / window.square().sum()
    power = power.flatten(-2)  # (B, 3, h, w, 256)
    grid, beside = _grid_places(power.device)
    excess = F.relu(power @ grid.T - power @ beside.T)  # (B, 3, h, w, 15)
    return excess.mean(dim=(1, 2, 3, 4))


@cache
def _grid_places(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return `grid_places` of the blocks on a device."""
    grid, beside = grid_places(GRID_BLOCK, BESIDE).to(device)
    return grid, beside


def absolute_difference(image: Tensor, target: Tensor, pooled: int) -> Tensor:
    """Return the mean absolute error of colours, `(B,)`.

    Taken pixel by pixel, it answers doubt with blur; of the means of squares it leaves what is
    finer than them to other parts of the loss.

    Args:
        image: `(B, 3, H, W)` in [0, 1].
        target: The same shape.
        pooled: Side of the squares, at every half of it; 1 takes every pixel by itself.
    """
    error = image - target
    if pooled > 1:
        error = F.avg_pool2d(error, pooled, pooled // 2)
    return error.abs().mean(dim=(1, 2, 3))


class RestorationLoss:
    """The parts of the loss and the running sizes of their gradients.

    Args:
        shares: Sizes of the parts.
        pooled: See `absolute_difference`.
    """

    def __init__(self, shares: LossShares, pooled: int = 1):
        self.shares = shares
        self.pooled = pooled
        self.norms: dict[str, Tensor] = {}

    def parts(
        self, comparison: Comparison, discriminator: nn.Module
    ) -> dict[str, Callable[[], Tensor]]:
        """Return functions that compute each part, weighted, as a scalar."""
        image, goal = comparison.image, comparison.goal

        def feature() -> Tensor:
            to_photograph = comparison.distance(comparison.of_photograph)
            to_teacher = comparison.distance(comparison.of_teacher)
            return (to_photograph + 0.5 * goal.detail * goal.trust * to_teacher).mean()

        def adversarial() -> Tensor:
            with mixed_precision(image.device):
                scores = discriminator(comparison.of_image), discriminator(comparison.of_real)
            return (goal.detail * doubt(*scores)).mean()

        def structure() -> Tensor:
            return structure_difference(image, goal.aim).mean()

        def energy() -> Tensor:
            return (goal.detail * energy_difference(image, goal.teacher)).mean()

        return {
            "absolute": lambda: absolute_difference(image, goal.aim, self.pooled).mean(),
            "structure": structure,
            "feature": feature,
            "energy": energy,
            "phase": lambda: phase_difference(image, goal.aim).mean(),
            "grid": lambda: grid_excess(image - goal.base).mean(),
            "adversarial": adversarial,
        }

    def gradient(
        self, comparison: Comparison, discriminator: nn.Module, *, adversarial: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the gradient with respect to the picture, and the parts' values, 0 for a share of 0.

        Args:
            comparison: The picture and what it is compared with.
            discriminator: Of `discriminator.py`.
            adversarial: Share of the adversarial part's full size.
        """
        image = comparison.image
        shares = {"absolute": 1.0, **asdict(self.shares)}
        shares["adversarial"] *= adversarial
        total = torch.zeros_like(image)
        values = {}
        for name, compute in self.parts(comparison, discriminator).items():
            if not shares[name]:
                values[name] = image.new_zeros(())
                continue
            value = compute()
            # The features' part and the discriminator's share the way to the features.
            (gradient,) = torch.autograd.grad(value, image, retain_graph=True)
            gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
            norm = torch.linalg.vector_norm(gradient)
            old = self.norms.get(name, norm)
            self.norms[name] = torch.lerp(norm, old, NORM_DECAY)
            scale = self.norms["absolute"] / (self.norms[name] + 1e-12)
            total += shares[name] * scale * gradient
            values[name] = value.detach()
        return total, values
