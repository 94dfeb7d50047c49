"""How much a clip flickers: what changes from frame to frame beyond its motion."""

from __future__ import annotations

from torch import Tensor

from .flow import warp_along


def warping_error(frame: Tensor, before: Tensor, backward: Tensor, trust: Tensor) -> Tensor:
    """Return how far frames are from those before them, moved along the motion.

    Some error is left by a clip that does not flicker: sampling between pixels blurs, noise and
    shading change. So it is read beside that of another clip with the same motion.

    Args:
        frame: `(B, C, H, W)` in [0, 1].
        before: The frames before, like `frame`.
        backward: `(B, 2, H, W)`, the flow from `frame` to `before`.
        trust: `(B, 1, H, W)` in [0, 1], the weight of each pixel, 0 where `before` does not show it.
    Returns:
        `(B,)`: mean over the trusted pixels of the squared difference, mean over channels; NaN where
        no pixel is trusted.

    Source: Lai et al. 2018 (arXiv 1808.00449), "Learning Blind Video Temporal Consistency", eq. 6
    and 7; there the channels are summed.
    """
    difference = (frame - warp_along(before, backward)).square().mean(dim=1, keepdim=True)
    return (trust * difference).sum(dim=(1, 2, 3)) / trust.sum(dim=(1, 2, 3))
