"""The gradient of decoding in overlapping tiles, whose memory does not grow with the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import comfy.model_management
import torch
from torch import Tensor

from .tiles import Grid, Window


@dataclass(frozen=True)
class TiledDecoder:
    """A decoder that sees a latent through windows.

    One window gives exactly what the decoder gives. Several give pixels and moves near that: each
    sees less of the picture, and where windows overlap their averages fade into each other.

    Attributes:
        decode: Differentiable function from latents `(1, C, h, w)` to pictures.
        grid: The windows.
        ratio: Side of a picture over the side of its latent.
    """

    decode: Callable[[Tensor], Tensor]
    grid: Grid
    ratio: int

    def pixels(self, latent: Tensor) -> Tensor:
        """Return the picture of a latent."""
        tiles = (self.decode(window.cut(latent)) for window in self.grid.windows)
        return self.grid.merge(tiles, self.ratio)

    def pixels_and_move(
        self, latent: Tensor, wanted: Callable[[Tensor, Window], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the picture of a latent, and how it moves where its pixels are to move.

        Args:
            latent: `(1, C, h, w)`.
            wanted: How the pixels of a window are to move, from the pixels and the window.
        Returns:
            The picture, and the gradient of the pixels' product with what is wanted.
        """
        moves: list[Tensor] = []

        def tiles() -> Iterator[Tensor]:
            for window in self.grid.windows:
                comfy.model_management.throw_exception_if_processing_interrupted()
                with torch.inference_mode(False), torch.enable_grad():
                    variable = window.cut(latent).clone().requires_grad_()
                    pixels = self.decode(variable)
                    found = pixels.detach()
                    (move,) = torch.autograd.grad(pixels, variable, wanted(found, window))
                moves.append(move)
                yield found

        picture = self.grid.merge(tiles(), self.ratio)
        return picture, self.grid.merge(moves)
