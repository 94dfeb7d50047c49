"""Refits the last layer of a trained network, so that what the network adds draws no grid.

The last convolution turns features of the latent's size into the pixels of each folded block. What
it was taught by losses on textures, it does with a pattern of the block's own, seen as rows of dots.
All else stays as it was trained, so a few hundred steps are enough.
"""

from __future__ import annotations

import time
from copy import deepcopy

import torch
from torch import Tensor

from .loss import grid_excess
from .network import from_latent, predict
from .precision import mixed_precision
from .trainer import Trainer

LEARNING_RATE = 4e-4
LOG_EVERY = 50
# Parts of the loss: to stay the picture it was, to be the photograph, to draw no grid.
SAME, PHOTOGRAPH, GRID = 1.0, 0.3, 2000.0


def refit_last_layer(trainer: Trainer, minutes: float, residual: float = 1.0) -> dict[str, Tensor]:
    """Return new weights of the network, the last layer's refitted.

    Args:
        trainer: Holds the network, which is not changed, and draws the crops; its settings should
            draw starts of chains only.
        minutes: Length of the training.
        residual: Factor of what the network adds, before it is refitted.
    """
    network = deepcopy(trainer.network).requires_grad_(False)
    last = network.out[2]
    last.weight *= residual
    last.bias *= residual
    old = deepcopy(last)
    last.requires_grad_(True)
    seen: list[Tensor] = []
    network.out[1].register_forward_hook(lambda *called: seen.append(called[-1].float()))
    optimizer = torch.optim.Adam(last.parameters(), lr=LEARNING_RATE)
    begun = time.monotonic()
    step = 0
    while (progress := (time.monotonic() - begun) / (60 * minutes)) < 1:
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - 0.99 * progress)
        batch = trainer.draw_batch(torch.Generator().manual_seed(step))
        tensors = (trainer.eta[batch.index].view(-1, 1, 1, 1), batch.kappa, batch.index)
        eta, kappa, index = (tensor.to(trainer.device) for tensor in tensors)
        with torch.no_grad(), mixed_precision(trainer.device):
            predict(network, batch.x, batch.y, batch.lq, index, eta, kappa)
        features = seen.pop()  # (B, 64, padded h, padded w)
        h, w = batch.y.shape[2:]
        # The network predicts the residual: what is to be taken from y.
        before, image = (
            from_latent(batch.y - layer(features)[..., :h, :w]) for layer in (old, last)
        )
        parts = {
            "same": SAME * (image - before).abs().mean(),
            "photograph": PHOTOGRAPH * (image - batch.photograph).abs().mean(),
            "grid": GRID * grid_excess(image - from_latent(batch.y)).mean(),
        }
        optimizer.zero_grad(set_to_none=True)
        sum(parts.values()).backward()
        optimizer.step()
        if step % LOG_EVERY == 0:
            named = " ".join(f"{name} {part.item():.5f}" for name, part in parts.items())
            print(f"step {step} {named}", flush=True)
        step += 1
    return {name: weight.detach() for name, weight in network.state_dict().items()}
