"""The sound beside the pictures: packets of the source as they are, or samples made into AAC."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.container import OutputContainer

from .reading import WHOLE, Source, Window, open_video

ENCODER = "aac"
SAMPLES_AT_ONCE = 1024  # a packet's
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


class Sound(Protocol):
    """What is heard beside the pictures of an output."""

    def add_to(self, container: OutputContainer) -> list[str]:
        """Add the tracks; return the codecs among them that had to be exchanged for AAC."""
        ...

    def packets(self, first: Fraction) -> Iterator[av.Packet]:
        """Yield packets in order, moved so that the moment `first` of the source becomes 0."""
        ...

    def close(self) -> None:
        """Let go of the source."""
        ...


class CopiedSound:
    """The audio tracks of a video, packet by packet; AAC where the output takes no such codec."""

    def __init__(self, source: Source, window: Window = WHOLE):
        """Open the source.

        Args:
            source: The video.
            window: Packets that begin outside of it are left out.
        """
        self._source = open_video(source)
        self._window = window
        self._tracks: dict[int, av.AudioStream] = {}
        self._resamplers: dict[int, AudioResampler] = {}

    def add_to(self, container: OutputContainer) -> list[str]:
        """Add a track for each of the source's."""
        exchanged = []
        for stream in self._source.streams.audio:
            if stream.codec_context is None:  # a codec that FFmpeg does not know
                continue
            codec = stream.codec_context.codec.canonical_name
            if codec in container.supported_codecs:
                self._tracks[stream.index] = container.add_stream_from_template(stream)
                continue
            layout = LAYOUTS.get(stream.channels, "stereo")
            self._tracks[stream.index] = _aac_track(container, stream.rate, layout)
            self._resamplers[stream.index] = AudioResampler("fltp", layout, stream.rate)
            exchanged.append(codec)
        return exchanged

    def packets(self, first: Fraction) -> Iterator[av.Packet]:
        """Yield the packets of all tracks as the source has them in order."""
        chosen = [stream for stream in self._source.streams.audio if stream.index in self._tracks]
        if not chosen:
            return
        if self._window.start > 0:
            self._source.seek(int(self._window.start * av.time_base))
        for packet in self._source.demux(chosen):
            index = packet.stream.index
            if packet.dts is None or packet.time_base is None:  # the end of a track
                if index in self._resamplers:
                    yield from self._encoded(index, None, first)
                continue
            packet.pts = packet.dts if packet.pts is None else packet.pts
            time = packet.pts * packet.time_base
            if self._window.is_before(time) or self._window.is_after(time):
                continue
            if index in self._resamplers:
                yield from self._encoded(index, packet, first)
                continue
            shift = round(first / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self._tracks[index]
            yield packet

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _encoded(
        self, index: int, packet: av.Packet | None, first: Fraction
    ) -> Iterator[av.Packet]:
        """Yield what a packet, or the end of its track, becomes."""
        track, resampler = self._tracks[index], self._resamplers[index]
        for frame in packet.decode() if packet is not None else [None]:
            for piece in resampler.resample(frame):
                if piece.pts is not None and piece.time_base is not None:
                    piece.pts -= round(first / piece.time_base)
                yield from track.encode(piece)
        if packet is None:
            yield from track.encode(None)


class SampledSound:
    """Samples, as AAC."""

    def __init__(self, samples: np.ndarray, rate: int):
        """Keep the samples.

        Args:
            samples: `(channels, N)` float32.
            rate: Samples a second.
        """
        self._samples = samples
        self._rate = rate
        self._track: av.AudioStream | None = None

    def add_to(self, container: OutputContainer) -> list[str]:
        """Add the one track."""
        self._layout = LAYOUTS.get(len(self._samples), "stereo")
        self._track = _aac_track(container, self._rate, self._layout)
        return []

    def packets(self, first: Fraction) -> Iterator[av.Packet]:
        """Yield the packets; the samples begin at 0 whatever `first` is."""
        assert self._track is not None
        for start in range(0, self._samples.shape[1], SAMPLES_AT_ONCE):
            part = np.ascontiguousarray(self._samples[:, start : start + SAMPLES_AT_ONCE])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts = self._rate, start
            frame.time_base = Fraction(1, self._rate)
            yield from self._track.encode(frame)
        yield from self._track.encode(None)

    def close(self) -> None:
        """Nothing is open."""


class SoundBeside:
    """Muxes sound into an output as far as its pictures have come."""

    def __init__(self, container: OutputContainer, sound: Sound, first: Fraction):
        """Begin.

        Args:
            container: The output, whose tracks are all there.
            sound: Whose tracks were added to it.
            first: The moment of the source at which the output begins.
        """
        self._container = container
        self._packets = sound.packets(first)
        self._next = next(self._packets, None)

    def follow(self, time: Fraction | None) -> None:
        """Mux what is heard up to a moment of the output; None for all that is left."""
        while self._next is not None:
            packet = self._next
            if time is not None and packet_time(packet) > time:
                return
            self._container.mux(packet)
            self._next = next(self._packets, None)


def packet_time(packet: av.Packet) -> Fraction:
    """Return when a packet that a container will take is decoded, in seconds."""
    return Fraction(packet.dts or 0) * Fraction(packet.time_base or 0)


def _aac_track(container: OutputContainer, rate: int, layout: str) -> av.AudioStream:
    return container.add_stream(ENCODER, rate=rate, layout=layout)
