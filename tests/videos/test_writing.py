"""Videos written: times, depth, sizes, colours, and the sound beside them."""

from __future__ import annotations

import io
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


def joined(folder, sound, count: int = 10) -> tuple[list[av.Packet], np.ndarray, int]:
    """Return the sound's packets, samples and rate once it lies beside `count` frames."""
    times = [Fraction(k, 10) for k in range(count)]
    join_segments(folder / "b.mp4", segments(folder, greys(count), ()), times, TEN, sound)
    with av.open(str(folder / "b.mp4")) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
    with av.open(str(folder / "b.mp4")) as container:
        samples = [frame.to_ndarray() for frame in container.decode(audio=0)]
        return packets, np.concatenate(samples, axis=1), container.streams.audio[0].rate


@pytest.mark.parametrize(
    ("rate", "made"), [(6000, 7350), (11024, 11025), (22254, 24000), (192000, 96000)]
)
def test_sound_of_a_rate_that_aac_does_not_know_is_resampled(tmp_path, rate, made):
    write_video(tmp_path / "a.avi", 10, codec="adpcm_ms", rate=rate)
    _, samples, found = joined(tmp_path, CopiedSound(tmp_path / "a.avi"))
    assert found == made
    assert samples.shape[1] / made == pytest.approx(1.0, abs=0.4 if rate < 8000 else 0.25)
    wave = np.sin(np.arange(rate) / 20, dtype=np.float32)
    _, samples, found = joined(tmp_path, SampledSound(wave[None], rate))
    assert found == made
    # The tone is as high as it was: so often it crosses zero in a second.
    middle = samples[0, made // 4 : 3 * made // 4]
    crossings = 2 * np.count_nonzero(np.diff(np.signbit(middle)))
    assert crossings == pytest.approx(rate / 20 / np.pi, rel=0.02)


@pytest.mark.parametrize(("channels", "made"), [(1, 1), (2, 2), (3, 2), (4, 2), (6, 6), (8, 2)])
def test_samples_of_more_channels_become_stereo(tmp_path, channels, made):
    wave = np.sin(np.arange(22050) / 10, dtype=np.float32) / 8
    _, samples, _ = joined(tmp_path, SampledSound(np.stack([wave] * channels), 22050))
    assert len(samples) == made
    assert np.corrcoef(samples[0, 4000:20000], wave[4000:20000])[0, 1] > 0.95


def test_samples_of_too_many_channels_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"'video' has 9 channels\. Give one of at most 8"):
        joined(tmp_path, SampledSound(np.zeros((9, 22050), np.float32), 22050))


def restamped(source, target, stamp) -> None:
    """Copy the sound of a video to a Matroska file, the time of packet k `stamp(k, time)`."""
    with av.open(str(source)) as read, av.open(str(target), "w") as container:
        pictures = container.add_stream_from_template(read.streams.video[0])
        sound = container.add_stream_from_template(read.streams.audio[0])
        number = 0
        for packet in read.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio":
                packet.pts = packet.dts = stamp(number, packet.dts)
                number += 1
            packet.stream = sound if packet.stream.type == "audio" else pictures
            container.mux(packet)


def seconds(packets) -> list[float]:
    return [float(packet.dts * packet.time_base) for packet in packets]


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_packets_of_one_time_all_stay_and_the_others_keep_theirs(tmp_path, name):
    write_video(tmp_path / "a.mp4", 10)
    # Every third has the time of the one before it.
    restamped(tmp_path / "a.mp4", tmp_path / "c.mkv", lambda k, time: time - 1024 * (k % 3 == 1))
    copied(tmp_path / "c.mkv", tmp_path / name)
    assert audio_of(tmp_path / name) == audio_of(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        whole = seconds(packet for packet in container.demux(audio=0) if packet.size)
    with av.open(str(tmp_path / name)) as container:
        found = seconds(packet for packet in container.demux(audio=0) if packet.size)
    shift = whole[0] - found[0]
    for k, (was, now) in enumerate(zip(whole, found, strict=True)):
        assert now + shift == pytest.approx(was - (k % 3 == 1) * 1024 / 44100, abs=0.002)


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
@pytest.mark.parametrize(("kind", "codec"), [("ts", "aac"), ("ts", "mp2"), ("vob", "pcm_dvd")])
def test_recordings_put_together_go_on_where_the_first_ended(tmp_path, name, kind, codec):
    write_video(tmp_path / f"a.{kind}", 30, codec=codec, rate=48000)
    whole = (tmp_path / f"a.{kind}").read_bytes()
    (tmp_path / f"c.{kind}").write_bytes(whole + whole)
    copied(tmp_path / f"c.{kind}", tmp_path / name)
    frames, times = frames_of(tmp_path / name)
    assert len(frames) == 60
    assert times == pytest.approx([k / 10 for k in range(60)], abs=0.03)
    with av.open(str(tmp_path / name)) as container:
        heard = seconds(packet for packet in container.demux(audio=0) if packet.size)
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(6.0, abs=0.2)
    assert max(np.diff(heard)) < 0.2


@pytest.mark.parametrize(("kind", "codec"), [("ts", "aac"), ("ts", "mp2"), ("vob", "pcm_dvd")])
def test_a_window_of_recordings_put_together_is_heard_once(tmp_path, kind, codec):
    write_video(tmp_path / f"a.{kind}", 30, codec=codec, rate=48000)
    whole = (tmp_path / f"a.{kind}").read_bytes()
    path = tmp_path / f"c.{kind}"
    path.write_bytes(whole + whole)
    begin = next(read_frames(path, 1))[1][0]
    window = Window(begin + Fraction(1, 2), begin + Fraction(3, 2))
    times = [time for _, own in read_frames(path, 8, window=window) for time in own]
    assert len(times) == 10
    join_segments(
        tmp_path / "b.mp4", segments(tmp_path, greys(10), ()), times, TEN, CopiedSound(path, window)
    )
    with av.open(str(tmp_path / "b.mp4")) as container:
        heard = seconds(packet for packet in container.demux(audio=0) if packet.size)
    assert heard == sorted(set(heard))
    assert heard[-1] - heard[0] == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("tick", [Fraction(1, 1000), Fraction(1, 90_000), Fraction(1, 48_000)])
def test_packets_of_one_time_are_apart_by_what_an_output_can_write(tick):
    from pack.videos.sound import _Track

    sample = Fraction(1, 48_000)
    container = av.open(io.BytesIO(), "w", format="mp4")
    track = _Track(container.add_stream("aac", rate=48_000, layout="mono"), sample)
    made = []
    for time in (0, 10, 10, 10, 20):
        made += track.copied(av.Packet(4), time, time, tick, Fraction(0))
    found = [packet.dts * packet.time_base / sample for packet in made]
    assert len(found) == 5
    assert min(np.diff(found)) >= 1


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
