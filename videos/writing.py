"""Writes frames as H.264 with their times, and sound beside them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import Colorspace

from .reading import Look, Source, open_video, read_look
from .sound import CopiedSound, Sound, SoundBeside, packet_time
from .times import Onward

LOWEST_QUALITY_CRF = 40.0  # of quality 1; quality 100 is CRF 0
# Frames that x264 holds to plan its bits; its own 40 take 120 MiB at 1280x720 and save nothing.
LOOKAHEAD_FRAMES = 10
BT709 = 1  # primaries, transfer and matrix have the same number
LIMITED_RANGE = 1


def video_suffix(path: str) -> str:
    """Return the container of a video's result: MP4 for its family, else Matroska, for any audio."""
    return ".mp4" if path.lower().endswith((".mp4", ".m4v", ".mov")) else ".mkv"


def crf_of_quality(quality: int) -> float:
    """Return x264's constant rate factor for a quality of 1 to 100."""
    return LOWEST_QUALITY_CRF * (100 - quality) / 99


class FrameEncoder:
    """Makes H.264 of frames: 10 bits where their source has more than 8, BT.709, limited range."""

    def __init__(
        self, container: OutputContainer, size: tuple[int, int], look: Look, crf: float
    ) -> None:
        """Add a picture track to a container.

        Args:
            container: The output.
            size: Height and width of the frames.
            look: How they are shown.
            crf: x264's constant rate factor, 0 to 51.
        """
        height, width = size
        self._is_deep = look.is_deep
        self.track = container.add_stream("libx264", rate=look.rate)
        self.track.height, self.track.width = height, width
        # Half the colours' resolution needs even sizes.
        kind = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        self.track.pix_fmt = f"{kind}10le" if look.is_deep else kind
        self.track.options = {"crf": str(crf), "rc-lookahead": str(LOOKAHEAD_FRAMES)}
        context = self.track.codec_context
        context.time_base = look.time_base
        context.max_b_frames = 0  # so that frames keep their times
        context.sample_aspect_ratio = look.pixel_aspect
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED_RANGE
        self._time_base = look.time_base

    def encode(self, image: np.ndarray, pts: int) -> list[av.Packet]:
        """Return what is ready once a frame is in.

        Args:
            image: `(H, W, C)`, C 3 or more, floats in [0, 1]; transparency is left out.
            pts: Its time in the look's time base, more than that of the frame before.
        """
        levels = image[..., :3].clip(0, 1)
        if self._is_deep:
            pixels = np.rint(65535 * levels).astype(np.uint16)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le")
        else:
            pixels = np.rint(255 * levels).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format=self.track.pix_fmt, dst_colorspace=Colorspace.ITU709)
        frame.pts, frame.time_base = pts, self._time_base
        frame.pict_type = PictureType.NONE
        return self.track.encode(frame)

    def finish(self) -> list[av.Packet]:
        """Return what is still to come."""
        return self.track.encode(None)


class Clock:
    """Turns times of a source into those of an output, which begins at 0 and always goes on."""

    def __init__(self, look: Look):
        """Begin; the output's times are multiples of the look's time base."""
        self._base = look.time_base
        self._frame = 1 / look.rate
        self._onward = Onward()
        self._first: Fraction | None = None
        self._last = -1

    def pts(self, time: Fraction) -> int:
        """Return the output's time of the next frame.

        Times of a damaged file may stand still or go back; a container takes only growing ones.
        """
        if self._first is None:
            self._first = time
        moved = self._onward.moved(time, self._frame)
        if moved is None:  # no frame is left out
            self._last += 1
        else:
            self._last = max(round((moved - self._first) / self._base), self._last + 1)
        return self._last


