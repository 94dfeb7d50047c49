"""Noise that moves with what a clip shows and stays standard normal.

Every frame has the same values of noise in another order. A value keeps an exact position that the
flow moves; at each frame a pixel takes the value that came nearest to it. What is taken by two goes
to the nearer one. Pixels that are left (uncovered, new at the border, stretched) get values that
are left (covered, gone over the border, squeezed), which nothing visible had. Which value goes
where depends on the flow alone, so every frame's noise is as normal and as white as the first's,
and since positions are rounded anew and not moved by rounded steps, a slow pan moves it too.

Source: nearest-neighbour transport with fresh noise for what has none, as Chang et al. 2024 (ICLR,
"How I Warped Your Noise") and Burgert et al. 2025 (arXiv 2501.08331, "Go-with-the-Flow") discuss it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Added to the distance of a value that an untrusted flow leads to, in pixels squared: more than
# any distance that is looked at.
UNTRUSTED = 100.0
# How often pixels look for a value; more find hardly any.
ROUNDS = 3
# A pixel takes no value that came to lie further away along x or y.
MOST_AWAY = 1.5
# Of two values at the same distance the one further left and up is taken, by every pixel alike.
TIE_BREAK = 1e-3


@dataclass(frozen=True)
class NoisePlaces:
    """Which value of the noise each pixel of a frame has.

    Attributes:
        sources: `(H, W)` int64, the value's place in the first frame, row by row; each once.
        offsets: `(2, H, W)` float32, x and y: the value's exact position less the pixel's.
    """

    sources: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class MovedNoise:
    """The order of the noise in each frame of a batch.

    Attributes:
        sources: `(B, fold h, fold w)` int64, as those of `NoisePlaces`.
        fold: Side of the square of pixels that the channels of a latent of h x w hold.
    """

    sources: Tensor
    fold: int = 1

    def of(self, noise: Tensor) -> Tensor:
        """Return the noise of every frame from the first one's.

        Args:
            noise: `(1, C, h, w)`.
        Returns:
            `(B, C, h, w)`, dtype and device of `noise`.
        """
        count, height, width = self.sources.shape
        fine = F.pixel_shuffle(noise, self.fold)  # (1, C / fold^2, fold h, fold w)
        places = self.sources.to(noise.device).flatten()
        moved = fine[0].flatten(1)[:, places]  # (C / fold^2, B fold h fold w)
        moved = moved.reshape(-1, count, height, width).movedim(1, 0)
        return F.pixel_unshuffle(moved, self.fold)  # (B, C, h, w)


def first_places(height: int, width: int) -> NoisePlaces:
    """Return the places of a clip's first frame: each value at its own pixel."""
    sources = torch.arange(height * width).view(height, width)
    return NoisePlaces(sources, torch.zeros(2, height, width))


def move_places(places: NoisePlaces, backward: Tensor, trust: Tensor) -> NoisePlaces:
    """Return the places of the frame that follows another.

    Args:
        places: Those of the frame before.
        backward: `(2, H, W)` flow to the frame before, in pixels, on the CPU.
        trust: `(1, H, W)`, above 0.5 where the flow is trusted. Elsewhere a pixel takes only what
            no trusted one takes.
    """
    height, width = places.sources.shape
    count = height * width
    came_from = torch.full((count,), -1)
    taken = torch.zeros(count, dtype=torch.bool)
    offsets = torch.zeros(2, count)
    # 1. Of the pixels that want a value the nearest has it, of several the first; the others look
    #    among what is left
    pixels = torch.arange(count)
    for _ in range(ROUNDS):
        wanted, cost, offset = _nearest(places, backward, trust, pixels, taken)
        least = torch.full((count,), torch.inf).scatter_reduce(0, wanted, cost, "amin")
        claims = torch.where(cost.isfinite() & (cost == least[wanted]), pixels, count)
        first = torch.full((count,), count).scatter_reduce(0, wanted, claims, "amin")
        has = (claims < count) & (claims == first[wanted])
        came_from[pixels[has]] = wanted[has]
        offsets[:, pixels[has]] = offset[:, has]
        taken[wanted[has]] = True
        pixels = pixels[~has]
    # 2. Of the rest what can stays where it was, the others go to what is left, row by row
    stays = pixels[~taken[pixels]]
    came_from[stays] = stays
    taken[stays] = True
    came_from[came_from < 0] = torch.arange(count)[~taken]
    sources = places.sources.flatten()[came_from].view(height, width)
    return NoisePlaces(sources, offsets.view(2, height, width))


def _nearest(
    places: NoisePlaces, backward: Tensor, trust: Tensor, pixels: Tensor, taken: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return for pixels whose value, of those not taken, came nearest, its cost and its new offset.

    Args:
        places: Those of the frame before.
        backward: `(2, H, W)`.
        trust: `(1, H, W)`.
        pixels: `(n,)` the pixels' places, row by row.
        taken: `(H W,)` which values of the frame before are taken.
    Returns:
        `(n,)` int64, `(n,)` float32, infinite where nothing came near, and `(2, n)`.
    """
    height, width = places.sources.shape
    flow = backward.flatten(1)[:, pixels]  # (2, n)
    step = (flow + 0.5).floor()
    rest = step - flow  # from where the flow leads to the centre of the pixel there
    at_x, at_y = pixels % width + step[0].long(), pixels // width + step[1].long()
    penalty = UNTRUSTED * (trust.flatten()[pixels] <= 0.5)
    before = places.offsets.flatten(1)
    wanted = torch.zeros_like(pixels)
    cost = torch.full(pixels.shape, torch.inf)
    offset = torch.zeros_like(flow)
    # Offsets are about half a pixel, so the nearest value lies around the place.
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            x, y = at_x + dx, at_y + dy
            there = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            value = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
            away = rest + rest.new_tensor([[dx], [dy]]) + before[:, value]
            there &= ~taken[value] & (away.abs().amax(0) <= MOST_AWAY)
            away_cost = away.square().sum(0) + TIE_BREAK * away.sum(0) + penalty
            better = there & (away_cost < cost)
            wanted = torch.where(better, value, wanted)
            cost = torch.where(better, away_cost, cost)
            offset = torch.where(better, away, offset)
    return wanted, cost, offset
