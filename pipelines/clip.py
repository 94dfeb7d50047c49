"""A VIDEO as frames that come a few at a time, whatever it is kept in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import comfy.model_management
import numpy as np
import torch
from comfy_api.latest import InputImpl
from torch import Tensor

from ..images.color import is_grey
from ..images.conversion import check_image
from ..videos.reading import WHOLE, Look, Source, Window, read_frames, read_look
from ..videos.sound import CopiedSound, SampledSound, Sound

SURVEYED_AT_ONCE = 4
DEEP_BITS = 10
MICRO = 1_000_000
RATE_PARTS = 1000  # ComfyUI keeps frame rates to a thousandth


@dataclass(frozen=True)
class Clip:
    """Where frames and sound come from.

    Attributes:
        frames: Takes how many frames to give at once and how many to pass over; yields `(N, H, W, C)`
            of 8 or 16 bits or floats in [0, 1], and each frame's time in seconds.
        look: How they are shown.
        sound: Opens what is heard with them; gives None where there is nothing.
    """

    frames: Callable[[int, int], Iterator[tuple[np.ndarray, list[Fraction]]]]
    look: Look
    sound: Callable[[], Sound | None]


@dataclass(frozen=True)
class Survey:
    """What has to be known of all frames before the first is restored.

    Attributes:
        times: Of each frame, in seconds.
        size: Height and width.
        is_grey: Whether every frame is black and white.
        digest: SHA-256 of all pixels, times and the frame rate.
    """

    times: list[Fraction]
    size: tuple[int, int]
    is_grey: bool
    digest: str


def open_clip(video: Any) -> Clip:
    """Return the frames and the sound of a VIDEO.

    Args:
        video: VIDEO. One from a file is read from there, also the part that Trim Video leaves; any
            other is in memory anyway.
    Raises:
        ValueError: If it has no pictures or is damaged.
    """
    if not isinstance(video, InputImpl.VideoFromFile):
        return _clip_in_memory(video)
    source: Source = video.get_stream_source()
    look = read_look(source)
    window = _window(video)
    if window is None:
        return _clip_in_memory(video)

    def frames(at_once: int, skip: int) -> Iterator[tuple[np.ndarray, list[Fraction]]]:
        return read_frames(source, at_once, window=window, skip=skip)

    return Clip(frames, look, lambda: CopiedSound(source, window))


def survey_clip(clip: Clip) -> Survey:
    """Return what is known of a clip once each frame was seen; the damaged are told here.

    Raises:
        ValueError: If frames cannot be decoded, or change their size.
    """
    digest = hashlib.sha256(str(clip.look).encode())
    times: list[Fraction] = []
    size, grey = (0, 0), True
    for frames, own_times in clip.frames(SURVEYED_AT_ONCE, 0):
        comfy.model_management.throw_exception_if_processing_interrupted()
        size = (frames.shape[1], frames.shape[2])
        grey = grey and bool(is_grey(as_image(frames)[..., :3].movedim(-1, 1)).all())
        times += own_times
        digest.update(frames.tobytes())
        digest.update(str(own_times).encode())
    return Survey(times, size, grey, digest.hexdigest())


def as_image(frames: np.ndarray) -> Tensor:
    """Return frames as an IMAGE, `(N, H, W, C)` float32 in [0, 1]."""
    if frames.dtype.kind == "f":
        return torch.from_numpy(frames).float()
    return torch.from_numpy(frames.astype(np.float32) / np.iinfo(frames.dtype).max)


def _window(video: Any) -> Window | None:
    """Return which part of its file a VIDEO is; None where that is unknown."""
    if hasattr(video, "get_active_trim_window"):
        window = video.get_active_trim_window()
        # Floats are not quite what was meant: 0.2 would leave out the frame at 1/5.
        start, duration = (Fraction(round(value * MICRO), MICRO) for value in window)
        return Window(start, start + duration if duration else None)
    # An older ComfyUI does not tell; the length does whether there is anything to tell.
    whole = InputImpl.VideoFromFile(video.get_stream_source())
    return WHOLE if video.get_duration() == whole.get_duration() else None


def _clip_in_memory(video: Any) -> Clip:
    components = video.get_components()
    images: Tensor = components.images
    check_image(images, "'video'")
    rate = Fraction(round(components.frame_rate * RATE_PARTS), RATE_PARTS)
    bits = video.get_bit_depth() if hasattr(video, "get_bit_depth") else 8
    look = Look(rate, 1 / rate, bits >= DEEP_BITS)

    def frames(at_once: int, skip: int) -> Iterator[tuple[np.ndarray, list[Fraction]]]:
        for first in range(skip, len(images), at_once):
            part = images[first : first + at_once]
            yield (
                part.cpu().float().numpy(),
                [(first + number) / rate for number in range(len(part))],
            )

    def sound() -> Sound | None:
        if not components.audio:
            return None
        heard = components.audio["sample_rate"] * len(images) / rate
        samples = components.audio["waveform"][0, :, : int(heard)].cpu().float().numpy()
        return SampledSound(samples, int(components.audio["sample_rate"]))

    return Clip(frames, look, sound)
