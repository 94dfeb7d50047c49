"""Small videos, and what is in one."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 10


def write_video(
    path: Path,
    frames: int,
    side: int = 32,
    audio: bool = True,
    *,
    codec: str = "aac",
    rate: int = 44100,
    pix_fmt: str = "yuv420p",
    times: Sequence[float] | None = None,
    turned: int = 0,
    pixel_aspect: Fraction = Fraction(1),
    width: int | None = None,
    options: dict[str, str] | None = None,
    pictures: Sequence[np.ndarray] | None = None,
) -> None:
    """Write a video whose frame k is grey 20 k, ten a second, with a tone.

    Args:
        path: The file.
        frames: How many.
        side: Height, and width where that is not given.
        audio: Whether there is a tone.
        codec: Of the tone.
        rate: Its samples a second.
        pix_fmt: Of the frames.
        times: Of each frame in seconds, multiples of a hundredth.
        turned: Degrees by which players turn it, counter-clockwise.
        pixel_aspect: Width of a pixel over its height.
        width: Another than the height.
        options: Of the picture encoder.
        pictures: Other frames, `(H, W, 3)` of 8 or 16 bits.
    """
    width = width or side
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE)
        video.width, video.height, video.pix_fmt = width, side, pix_fmt
        video.options = options or {"crf": "5"}
        video.codec_context.sample_aspect_ratio = pixel_aspect
        if times is not None:
            video.codec_context.time_base = Fraction(1, 100)
            video.codec_context.max_b_frames = 0
        if turned:
            video.set_display_rotation(turned)
        sound = container.add_stream(codec, rate=rate, layout="mono") if audio else None
        for number in range(frames):
            picture = np.full((side, width, 3), 20 * (number % 12), np.uint8)
            if pictures is not None:
                picture = pictures[number]
            kind = "rgb24" if picture.dtype == np.uint8 else "rgb48le"
            frame = av.VideoFrame.from_ndarray(picture, format=kind)
            if times is not None:
                frame.pts, frame.time_base = round(100 * times[number]), Fraction(1, 100)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound:
            samples = np.sin(np.arange(rate * frames // RATE) / 20).astype(np.float32)
            if codec == "aac":
                tone = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            else:
                whole = (20_000 * samples[None]).astype(np.int16)
                tone = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
            tone.sample_rate, tone.pts, tone.time_base = rate, 0, Fraction(1, rate)
            container.mux(sound.encode(tone))
            container.mux(sound.encode(None))


def frames_of(path: Any) -> tuple[np.ndarray, list[float]]:
    """Return a video's frames, `(N, H, W, 3)` bytes, and their times in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        times = [float(frame.time) for frame in frames]
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), times


def audio_of(path: Any) -> list[bytes]:
    """Return the packets of a video's audio."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]
