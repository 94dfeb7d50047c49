"""The flicker of a batch of frames, and what the report says of it."""

from __future__ import annotations

import math

import pytest
import torch

from pack.benchmarks.clips import moved_clip, noisy, reduced, workflow_picture
from pack.images.conversion import planes_to_image
from pack.images.flicker import warping_error
from pack.images.resize import resize_bicubic
from pack.pipelines.flicker import measure_flicker

pytestmark = pytest.mark.comfy

CLIP = moved_clip(
    workflow_picture("restoration_original.jpg"), (192, 256), 4, shift=(5, -3), turn=1
)
FRAMES = planes_to_image(CLIP.frames)
INPUT = reduced(CLIP.frames, 2)
REFERENCE = planes_to_image(INPUT)


def test_along_a_found_motion_the_error_is_close_to_that_along_the_true_one():
    measured = measure_flicker(FRAMES, REFERENCE)
    true = warping_error(CLIP.frames[1:], CLIP.frames[:-1], CLIP.backward, CLIP.shown).mean()
    assert measured.warping_error == pytest.approx(float(true), rel=0.5)
    assert measured.trusted > 0.8


def test_the_enlarged_input_has_the_ratio_1_and_boiling_a_larger_one():
    enlarged = resize_bicubic(INPUT, 192, 256).clamp(0, 1)
    steady = measure_flicker(planes_to_image(enlarged), REFERENCE)
    assert steady.ratio == pytest.approx(1)
    assert steady.reference_error == steady.warping_error
    boiling = measure_flicker(planes_to_image(noisy(enlarged, 0.05)), REFERENCE)
    assert boiling.reference_error == pytest.approx(steady.reference_error)
    assert boiling.ratio > 1.5


def test_without_a_reference_there_is_no_ratio():
    measured = measure_flicker(FRAMES[:2])
    assert math.isnan(measured.ratio)
    assert math.isnan(measured.reference_error)
    assert measured.report.startswith("| frames |    error | trusted |")
    assert "of the frames themselves, by Lucas-Kanade" in measured.report
    assert "mean" not in measured.report.split("\n\n")[0]


def test_a_still_clip_does_not_flicker():
    still = FRAMES[:1].expand(3, -1, -1, -1)
    measured = measure_flicker(still, REFERENCE[:1].expand(3, -1, -1, -1))
    assert measured.warping_error < 1e-9
    assert measured.trusted == 1
    assert len(measured.report.split("\n\n")[0].splitlines()) == 5  # head, rule, two pairs, mean


def test_alpha_and_grey_are_taken_as_elsewhere():
    grey = FRAMES[:2].mean(dim=-1, keepdim=True)
    with_alpha = torch.cat([grey.expand(-1, -1, -1, 3), torch.rand(2, 192, 256, 1)], dim=-1)
    one, other = measure_flicker(grey), measure_flicker(with_alpha)
    assert one.warping_error == pytest.approx(other.warping_error)


def test_one_frame_and_other_counts_are_refused():
    with pytest.raises(ValueError, match=r"'image' has one frame.*as one batch"):
        measure_flicker(FRAMES[:1])
    with pytest.raises(ValueError, match="'reference' has 3 frames and 'image' 4"):
        measure_flicker(FRAMES, REFERENCE[:3])
