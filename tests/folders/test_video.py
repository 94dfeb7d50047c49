"""Videos of a folder: a few frames at a time, and a video again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pack.tests.support.folders import inverting, make_job, nothing_partial, restore_here
from pack.tests.support.videos import audio_of, frames_of, write_video
from pack.videos.writing import video_suffix

pytestmark = pytest.mark.comfy


@pytest.mark.parametrize("name", ["a.mp4", "b.mov", "c.mkv"])
def test_a_video_becomes_a_video_with_its_times_and_its_audio(base, name):
    (base / "in").mkdir()
    write_video(base / "in" / name, 5)
    outcome = restore_here(make_job(base, inverting()))[name]
    assert (outcome.state, outcome.reason) == ("done", "")
    result = base / "out" / Path(name).with_suffix(video_suffix(name))
    before, times = frames_of(base / "in" / name)
    after, new_times = frames_of(result)
    assert after.shape == before.shape
    # Twice through 8-bit YUV: a grey value or two, and the encoder's at this quality.
    assert np.abs(after.astype(int) - (255 - before.astype(int))).max() <= 6
    assert new_times == pytest.approx(times, abs=0.002)
    assert audio_of(result) == audio_of(base / "in" / name)
    assert nothing_partial(base / "out")


def test_a_damaged_video_fails_alone_and_leaves_nothing(base):
    (base / "in").mkdir()
    write_video(base / "in" / "b.mp4", 3)
    whole = (base / "in" / "b.mp4").read_bytes()
    (base / "in" / "a.mp4").write_bytes(whole[:500])
    (base / "in" / "c.mkv").write_bytes(b"no video")
    restored = restore_here(make_job(base, inverting()))
    assert [outcome.state for outcome in restored.values()] == ["failed", "done", "failed"]
    assert all(outcome.reason for outcome in restored.values() if outcome.state == "failed")
    assert nothing_partial(base / "out")
    assert sorted(path.name for path in (base / "out").iterdir()) == [".partial", "b.mp4"]


def test_a_workflow_that_makes_another_number_of_frames_is_told(base):
    (base / "in").mkdir()
    write_video(base / "in" / "a.mp4", 3)
    prompt = inverting()
    prompt["2"] = {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["1", 0]}}
    outcome = restore_here(make_job(base, prompt))["a.mp4"]
    assert outcome.state == "failed"
    assert "made 4 of 2 frames" in outcome.reason
