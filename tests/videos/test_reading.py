"""Videos read a few frames at a time, upright and in their depth."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest

from pack.tests.support.videos import write_video
from pack.videos.reading import Window, read_frames, read_look


def collected(source, at_once: int = 3, **options) -> tuple[np.ndarray, list[Fraction]]:
    parts = list(read_frames(source, at_once, **options))
    times = [time for _, own in parts for time in own]
    return np.concatenate([frames for frames, _ in parts]), times


def test_frames_come_a_few_at_a_time(tmp_path):
    write_video(tmp_path / "a.mp4", 5, audio=False)
    parts = [(len(frames), len(times)) for frames, times in read_frames(tmp_path / "a.mp4", 2)]
    assert parts == [(2, 2), (2, 2), (1, 1)]


def test_frames_may_be_passed_over(tmp_path):
    write_video(tmp_path / "a.mp4", 7, audio=False)
    whole, times = collected(tmp_path / "a.mp4")
    rest, later = collected(tmp_path / "a.mp4", skip=4)
    assert np.array_equal(rest, whole[4:])
    assert later == times[4:]


def test_a_window_has_the_frames_that_begin_in_it(tmp_path):
    write_video(tmp_path / "a.mp4", 10, audio=False)
    whole, times = collected(tmp_path / "a.mp4")
    part, own = collected(tmp_path / "a.mp4", window=Window(Fraction(3, 10), Fraction(7, 10)))
    assert own == times[3:7]
    assert np.array_equal(part, whole[3:7])


def test_a_file_in_memory_is_read_as_often_as_wanted(tmp_path):
    write_video(tmp_path / "a.mp4", 4)
    source = io.BytesIO((tmp_path / "a.mp4").read_bytes())
    source.seek(7)
    first, second = read_frames(source, 1), read_frames(source, 1)
    for (one, _), (other, _) in zip(first, second, strict=True):
        assert np.array_equal(one, other)
    assert source.tell() == 7


@pytest.mark.parametrize("turned", [90, 180, -90])
def test_frames_come_upright(tmp_path, turned):
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32] = 255
    write_video(
        tmp_path / "a.mp4", 1, audio=False, width=64, turned=turned, pictures=[picture],
        pixel_aspect=Fraction(4, 3),
    )  # fmt: skip
    (seen,), _ = collected(tmp_path / "a.mp4")
    expected = np.rot90(picture, turned // 90 % 4)
    assert seen.shape == expected.shape
    assert np.abs(seen.astype(int) - expected).mean() < 4
    look = read_look(tmp_path / "a.mp4")
    assert look.pixel_aspect == (Fraction(4, 3) if turned == 180 else Fraction(3, 4))


def test_ten_bits_come_as_sixteen_with_what_is_between_levels_of_eight(tmp_path):
    ramp = np.linspace(20_000, 24_000, 256).astype(np.uint16)
    picture = np.broadcast_to(ramp[None, :, None], (32, 256, 3)).copy()
    write_video(
        tmp_path / "a.mp4", 1, audio=False, width=256, pictures=[picture], pix_fmt="yuv420p10le"
    )
    (seen,), _ = collected(tmp_path / "a.mp4")
    assert seen.dtype == np.uint16
    assert read_look(tmp_path / "a.mp4").is_deep
    assert len(np.unique(seen[16, :, 1] >> 6)) > 2.5 * len(np.unique(picture[0, :, 1] >> 8))
    assert np.abs(seen[..., 1].astype(int) - picture[..., 1]).max() < 3 << 6


def test_large_frames_that_state_no_colours_are_taken_as_players_do(tmp_path):
    """Red by BT.709 weighs less than by BT.601, so the same signal is shown brighter."""
    red = np.zeros((578, 64, 3), np.uint8)
    red[..., 0] = 180
    write_video(tmp_path / "large.mp4", 1, 578, audio=False, width=64, pictures=[red])
    write_video(tmp_path / "small.mp4", 1, 64, audio=False, pictures=[red[:64]])
    (large,), _ = collected(tmp_path / "large.mp4")
    (small,), _ = collected(tmp_path / "small.mp4")
    assert np.abs(small[..., 0].astype(int) - 180).max() < 5
    assert large[..., 0].min() > 185


@pytest.mark.parametrize("source", ["sound", "text", "cut", "nothing"])
def test_what_is_no_video_is_told(tmp_path, source):
    import av

    path = tmp_path / "a.mp4"
    write_video(path, 3)
    said = "no video that FFmpeg can read"
    if source == "sound":
        said = "no video track"
        with av.open(str(path)) as whole, av.open(str(tmp_path / "b.mp4"), "w") as container:
            track = container.add_stream_from_template(whole.streams.audio[0])
            for packet in whole.demux(audio=0):
                if packet.dts is not None:
                    packet.stream = track
                    container.mux(packet)
        path = tmp_path / "b.mp4"
    elif source == "text":
        path.write_bytes(b"no video")
    elif source == "cut":
        path.write_bytes(path.read_bytes()[:500])
    else:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=said):
        next(read_frames(path, 1))


@pytest.mark.parametrize("at_once", [8, 2, 1])
def test_frames_that_change_their_size_are_told(tmp_path, at_once):
    write_video(tmp_path / "a.h264", 2, 32, audio=False)
    write_video(tmp_path / "b.h264", 2, 64, audio=False)
    both = tmp_path / "c.h264"
    both.write_bytes((tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes())
    with pytest.raises(ValueError, match="frame 3 is 64x64 and those before it 32x32"):
        collected(both, at_once)


def test_damage_in_the_midst_is_told_and_where(tmp_path):
    generator = np.random.default_rng(0)
    pictures = list(generator.integers(0, 255, (12, 64, 64, 3), dtype=np.uint8))
    path = tmp_path / "a.mp4"
    write_video(path, 12, 64, audio=False, pictures=pictures)
    content = bytearray(path.read_bytes())
    middle = slice(4 * len(content) // 10, 5 * len(content) // 10)
    content[middle] = bytes(len(content[middle]))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged after \d+ frames\. Repair it"):
        collected(path)
