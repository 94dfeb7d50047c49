"""Reads a video a few frames at a time, and writes one beside its source's untouched audio."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType

from .pictures import to_bytes

LOWEST_QUALITY_CRF = 40.0  # of quality 1; quality 100 is CRF 0
FINEST_TIME_BASE = Fraction(1, 90_000)  # where a file states none


def video_suffix(path: str) -> str:
    """Return the container of a video's result: MP4 for its family, else Matroska, for any audio."""
    return ".mp4" if path.lower().endswith((".mp4", ".m4v", ".mov")) else ".mkv"


def read_frames(path: Path, at_once: int) -> Iterator[tuple[np.ndarray, list[Fraction]]]:
    """Yield the frames of a video's first picture track in order, upright.

    Args:
        path: The video.
        at_once: How many frames at most are in memory.
    Yields:
        `(N, H, W, 3)` bytes, and each frame's time in seconds.
    Raises:
        ValueError: It has no pictures.
    """
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("This file has no video track.")
        stream = container.streams.video[0]
        step = 1 / Fraction(stream.average_rate or 25)
        frames: list[np.ndarray] = []
        times: list[Fraction] = []
        number = 0
        for frame in container.decode(stream):
            time = number * step if frame.pts is None else frame.pts * Fraction(frame.time_base)
            turns = round(frame.rotation / 90) % 4
            frames.append(np.rot90(frame.to_ndarray(format="rgb24"), turns))
            times.append(time)
            number += 1
            if len(frames) == at_once:
                yield np.stack(frames), times
                frames, times = [], []
        if frames:
            yield np.stack(frames), times
        if not number:
            raise ValueError("This video has no frame that can be decoded.")


class VideoWriter:
    """Writes frames as H.264 and copies the audio of the source."""

    def __init__(self, path: Path, source: Path, quality: int):
        """Open the result.

        Args:
            path: Where to, with the suffix of `video_suffix`.
            source: Where frame rate, times and audio come from.
            quality: 1 to 100.
        """
        self._close = contextlib.ExitStack()
        self._source = self._close.enter_context(av.open(str(source)))
        self._container = self._close.enter_context(av.open(str(path), "w"))
        self._crf = str(LOWEST_QUALITY_CRF * (100 - quality) / 99)
        self._video: av.VideoStream | None = None
        self._time_base = Fraction(self._source.streams.video[0].time_base or FINEST_TIME_BASE)
        audio = self._source.streams.audio
        self._audio = {
            stream.index: self._container.add_stream_from_template(stream) for stream in audio
        }
        self._first: Fraction | None = None
        self._last_pts = -1

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
        if self._video is None:
            self._video = self._add_track(*images.shape[1:3])
        for image, time in zip(images, times, strict=True):
            if self._first is None:
                self._first = time
            frame = av.VideoFrame.from_ndarray(to_bytes(image[..., :3]), format="rgb24")
            # Times may stand still in a damaged file; a container takes only growing ones.
            pts = max(round((time - self._first) / self._time_base), self._last_pts + 1)
            frame.pts = self._last_pts = pts
            frame.time_base = self._time_base
            frame.pict_type = PictureType.NONE
            self._container.mux(self._video.encode(frame))

    def finish(self) -> None:
        """Write what is still to be encoded, the audio, and the container's end."""
        if self._video is not None:
            self._container.mux(self._video.encode(None))
        self._copy_audio()
        self._close.close()

    def abandon(self) -> None:
        """Let go of the files, whose content does not count."""
        self._close.close()

    def _add_track(self, height: int, width: int) -> av.VideoStream:
        source = self._source.streams.video[0]
        track = self._container.add_stream("libx264", rate=Fraction(source.average_rate or 25))
        track.height, track.width = height, width
        # Half the colours' resolution needs even sizes.
        track.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        track.options = {"crf": self._crf}
        track.codec_context.time_base = self._time_base
        track.codec_context.max_b_frames = 0  # so that frames keep their times
        return track

    def _copy_audio(self) -> None:
        if not self._audio:
            return
        first = self._first or Fraction(0)
        for packet in self._source.demux(self._source.streams.audio):
            if packet.dts is None or packet.time_base is None:
                continue  # the end of a track
            shift = round(first / packet.time_base)
            packet.pts = packet.dts if packet.pts is None else packet.pts
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self._audio[packet.stream.index]
            self._container.mux(packet)
