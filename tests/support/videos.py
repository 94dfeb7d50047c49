"""Small videos, and what is in one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 10


def write_video(path: Path, frames: int, side: int = 32, audio: bool = True) -> None:
    """Write a video whose frame k is grey 20 k, ten a second, with a tone."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE)
        video.width, video.height, video.pix_fmt = side, side, "yuv420p"
        video.options = {"crf": "5"}
        sound = container.add_stream("aac", rate=44100, layout="mono") if audio else None
        for number in range(frames):
            picture = np.full((side, side, 3), 20 * (number % 12), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if sound:
            samples = np.sin(np.arange(44100 * frames // RATE) / 20).astype(np.float32)
            tone = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            tone.sample_rate, tone.pts, tone.time_base = 44100, 0, Fraction(1, 44100)
            container.mux(sound.encode(tone))
            container.mux(sound.encode(None))


def frames_of(path: Path) -> tuple[np.ndarray, list[float]]:
    """Return a video's frames, `(N, H, W, 3)` bytes, and their times in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        times = [float(frame.time) for frame in frames]
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), times


def audio_of(path: Path) -> list[bytes]:
    """Return the packets of a video's audio."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]
