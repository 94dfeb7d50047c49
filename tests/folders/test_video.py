"""Videos of a folder: a few frames at a time, and a video again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pack.folders.video import VideoWriter, read_frames, video_suffix
from pack.tests.support.alone import call_alone
from pack.tests.support.folders import inverting, make_job, nothing_partial, restore_here
from pack.tests.support.videos import audio_of, frames_of, write_video

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


def test_frames_come_a_few_at_a_time(tmp_path):
    write_video(tmp_path / "a.mp4", 5, audio=False)
    parts = [(len(frames), len(times)) for frames, times in read_frames(tmp_path / "a.mp4", 2)]
    assert parts == [(2, 2), (2, 2), (1, 1)]


def test_odd_sizes_keep_their_size(tmp_path):
    write_video(tmp_path / "a.mp4", 2)
    writer = VideoWriter(tmp_path / "b.mp4", tmp_path / "a.mp4", 92)
    for frames, times in read_frames(tmp_path / "a.mp4", 8):
        writer.add(frames[:, :31, :29] / 255.0, times)
    writer.finish()
    assert frames_of(tmp_path / "b.mp4")[0].shape == (2, 31, 29, 3)


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


def grown_by_copying(folder: str, frames: int) -> int:
    """Return by how many KiB reading and writing a video grew this process."""
    from pack.tests.support.alone import grown

    path = Path(folder) / f"{frames}.mp4"
    write_video(path, frames, side=256, audio=False)

    def copy() -> None:
        writer = VideoWriter(path.with_name("copy.mp4"), path, 92)
        for images, times in read_frames(path, 4):
            writer.add(images / 255.0, times)
        writer.finish()

    return grown(copy) // 1024


@pytest.mark.slow
def test_the_memory_of_a_video_does_not_grow_with_its_length(tmp_path):
    short, long = (
        call_alone(grown_by_copying, folder=str(tmp_path), frames=frames) for frames in (100, 600)
    )
    # 500 frames of 256x256 would be 94 MiB in bytes alone.
    assert long < short + 20 * 1024
