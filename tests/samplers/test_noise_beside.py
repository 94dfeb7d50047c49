"""Noise beside the state: decided by the start noise, independent of it and of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from pack.samplers.noise_beside import noise_beside


def start(batch: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, 64, 48, generator=torch.Generator().manual_seed(seed))


def test_it_is_standard_normal_and_unlike_the_start_noise():
    made = noise_beside(start(), 2)
    assert made.shape == (3, 2, 64, 48)
    assert made.dtype == torch.float32
    assert abs(made.mean()) < 0.03  # 18432 draws: 4 standard errors
    assert abs(made.std() - 1) < 0.03
    for channel in start().unbind(1):
        together = torch.stack([channel.flatten(), made[:, 0].flatten()])
        assert abs(torch.corrcoef(together)[0, 1]) < 0.05  # 9216 draws


def test_the_start_noise_decides_it_picture_by_picture():
    made = noise_beside(start(), 1)
    assert torch.equal(noise_beside(start(), 1), made)
    assert torch.equal(noise_beside(start()[1:2], 1), made[1:2])
    assert not torch.equal(made[0], made[1])
    assert not torch.equal(noise_beside(start(seed=2), 1), made)


def test_no_start_noise_gives_the_same_noise_to_every_picture():
    made = noise_beside(torch.zeros(2, 3, 8, 8), 1)
    assert torch.equal(made[0], made[1])
    assert made.std() > 0.5