class VideoWriter:
    """Writes frames beside the untouched audio of their source."""

    def __init__(self, path: Path, source: Source, crf: float):
        """Open the result.

        Args:
            path: Where to, with the suffix of `video_suffix`.
            source: Where frame rate, times and audio come from.
            crf: See `FrameEncoder`.
        """
        self._close = contextlib.ExitStack()
        self._look = read_look(source)
        self._container = self._close.enter_context(av.open(str(path), "w"))
        self._sound = CopiedSound(source)
        self._close.callback(self._sound.close)
        self._crf = crf
        self._clock = Clock(self._look)
        self._encoder: FrameEncoder | None = None
        self._beside: SoundBeside | None = None

    def add(self, images: np.ndarray, times: list[Fraction]) -> None:
        """Write frames.

        Args:
            images: `(N, H, W, C)` in [0, 1]; transparency is left out.
            times: Of each frame, in seconds.
        Raises:
            ValueError: The workflow made another number of frames of these.
        """
        if len(images) != len(times):
            raise ValueError(
                f"The workflow made {len(images)} of {len(times)} frames, so they cannot be put"
                " back into the video."
            )
        for image, time in zip(images, times, strict=True):
            if self._encoder is None:
                self._encoder = FrameEncoder(
                    self._container, image.shape[:2], self._look, self._crf
                )
                self._sound.add_to(self._container)
            packets = self._encoder.encode(image, self._clock.pts(time))
            if self._beside is None:
                self._beside = SoundBeside(self._container, self._sound, time)
            self._mux(packets)

    def finish(self) -> None:
        """Write what is still to be encoded, the rest of the audio, and the container's end."""
        if self._encoder is not None:
            self._mux(self._encoder.finish())
        if self._beside is not None:
            self._beside.follow(None)
        self._close.close()

    def abandon(self) -> None:
        """Let go of the files, whose content does not count."""
        self._close.close()

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            if self._beside is not None:
                self._beside.follow(packet_time(packet))
            self._container.mux(packet)


class SegmentWriter:
    """Writes frames as pictures alone, numbered by their place, for `join_segments`."""

    def __init__(self, path: Path, look: Look, crf: float):
        """Open the segment.

        Args:
            path: An MP4 file.
            look: See `FrameEncoder`.
            crf: See there.
        """
        self._container = av.open(os.fspath(path), "w", format="mp4")
        self._look = replace(look, time_base=1 / look.rate)
        self._crf = crf
        self._encoder: FrameEncoder | None = None
        self.frames = 0

    def add(self, images: np.ndarray) -> None:
        """Write frames, `(N, H, W, C)` floats in [0, 1]."""
        for image in images:
            if self._encoder is None:
                self._encoder = FrameEncoder(
                    self._container, image.shape[:2], self._look, self._crf
                )
            self._container.mux(self._encoder.encode(image, self.frames))
            self.frames += 1

    def finish(self) -> None:
        """Write what is still to be encoded and the container's end."""
        with self._container:
            if self._encoder is not None:
                self._container.mux(self._encoder.finish())


def join_segments(
    path: Path,
    segments: Sequence[Path],
    times: Sequence[Fraction],
    look: Look,
    sound: Sound | None,
) -> list[str]:
    """Write the pictures of segments one after the other, with their times, beside a sound.

    Nothing is encoded again.

    Args:
        path: An MP4 file.
        segments: Of `SegmentWriter`, all of one look, size and rate factor.
        times: Of each frame of all of them, in seconds.
        look: How the frames are shown.
        sound: What is heard; closed in the end.
    Returns:
        The audio codecs that MP4 does not take and that became AAC.
    """
    clock = Clock(look)
    stamps = [clock.pts(time) for time in times]
    usual = max(1, round(1 / look.rate / look.time_base))
    ends = [*stamps[1:], stamps[-1] + usual]
    ticks = str(look.time_base.denominator)
    options = {"movflags": "faststart", "video_track_timescale": ticks}
    with contextlib.ExitStack() as stack:
        if sound is not None:
            stack.callback(sound.close)
        first = stack.enter_context(av.open(os.fspath(segments[0])))
        container = stack.enter_context(
            av.open(os.fspath(path), "w", format="mp4", options=options)
        )
        # Not opaque, an older PyAV would open an encoder of its own for it.
        track = container.add_stream_from_template(first.streams.video[0], opaque=True)
        exchanged = sound.add_to(container) if sound is not None else []
        beside = SoundBeside(container, sound, times[0]) if sound is not None else None
        for packet, stamp, end in zip(_packets(segments), stamps, ends, strict=True):
            packet.stream = track
            packet.pts = packet.dts = stamp
            packet.duration, packet.time_base = end - stamp, look.time_base
            if beside is not None:
                beside.follow(stamp * look.time_base)
            container.mux(packet)
        if beside is not None:
            beside.follow(None)
    return exchanged


def _packets(segments: Sequence[Path]) -> Iterator[av.Packet]:
    for segment in segments:
        with open_video(segment) as container:
            yield from (packet for packet in container.demux(video=0) if packet.dts is not None)
