"""Videos written: times, depth, sizes, colours, and the sound beside them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from pack.tests.support.alone import call_alone
from pack.tests.support.videos import audio_of, frames_of, write_video
from pack.videos.reading import Look, Window, read_frames, read_look
from pack.videos.sound import CopiedSound, SampledSound
from pack.videos.writing import SegmentWriter, VideoWriter, crf_of_quality, join_segments

TEN = Look(Fraction(10), Fraction(1, 10))


def copied(source, target, crop=None) -> None:
    writer = VideoWriter(target, source, crf_of_quality(92))
    for frames, times in read_frames(source, 8):
        writer.add(frames[:, :crop, :crop] / np.iinfo(frames.dtype).max, times)
    writer.finish()


def segments(folder, images, cuts, look=TEN):
    """Return segments of frames, cut after these numbers of them."""
    paths = []
    for first, end in zip((0, *cuts), (*cuts, len(images)), strict=True):
        paths.append(folder / f"{first}.mp4")
        writer = SegmentWriter(paths[-1], look, 5)
        writer.add(images[first:end])
        writer.finish()
    return paths


def greys(count: int, side: int = 32) -> np.ndarray:
    return np.stack([np.full((side, side, 3), (20 * (k % 12)) / 255) for k in range(count)])


def test_odd_sizes_keep_their_size(tmp_path):
    write_video(tmp_path / "a.mp4", 2)
    copied(tmp_path / "a.mp4", tmp_path / "b.mp4", crop=31)
    assert frames_of(tmp_path / "b.mp4")[0].shape == (2, 31, 31, 3)


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_times_that_vary_stay_and_begin_at_nothing(tmp_path, name):
    times = [0.5, 0.53, 0.9, 1.0, 1.8]
    write_video(tmp_path / "a.mp4", 5, audio=False, times=times)
    copied(tmp_path / "a.mp4", tmp_path / name)
    moved = [time - 0.5 for time in times]
    assert frames_of(tmp_path / name)[1] == pytest.approx(moved, abs=0.0006)


def test_ten_bits_stay_ten_bits(tmp_path):
    write_video(tmp_path / "a.mp4", 2, audio=False, pix_fmt="yuv420p10le")
    copied(tmp_path / "a.mp4", tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].format.name == "yuv420p10le"


def test_colours_are_those_that_were_given_and_are_stated(tmp_path):
    colors = np.array([[200, 60, 30], [20, 160, 90], [40, 50, 210]], np.uint8)
    images = np.broadcast_to(colors[:, None, None], (3, 64, 64, 3)) / 255
    join_segments(
        tmp_path / "a.mp4", segments(tmp_path, images, ()), [Fraction(k, 10) for k in range(3)],
        TEN, None,
    )  # fmt: skip
    seen, _ = frames_of(tmp_path / "a.mp4")
    assert np.abs(seen.mean(axis=(1, 2)) - colors).max() < 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_range) == (1, 1, 1)


def test_joined_segments_have_every_frame_at_its_time_beside_the_same_packets(tmp_path):
    times = [0.0, 0.1, 0.15, 0.4, 0.41, 0.42, 0.9]
    write_video(tmp_path / "a.mp4", 7, times=times)
    look = read_look(tmp_path / "a.mp4")
    images = greys(7)
    exact = [Fraction(round(100 * time), 100) for time in times]
    paths = segments(tmp_path, images, (2, 3), look)
    exchanged = join_segments(
        tmp_path / "b.mp4", paths, exact, look, CopiedSound(tmp_path / "a.mp4")
    )
    seen, found = frames_of(tmp_path / "b.mp4")
    assert exchanged == []
    assert found == pytest.approx(times, abs=1e-6)
    assert np.abs(seen.astype(float) - 255 * images).max() <= 3
    assert audio_of(tmp_path / "b.mp4") == audio_of(tmp_path / "a.mp4")


def test_sound_lies_beside_its_pictures_in_the_file(tmp_path):
    write_video(tmp_path / "a.mp4", 40)
    copied(tmp_path / "a.mp4", tmp_path / "b.mkv")
    with av.open(str(tmp_path / "b.mkv")) as container:
        kinds = [packet.stream.type for packet in container.demux() if packet.size]
    assert "audio" in kinds[: len(kinds) // 4]
    assert "video" in kinds[3 * len(kinds) // 4 :]


def test_shape_of_pixels_stays(tmp_path):
    look = replace(TEN, pixel_aspect=Fraction(4, 3))
    paths = segments(tmp_path, greys(2), (), look)
    join_segments(tmp_path / "a.mp4", paths, [Fraction(0), Fraction(1, 10)], look, None)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_sound_of_a_window_is_moved_to_its_start(tmp_path):
    write_video(tmp_path / "a.mp4", 20)
    window = Window(Fraction(1, 2), Fraction(3, 2))
    times = [Fraction(k, 10) for k in range(5, 15)]
    paths = segments(tmp_path, greys(10), ())
    join_segments(tmp_path / "b.mp4", paths, times, TEN, CopiedSound(tmp_path / "a.mp4", window))
    before, after = audio_of(tmp_path / "a.mp4"), audio_of(tmp_path / "b.mp4")
    first = before.index(after[0])
    assert before[first : first + len(after)] == after
    assert 1024 * len(after) / 44100 == pytest.approx(1.0, abs=0.03)
    with av.open(str(tmp_path / "b.mp4")) as container:
        heard = [packet for packet in container.demux(audio=0) if packet.size]
    assert 0 <= float(heard[0].pts * heard[0].time_base) < 0.03


def test_sound_that_mp4_does_not_take_becomes_aac_and_is_told(tmp_path):
    write_video(tmp_path / "a.avi", 10, codec="adpcm_ms")
    paths = segments(tmp_path, greys(10), ())
    times = [Fraction(k, 10) for k in range(10)]
    exchanged = join_segments(
        tmp_path / "b.mp4", paths, times, TEN, CopiedSound(tmp_path / "a.avi")
    )
    assert exchanged == ["adpcm_ms"]
    with av.open(str(tmp_path / "b.mp4")) as container:
        (stream,) = container.streams.audio
        assert stream.codec_context.name == "aac"
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples == pytest.approx(44100, abs=3000)


def test_samples_become_a_track(tmp_path):
    wave = np.sin(np.arange(22050) / 10, dtype=np.float32)
    paths = segments(tmp_path, greys(5), ())
    sound = SampledSound(np.stack([wave, wave]), 22050)
    join_segments(tmp_path / "a.mp4", paths, [Fraction(k, 10) for k in range(5)], TEN, sound)
    with av.open(str(tmp_path / "a.mp4")) as container:
        (stream,) = container.streams.audio
        assert (stream.rate, stream.channels) == (22050, 2)
        heard = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    assert np.corrcoef(heard[4000:20000], wave[4000:20000])[0, 1] > 0.95


def grown_by_copying(folder: str, frames: int) -> int:
    """Return by how many KiB reading and writing a video grew this process."""
    from pathlib import Path

    from pack.tests.support.alone import grown

    path = Path(folder) / f"{frames}.mp4"
    write_video(path, frames, side=256, audio=False)

    def copy() -> None:
        copied(path, path.with_name("copy.mp4"))

    return grown(copy) // 1024


@pytest.mark.slow
@pytest.mark.comfy
def test_the_memory_of_a_video_does_not_grow_with_its_length(tmp_path):
    short, long = (
        call_alone(grown_by_copying, folder=str(tmp_path), frames=frames) for frames in (80, 280)
    )
    # 200 frames of 256x256 would be 37 MiB in bytes alone.
    assert long < short + 20 * 1024
