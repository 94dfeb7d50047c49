"""Optical flow on clips whose motion is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pack.benchmarks.clips import Clip, compressed, moved_clip, noisy, patch_clip, workflow_picture
from pack.images.flow import estimate_flow, lies_inside, resized_flow, trusted, warp_along

SIZE = (96, 160)
MOTIONS = {
    "a pan by parts of a pixel": {"shift": (1.3, -0.7)},
    "a pan": {"shift": (-6.2, 3.1)},
    "a fast pan": {"shift": (16, -4)},
    "a zoom": {"zoom": 1.06},
    "a turn": {"turn": 4},
    "all together": {"shift": (2, 1), "zoom": 0.96, "turn": -5},
}


def pair(motion: str) -> Clip:
    return moved_clip(
        workflow_picture("restoration_crew.jpg"), SIZE, 2, reduction=0.6, **MOTIONS[motion]
    )


def patch() -> Clip:
    still = pair("a pan").frames[0]
    face = F.interpolate(workflow_picture("restoration_face.jpg")[None], (48, 48), mode="area")[0]
    return patch_clip(still, face, 2, (8, 3))


def errors_of(clip: Clip, frames: Tensor) -> Tensor:
    """Return the error in pixels where both frames show the same."""
    found = estimate_flow(frames[1:], frames[:1])
    return (found - clip.backward).norm(dim=1, keepdim=True)[clip.shown == 1]


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize(
    ("seen", "median", "mean"),
    [
        (lambda frames: frames, 0.1, 0.2),
        (lambda frames: noisy(frames, 0.04), 0.2, 0.3),
        (lambda frames: compressed(frames, 30), 0.25, 0.35),
    ],
    ids=["as it is", "noisy", "compressed"],
)
def test_motion_is_found(motion: str, seen: Callable[[Tensor], Tensor], median: float, mean: float):
    clip = pair(motion)
    errors = errors_of(clip, seen(clip.frames))
    assert errors.median() < median
    assert errors.mean() < mean


def test_a_patch_and_the_ground_behind_it_move_by_themselves():
    clip = patch()
    errors = errors_of(clip, clip.frames)
    assert errors.median() < 0.05
    assert (errors < 1).float().mean() > 0.9  # the rest lies along the patch's edge


def test_every_pair_is_estimated_by_itself_and_in_float32():
    one, other = pair("a pan").frames, pair("a turn").frames
    both = estimate_flow(torch.stack([one[1], other[1]]).half(), torch.stack([one[0], other[0]]))
    assert both.dtype == torch.float32
    alone = estimate_flow(other[1:].half(), other[:1])
    assert torch.allclose(both[1:], alone, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (23, 17)])
def test_small_and_flat_pictures_have_a_flow_of_no_motion(size: tuple[int, int]):
    flow = estimate_flow(torch.full((2, 3, *size), 0.4), torch.full((2, 3, *size), 0.4))
    assert flow.shape == (2, 2, *size)
    assert flow.abs().max() < 1e-9


def test_equal_pictures_have_not_moved():
    frame = pair("a pan").frames[:1]
    assert estimate_flow(frame, frame).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_along_no_motion_a_picture_stays(dtype: torch.dtype):
    picture = torch.rand(2, 4, 33, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    warped = warp_along(picture, torch.zeros(1, 2, 33, 50))
    assert warped.dtype == dtype
    # float32 places of 50 pixels are good to some 1e-5 of a pixel.
    assert torch.allclose(warped.float(), picture.float(), atol=1e-4)


def test_the_place_that_a_flow_leads_to_is_seen_and_borders_are_repeated():
    picture = torch.arange(20.0).view(1, 1, 4, 5)
    flow = torch.zeros(1, 2, 4, 5)
    flow[:, 0], flow[:, 1] = 1.5, -1
    warped = warp_along(picture, flow)
    assert warped[0, 0, 1].tolist() == pytest.approx([1.5, 2.5, 3.5, 4, 4])
    assert warped[0, 0, 0].tolist() == pytest.approx([1.5, 2.5, 3.5, 4, 4])
    inside = lies_inside(flow)
    assert inside[0, 0, 1].tolist() == [True, True, True, True, False]
    assert not inside[0, 0, 0].any()


def test_a_true_flow_makes_a_frame_of_the_one_before():
    clip = pair("all together")
    made = warp_along(clip.frames[:1], clip.backward)
    difference = ((made - clip.frames[1:]).square() * clip.shown).mean()
    unmoved = ((clip.frames[:1] - clip.frames[1:]).square() * clip.shown).mean()
    assert difference < 0.02 * unmoved


def test_what_a_patch_hid_is_not_trusted_and_all_else_is():
    clip = patch()
    trust = trusted(clip.backward, clip.forward)
    assert set(trust.unique().tolist()) == {0, 1}
    # Between a moving and a still pixel, sampling mixes both motions.
    edge = F.max_pool2d(clip.shown, 3, 1, 1) != -F.max_pool2d(-clip.shown, 3, 1, 1)
    assert torch.equal(trust[~edge], clip.shown[~edge])
    assert (clip.shown == 0).sum() > 300


def test_of_found_flows_little_that_was_hidden_is_trusted():
    clip = patch()
    one, other = clip.frames[:1], clip.frames[1:]
    trust = trusted(estimate_flow(other, one), estimate_flow(one, other))
    assert trust[clip.shown == 0].mean() < 0.3
    assert trust[clip.shown == 1].mean() > 0.9


def test_what_was_outside_the_frame_before_is_not_trusted():
    clip = pair("a fast pan")
    assert torch.equal(trusted(clip.backward, clip.forward), clip.shown)
    assert 0.8 < clip.shown.mean() < 0.9


def test_a_resized_flow_leads_to_the_same_places_of_a_resized_picture():
    clip = moved_clip(workflow_picture("restoration_crew.jpg"), SIZE, 2, turn=3, reduction=0.6)
    smaller = resized_flow(clip.backward, (24, 80))
    expected = F.avg_pool2d(clip.backward, (4, 2)) * torch.tensor([0.5, 0.25]).view(1, 2, 1, 1)
    assert torch.allclose(smaller, expected, atol=0.05)
    larger = resized_flow(smaller, SIZE)
    inner = (..., slice(8, -8), slice(8, -8))
    assert torch.allclose(larger[inner], clip.backward[inner], atol=0.02)
    assert resized_flow(smaller, (24, 80)) is smaller
