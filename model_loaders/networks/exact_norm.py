"""GroupNorm of channels-last maps on CPUs, as exact as of plain ones.

torch sums such maps one element after the other: at a mean of 3 and a spread of 0.1 its result is
off by 2e-2, in the plain layout by 4e-6.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

# Rows that are squared at once; few enough to stay in the processor's cache.
ROWS = 1024


def make_norms_exact(network: nn.Module) -> None:
    """Let the GroupNorms of a network be exact in float32 on CPUs whatever the layout of a map."""
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            # Another class and not another `forward`, which copies of the network would share.
            module.__class__ = _exact_class(type(module))


def exact_group_norm(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Return the GroupNorm of a map.

    Args:
        x: `(B, C, H, W)` float32, channels-last, and so is the result.
        groups: Groups of neighbouring channels.
        weight: `(C,)` factors after normalisation, or None for 1.
        bias: `(C,)` added in the end, or None for 0.
        eps: Added to the variance.

    Source: Wu and He 2018 (arXiv 1803.08494), eq. 1 and 2.
    """
    b, c, h, w = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
    mean = rows.mean(dim=1)  # (B, C), of each channel
    squares = [(part - mean[:, None]).square_().sum(dim=1) for part in rows.split(ROWS, dim=1)]
    variance = torch.stack(squares).sum(dim=0) / (h * w)
    by_group = mean.view(b, groups, -1)
    group_mean = by_group.mean(dim=-1, keepdim=True)
    within = variance.view(b, groups, -1) + (by_group - group_mean).square()
    scale = (within.mean(dim=-1, keepdim=True) + eps).rsqrt().expand_as(by_group)
    shift = (-group_mean * scale).reshape(b, c)
    scale = scale.reshape(b, c)
    if weight is not None:
        scale, shift = scale * weight, shift * weight
    if bias is not None:
        shift = shift + bias
    return torch.addcmul(shift[..., None, None], x, scale[..., None, None])


@cache
def _exact_class(plain: type[nn.GroupNorm]) -> type[nn.GroupNorm]:
    class ExactGroupNorm(plain):
        """A GroupNorm that is exact on channels-last maps on CPUs too."""

        def forward(self, x: Tensor) -> Tensor:
            if (
                (x.device.type, x.dtype, x.ndim) != ("cpu", torch.float32, 4)
                or x.is_contiguous()
                or not x.is_contiguous(memory_format=torch.channels_last)
            ):
                return super().forward(x)
            if (
                getattr(self, "comfy_cast_weights", False)
                or getattr(self, "weight_function", ())
                or getattr(self, "bias_function", ())
            ):  # ComfyUI changes the weights on their way
                made = super().forward(x.contiguous())
                return made.contiguous(memory_format=torch.channels_last)
            return exact_group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    return ExactGroupNorm
