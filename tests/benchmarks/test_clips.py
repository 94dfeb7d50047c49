"""Clips whose motion is known move as they say."""

from __future__ import annotations

import pytest
import torch

from pack.benchmarks.clips import moved_clip, patch_clip, workflow_picture
from pack.images.flow import warp_along


@pytest.mark.parametrize(
    "motion", [{"shift": (3.5, -2.25)}, {"zoom": 1.05}, {"turn": 3}], ids=["pan", "zoom", "turn"]
)
def test_a_frame_is_the_one_before_moved(motion: dict):
    clip = moved_clip(workflow_picture("restoration_original.jpg"), (90, 150), 3, **motion)
    assert clip.frames.shape == (3, 3, 90, 150)
    for moved, true in (
        (warp_along(clip.frames[:-1], clip.backward), clip.frames[1:]),
        (warp_along(clip.frames[1:], clip.forward), clip.frames[:-1]),
    ):
        inner = (..., slice(8, -8), slice(8, -8))
        error = (moved - true)[inner].square().mean()
        unmoved = (clip.frames[1:] - clip.frames[:-1])[inner].square().mean()
        assert error < 0.1 * unmoved


def test_a_patch_hides_and_bares_the_ground():
    clip = patch_clip(torch.zeros(3, 20, 30), torch.ones(3, 6, 8), 3, (3, 2))
    assert torch.equal(warp_along(clip.frames[:-1], clip.backward) * clip.shown, clip.frames[1:])
    # What a frame bares is the patch without the part that still covers: 6 8 - (6 - 2) (8 - 3).
    assert (clip.shown == 0).sum(dim=(1, 2, 3)).tolist() == [28, 28]
