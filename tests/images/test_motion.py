"""Motion on the grid of latents: units, padding, folded pixels, sharpness of what is moved."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pack.images.motion import FrameGrid, Motion, draw_to_moved, estimate_motion, no_motion


def panned(count: int, height: int, width: int, step: int) -> Tensor:
    """Return frames of a smooth random picture that is panned to the right, `(B, 3, H, W)`."""
    size = height, width + step * count
    noise = torch.rand(1, 3, size[0] // 4, size[1] // 4, generator=torch.Generator().manual_seed(4))
    picture = F.interpolate(noise, size, mode="bicubic").clamp(0, 1)
    return torch.cat([picture[..., k * step : k * step + width] for k in range(count)])


def middle(flow: Tensor) -> Tensor:
    return flow[..., 4:-4, 4:-4].median(-1).values.median(-1).values


def test_flow_comes_in_pixels_of_the_grid():
    frames = panned(2, 48, 64, 4)
    for per_pixel, fold in ((1.0, 1), (0.5, 1), (4.0, 4), (0.25, 1)):
        grid = FrameGrid(int(48 * per_pixel), int(64 * per_pixel), per_pixel, fold)
        motion = estimate_motion(frames[:1], frames[1:], grid)
        assert motion.backward.shape == (1, 2, grid.height, grid.width)
        assert motion.fold == fold
        found = middle(motion.backward)[0]
        assert abs(found[0] - 4 * per_pixel) < 0.15 * per_pixel * 4
        assert abs(found[1]) < 0.15
        assert motion.trust.amin() >= 0
        assert motion.trust.amax() <= 1
        assert motion.trust[..., : grid.width // 2].mean() > 0.8


def test_padding_moves_as_the_edge_does_and_changes_nothing_else():
    frames = panned(2, 48, 64, 2)
    whole = estimate_motion(frames[:1], frames[1:], FrameGrid(24, 32, 0.5))
    padded = estimate_motion(frames[:1], frames[1:], FrameGrid(40, 40, 0.5))
    assert torch.allclose(padded.backward[..., :24, :32], whole.backward, atol=1e-5)
    assert torch.equal(padded.backward[..., 30, :], padded.backward[..., 39, :])


def test_frames_that_follow_nothing_are_not_trusted():
    motion = no_motion(3, FrameGrid(8, 8, 1.0, 2))
    assert not motion.trust.any()
    latent = torch.randn(1, 12, 4, 4, generator=torch.Generator().manual_seed(0))
    drawn = draw_to_moved(latent, torch.zeros_like(latent), motion.part(0, 1), torch.tensor(1.0))
    assert torch.equal(drawn, latent)


def test_a_trusted_latent_is_drawn_to_the_moved_one_by_its_share():
    frames = panned(2, 32, 48, 4)
    backward = torch.zeros(1, 2, 32, 48)
    backward[:, 0] = 4.0
    trust = torch.ones(1, 1, 32, 48)
    trust[..., :16] = 0.0
    latent, before = (F.pixel_unshuffle(frame[None], 4) for frame in (frames[1] * 0, frames[0]))
    drawn = draw_to_moved(latent, before, Motion(backward, trust, 4), torch.tensor(0.25))
    picture = F.pixel_shuffle(drawn, 4)[0]
    assert torch.equal(picture[..., :16], torch.zeros(3, 32, 16))
    assert torch.allclose(picture[..., 16:44], 0.25 * frames[1][..., 16:44], atol=1e-4)


def test_moves_by_parts_of_a_pixel_keep_sharpness():
    frames = panned(1, 64, 96, 0)
    backward = torch.zeros(1, 2, 64, 96)
    backward[:, 0] = 0.5
    motion = Motion(backward, torch.ones(1, 1, 64, 96))
    there = draw_to_moved(frames, frames, motion, torch.tensor(1.0))
    back = draw_to_moved(there, there, Motion(-backward, motion.trust), torch.tensor(1.0))
    error = (back - frames)[..., 4:-4].square().mean().sqrt()
    assert error < 0.01


def test_a_cut_is_not_trusted_however_flat_the_pictures_are():
    dark, light = torch.full((1, 3, 32, 48), 0.2), torch.full((1, 3, 32, 48), 0.7)
    grid = FrameGrid(32, 48, 1.0)
    assert estimate_motion(dark, light, grid).trust.max() < 1e-6
    assert estimate_motion(dark, dark + 0.02, grid).trust.min() > 0.8
    one, other = panned(1, 32, 48, 0), panned(1, 32, 48, 0).flip(-1).roll(9, -2)
    assert estimate_motion(one, 1 - other, grid).trust.mean() < 0.3
