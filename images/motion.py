"""The motion of a clip, seen on the grid of the latents that are made of its frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .blur import gaussian_blur
from .flow import estimate_flow, trusted, warp_along

# Frames are reduced before their flow is estimated, but not below this many pixels for one of the
# grid: what is left then tells the motion to a tenth of the grid's pixel.
LEAST_FINENESS = 2
# Where frames differ by this once moved, in the mean around a pixel, trust in their flow falls to
# 0.37: they show different things, or the flow is that of what lies beside. Noise and compression
# differ by less. A hard limit leaves more flicker at the edges of what moves, or takes more trust.
UNLIKE = 0.05
AROUND_SIGMA = 1.5
AROUND_RADIUS = 4


@dataclass(frozen=True)
class FrameGrid:
    """How frames lie on the pixels that a latent holds.

    The frames' top left corner is the latent's. What lies beyond them on the right and at the bottom
    is padding.

    Attributes:
        height: Height of the grid, `fold` times the latent's.
        width: Width of the grid.
        per_pixel: Pixels of the grid along the side of a frame's pixel.
        fold: Side of the square of pixels that the channels of a latent's pixel hold.
    """

    height: int
    width: int
    per_pixel: float
    fold: int = 1


@dataclass(frozen=True)
class Motion:
    """What leads from frames to those before them, on a grid.

    Attributes:
        backward: `(B, 2, H, W)` float32 flow to the frame before, in pixels of the grid.
        trust: `(B, 1, H, W)` float32, where that flow is to be trusted, 0 to 1.
        fold: That of the grid.
    """

    backward: Tensor
    trust: Tensor
    fold: int = 1

    def part(self, first: int, last: int) -> Motion:
        """Return the motion of the frames from `first` to before `last`."""
        return Motion(self.backward[first:last], self.trust[first:last], self.fold)


def estimate_motion(before: Tensor, frames: Tensor, grid: FrameGrid) -> Motion:
    """Return the motion that is seen between frames and those before them.

    Args:
        before: `(B, C, H, W)` in [0, 1]: the frame before each of `frames`.
        frames: `(B, C, H, W)`, on the same device.
        grid: Where the motion is wanted.
    Returns:
        Motion on the CPU, pair by pair; in the padding that of the frame's edge.
    """
    pairs = [
        _pair_motion(*pair, grid) for pair in zip(before.split(1), frames.split(1), strict=True)
    ]
    backward, trust = zip(*pairs, strict=True)
    return Motion(torch.cat(backward).cpu(), torch.cat(trust).cpu(), grid.fold)


def no_motion(count: int, grid: FrameGrid) -> Motion:
    """Return the motion of frames that follow nothing: none, which is not trusted."""
    shape = grid.height, grid.width
    return Motion(torch.zeros(count, 2, *shape), torch.zeros(count, 1, *shape), grid.fold)


def draw_to_moved(latent: Tensor, before: Tensor, motion: Motion, share: Tensor) -> Tensor:
    """Return the latent of a frame drawn to that of the frame before, moved to where the frame has it.

    Args:
        latent: `(1, C, h, w)` float32.
        before: The same of the frame before.
        motion: Of the one frame, on the latents' grid and device.
        share: Scalar tensor, how much is replaced where the motion is trusted, 0 to 1.
    """
    fine, fine_before = (F.pixel_shuffle(x, motion.fold) for x in (latent, before))
    moved = warp_along(fine_before, motion.backward, "bicubic")  # (1, C / fold^2, H, W)
    drawn = fine + share * motion.trust * (moved - fine)
    return F.pixel_unshuffle(drawn, motion.fold)  # (1, C, h, w)


def _pair_motion(before: Tensor, frame: Tensor, grid: FrameGrid) -> tuple[Tensor, Tensor]:
    height, width = frame.shape[-2:]
    factor = max(1, int(1 / (grid.per_pixel * LEAST_FINENESS)))
    small = max(1, height // factor), max(1, width // factor)
    if small != (height, width):
        before, frame = (
            F.interpolate(picture, small, mode="bilinear", antialias=True)
            for picture in (before, frame)
        )
    backward, forward = estimate_flow(frame, before), estimate_flow(before, frame)
    trust = trusted(backward, forward) * _alike(before, frame, backward)
    lengths = backward.new_tensor([width / small[1], height / small[0]]).view(2, 1, 1)
    both = torch.cat([backward * lengths * grid.per_pixel, trust], dim=1)
    at = _grid_places(height, width, grid).to(both)
    # (1, 3, grid height, grid width)
    seen = F.grid_sample(both, at, mode="bilinear", padding_mode="border", align_corners=False)
    return seen[:, :2], seen[:, 2:]


def _alike(before: Tensor, frame: Tensor, backward: Tensor) -> Tensor:
    """Return `(1, 1, H, W)`: how far a frame looks as the one before it, moved along, 1 for equal."""
    difference = (frame - warp_along(before, backward, "bicubic")).abs().mean(dim=1, keepdim=True)
    return torch.exp(-((gaussian_blur(difference, AROUND_SIGMA, AROUND_RADIUS) / UNLIKE) ** 2))


def _grid_places(height: int, width: int, grid: FrameGrid) -> Tensor:
    """Return the grid's pixels in a frame of a size, for `grid_sample`: `(1, H, W, 2)`."""
    x, y = (
        (torch.arange(count, dtype=torch.float64) + 0.5) / grid.per_pixel / side * 2 - 1
        for count, side in ((grid.width, width), (grid.height, height))
    )
    return torch.stack(torch.broadcast_tensors(x, y[:, None]), dim=-1)[None]
