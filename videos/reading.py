"""Reads a video a few frames at a time, upright, from a file or from memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.error import InvalidDataError
from av.video.reformatter import Colorspace

Source = str | os.PathLike[str] | io.BytesIO

FINEST_TIME_BASE = Fraction(1, 90_000)  # where a file states none
USUAL_RATE = 25
UNSTATED_COLORS = 2  # AVCOL_SPC_UNSPECIFIED
# Larger pictures that state no colours are shown as BT.709 by players, smaller ones as BT.601.
LARGEST_BT601 = (1279, 576)


@dataclass(frozen=True)
class Window:
    """The part of a video that is read.

    Attributes:
        start: Its first moment in seconds; earlier frames are left out.
        end: The moment before which it ends; None for the video's end.
    """

    start: Fraction = Fraction(0)
    end: Fraction | None = None

    def is_before(self, time: Fraction) -> bool:
        """Return whether a moment comes before the window; none does where that has no start."""
        return self.start > 0 and time < self.start

    def is_after(self, time: Fraction) -> bool:
        """Return whether a moment comes after the window."""
        return self.end is not None and time >= self.end


WHOLE = Window()


@dataclass(frozen=True)
class Look:
    """How a video shows its frames.

    Attributes:
        rate: Frames a second, on average.
        time_base: What the times of frames are multiples of, in seconds.
        is_deep: Whether a colour has more than 8 bits.
        pixel_aspect: Width of a pixel over its height, in the upright picture.
    """

    rate: Fraction
    time_base: Fraction = FINEST_TIME_BASE
    is_deep: bool = False
    pixel_aspect: Fraction = Fraction(1)


def open_video(source: Source) -> InputContainer:
    """Return an opened video; several of one source may be read at once.

    Raises:
        ValueError: It is no video, or has no pictures.
    """
    file = io.BytesIO(source.getvalue()) if isinstance(source, io.BytesIO) else os.fspath(source)
    try:
        container = av.open(file, mode="r")
    except InvalidDataError as error:
        raise ValueError(
            "this file is no video that FFmpeg can read, or it is damaged. Give another, or convert"
            " it to MP4 first."
        ) from error
    if not container.streams.video:
        container.close()
        raise ValueError("this file has no video track. Give one that has pictures.")
    return container


def read_look(source: Source) -> Look:
    """Return how a video shows its frames.

    Raises:
        ValueError: It has no frame that can be decoded.
    """
    with open_video(source) as container:
        stream = container.streams.video[0]
        first = next(_decoded(container), None)
        if first is None:
            raise ValueError("this video has no frame that can be decoded.")
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        return Look(
            rate=Fraction(stream.average_rate or USUAL_RATE),
            time_base=Fraction(stream.time_base or FINEST_TIME_BASE),
            is_deep=any(component.bits > 8 for component in first.format.components),
            pixel_aspect=1 / aspect if _turns(first) % 2 else aspect,
        )


def read_frames(
    source: Source, at_once: int, *, window: Window = WHOLE, skip: int = 0
) -> Iterator[tuple[np.ndarray, list[Fraction]]]:
    """Yield the frames of a video's first picture track in order, upright, without transparency.

    Args:
        source: The video.
        at_once: How many frames at most are in memory.
        window: Which part.
        skip: How many frames of that part are passed over.
    Yields:
        `(N, H, W, 3)`, 8 bits or, where the video has more, 16, and each frame's time in seconds.
    Raises:
        ValueError: It has no pictures, its frames change their size, or one cannot be decoded.
    """
    with open_video(source) as container:
        stream = container.streams.video[0]
        step = 1 / Fraction(stream.average_rate or USUAL_RATE)
        if window.start > 0:
            container.seek(
                int(window.start / (stream.time_base or FINEST_TIME_BASE)), stream=stream
            )
        frames: list[np.ndarray] = []
        times: list[Fraction] = []
        size: tuple[int, ...] | None = None
        found = 0
        time = -step
        for frame in _decoded(container):
            time += step  # where it states none
            if frame.pts is not None and frame.time_base is not None:
                time = frame.pts * frame.time_base
            if window.is_before(time):
                continue
            if window.is_after(time):
                break
            found += 1
            if found <= skip:
                continue
            pixels = _upright(frame)
            size = size or pixels.shape
            if pixels.shape != size:
                raise ValueError(
                    f"frame {found} is {pixels.shape[1]}x{pixels.shape[0]} and those before it"
                    f" {size[1]}x{size[0]}. Cut the video there."
                )
            frames.append(pixels)
            times.append(time)
            if len(frames) == at_once:
                yield np.stack(frames), times
                frames, times = [], []
        if frames:
            yield np.stack(frames), times
        if not found:
            raise ValueError("this video has no frame that can be decoded.")


def _decoded(container: InputContainer) -> Iterator[av.VideoFrame]:
    number = 0
    try:
        for frame in container.decode(container.streams.video[0]):
            number += 1
            yield frame
    except InvalidDataError as error:
        raise ValueError(
            f"the video is damaged after {number} frames. Repair it, for example by"
            " 'ffmpeg -i damaged.mp4 whole.mp4', or cut off what follows."
        ) from error


def _turns(frame: av.VideoFrame) -> int:
    return round(frame.rotation / 90) % 4


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """Return a frame as it is to be seen, `(H, W, 3)`, 8 or 16 bits."""
    is_deep = any(component.bits > 8 for component in frame.format.components)
    stated: int = frame.colorspace
    width, height = LARGEST_BT601
    if stated == UNSTATED_COLORS and (frame.width > width or frame.height > height):
        stated = Colorspace.ITU709
    colored = frame.reformat(format="rgb48le" if is_deep else "rgb24", src_colorspace=stated)
    return np.rot90(colored.to_ndarray(), _turns(frame))
