"""The sound beside the pictures: packets of the source as they are, or samples made into AAC."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.container import OutputContainer

from .reading import WHOLE, Source, Window, open_video
from .times import Onward

ENCODER = "aac"
# All that AAC knows (ISO/IEC 14496-3, table of sampling frequencies).
AAC_RATES = (
    7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000,
)  # fmt: skip
SAMPLES_AT_ONCE = 1024  # a packet's
LAYOUTS = {
    1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1",
}  # fmt: skip
KEPT_LAYOUTS = (1, 2, 6)  # by their channels; others become stereo


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


@dataclass
class _Track:
    """A track of an output that is made of one of the source's.

    Attributes:
        stream: The track.
        base: What times of packets that stay as they are become multiples of, in seconds, a sample's
            length: packets of one time are told apart by that much, which outputs can write.
        resampler: What makes other sound AAC's; None where packets stay as they are.
        onward: Its times.
        last: The time of its last packet that stayed as it was.
        is_over: Whether it has come to the end of the window; times that begin anew after that may
            seem to lie in it again.
    """

    stream: av.AudioStream
    base: Fraction
    resampler: AudioResampler | None = None
    onward: Onward = field(default_factory=Onward)
    last: int | None = None
    is_over: bool = False

    def copied(
        self, packet: av.Packet, pts: int, dts: int, time_base: Fraction, first: Fraction
    ) -> Iterator[av.Packet]:
        """Yield a packet of these times for the moment it has in an output that begins at `first`."""
        length = (packet.duration or 0) * time_base
        moved = self.onward.moved(dts * time_base, length)
        if moved is None:
            return
        made = round((moved - first) / self.base)
        self.last = made if self.last is None else max(made, self.last + 1)
        packet.dts, packet.pts = self.last, self.last + round((pts - dts) * time_base / self.base)
        packet.duration, packet.time_base = round(length / self.base), self.base
        packet.stream = self.stream
        yield packet

    def encoded(self, packet: av.Packet | None, first: Fraction) -> Iterator[av.Packet]:
        """Yield what a packet, or the end of the track, becomes as AAC."""
        assert self.resampler is not None
        for frame in packet.decode() if packet is not None else [None]:
            for piece in self.resampler.resample(frame):
                if piece.pts is not None and piece.time_base is not None:
                    length = Fraction(piece.samples, piece.sample_rate)
                    moved = self.onward.moved(piece.pts * piece.time_base, length)
                    if moved is None:
                        continue
                    piece.pts = round((moved - first) / piece.time_base)
                yield from self.stream.encode(piece)
        if packet is None:
            yield from self.stream.encode(None)


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
        self._tracks: dict[int, _Track] = {}

    def add_to(self, container: OutputContainer) -> list[str]:
        """Add a track for each of the source's."""
        exchanged = []
        for stream in self._source.streams.audio:
            # A codec that FFmpeg does not know, or a track in which nothing was ever heard.
            if stream.codec_context is None or not stream.rate:
                continue
            codec = stream.codec_context.codec.canonical_name
            if codec in container.supported_codecs:
                copied = container.add_stream_from_template(stream)
                self._tracks[stream.index] = _Track(copied, Fraction(1, stream.rate))
                continue
            made, resampler = _aac_track(container, stream.rate, stream.channels)
            self._tracks[stream.index] = _Track(made, Fraction(1, made.rate), resampler)
            exchanged.append(codec)
        return exchanged

    def packets(self, first: Fraction) -> Iterator[av.Packet]:
        """Yield the packets of all tracks as the source has them in order.

        A container takes only times that grow: packets of a damaged file that go back a little are
        left out, and what begins anew goes on where its track ended.
        """
        chosen = [stream for stream in self._source.streams.audio if stream.index in self._tracks]
        if not chosen:
            return
        if self._window.start > 0:
            self._source.seek(int(self._window.start * av.time_base))
        for packet in self._source.demux(chosen):
            track = self._tracks[packet.stream.index]
            if packet.dts is None or packet.time_base is None:  # the end of a track
                if track.resampler is not None:
                    yield from track.encoded(None, first)
                continue
            pts = packet.dts if packet.pts is None else packet.pts
            time = pts * packet.time_base
            track.is_over = track.is_over or self._window.is_after(time)
            if track.is_over or self._window.is_before(time):
                continue
            if track.resampler is not None:
                packet.pts = pts
                yield from track.encoded(packet, first)
            else:
                yield from track.copied(packet, pts, packet.dts, packet.time_base, first)

    def close(self) -> None:
        """Close the source."""
        self._source.close()


class SampledSound:
    """Samples, as AAC."""

    def __init__(self, samples: np.ndarray, rate: int):
        """Keep the samples.

        Args:
            samples: `(channels, N)` float32.
            rate: Samples a second.
        Raises:
            ValueError: There are more channels than a layout has.
        """
        channels = len(samples)
        if channels not in LAYOUTS:
            raise ValueError(
                f"the sound of 'video' has {channels} channels. Give one of at most"
                f" {max(LAYOUTS)}, or none."
            )
        self._samples = samples
        self._rate = rate
        self._track: av.AudioStream | None = None

    def add_to(self, container: OutputContainer) -> list[str]:
        """Add the one track."""
        made = _aac_track(container, self._rate, len(self._samples))
        self._track, self._resampler = made
        return []

    def packets(self, first: Fraction) -> Iterator[av.Packet]:
        """Yield the packets; the samples begin at 0 whatever `first` is."""
        assert self._track is not None
        channels, count = self._samples.shape
        layout = LAYOUTS[channels]
        for start in range(0, count, SAMPLES_AT_ONCE):
            part = self._samples[:, start : start + SAMPLES_AT_ONCE]
            # Side by side: PyAV miscounts the planes of eight channels one after the other.
            packed = np.ascontiguousarray(part.T).reshape(1, -1)  # (1, samples channels)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
            frame.sample_rate, frame.pts = self._rate, start
            frame.time_base = Fraction(1, self._rate)
            yield from self._encoded(frame)
        yield from self._encoded(None)
        yield from self._track.encode(None)

    def _encoded(self, frame: av.AudioFrame | None) -> Iterator[av.Packet]:
        assert self._track is not None
        for piece in self._resampler.resample(frame):
            yield from self._track.encode(piece)

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


def _aac_track(
    container: OutputContainer, rate: int, channels: int
) -> tuple[av.AudioStream, AudioResampler]:
    """Add a track of AAC; return it, and what makes sound of this rate its own."""
    layout = LAYOUTS[channels] if channels in KEPT_LAYOUTS else "stereo"
    rate = AAC_RATES[min(bisect_left(AAC_RATES, rate), len(AAC_RATES) - 1)]
    track = container.add_stream(ENCODER, rate=rate, layout=layout)
    return track, AudioResampler("fltp", layout, rate)
