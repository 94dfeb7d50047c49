"""The warping error of clips that flicker and of one that does not."""

from __future__ import annotations

import pytest
import torch

from pack.benchmarks.clips import moved_clip, noisy, workflow_picture
from pack.images.flicker import warping_error

CLIP = moved_clip(
    workflow_picture("restoration_crew.jpg"), (96, 160), 4, shift=(2.4, -1.3), reduction=0.6
)


def error_of(frames: torch.Tensor) -> torch.Tensor:
    return warping_error(frames[1:], frames[:-1], CLIP.backward, CLIP.shown)


def test_a_clip_that_does_not_flicker_has_the_error_of_sampling_only():
    whole = moved_clip(
        workflow_picture("restoration_crew.jpg"), (96, 160), 4, shift=(2, -1), reduction=0.6
    )
    errors = warping_error(whole.frames[1:], whole.frames[:-1], whole.backward, whole.shown)
    # Whole pixels need no sampling: what is left are the borders, which clamping moved by rounding.
    assert errors.shape == (3,)
    assert errors.max() < 1e-7
    # Between pixels bilinear sampling blurs; a still clip compared with no motion has 0.
    assert 1e-5 < error_of(CLIP.frames).mean() < 2e-3


@pytest.mark.parametrize("strength", [0.02, 0.05])
def test_noise_that_is_new_in_each_frame_adds_its_variance(strength: float):
    generator = torch.Generator().manual_seed(0)
    noise = strength * torch.randn(CLIP.frames.shape, generator=generator)
    added = error_of(CLIP.frames + noise).mean() - error_of(CLIP.frames).mean()
    # A frame's own, and that of the frame before as bilinear sampling leaves it: at (0.4, 0.7) of a
    # pixel (0.4^2 + 0.6^2) (0.7^2 + 0.3^2).
    expected = strength**2 * (1 + 0.52 * 0.58)
    assert float(added) == pytest.approx(expected, rel=0.03)


def test_boiling_is_caught():
    assert error_of(noisy(CLIP.frames, 0.05)).mean() > 3 * error_of(CLIP.frames).mean()


def test_only_trusted_pixels_count():
    frames = CLIP.frames[:2].clone()
    frames[1, :, 40:60, 40:60] = 0
    trust = CLIP.shown[:1].clone()
    spoilt = warping_error(frames[1:], frames[:1], CLIP.backward[:1], trust)
    trust[..., 40:60, 40:60] = 0
    assert warping_error(frames[1:], frames[:1], CLIP.backward[:1], trust) < 0.1 * spoilt
    none = warping_error(frames[1:], frames[:1], CLIP.backward[:1], torch.zeros_like(trust))
    assert none.isnan().all()
