"""Videos restored whole: frames, times, sound, memory, interrupts and what goes on afterwards."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import comfy.model_management
import folder_paths
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl, Types
from torch import Tensor

from pack.pipelines import restore_video as module
from pack.pipelines.clip_motion import ClipMemory
from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.hypir import patch_hypir
from pack.pipelines.restore_diffbir import DiffBIRWeights, restore_with_diffbir
from pack.pipelines.restore_hypir import restore_with_hypir
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.pipelines.restore_video import (
    FrameRestorer,
    Frames,
    VideoSettings,
    choose_restorer,
    restore_video,
)
from pack.pipelines.steady_frames import Steadiness
from pack.tests.support.alone import call_alone
from pack.tests.support.tiny import picture
from pack.tests.support.videos import audio_of, frames_of, write_video

pytestmark = pytest.mark.comfy

PRESET = next(iter(DIFFBIR_PRESETS.values()))
PROMPT = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "a.mp4"}},
    "2": {"class_type": "RestorationVideo", "inputs": {"video": ["1", 0], "seed": 0}},
}


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def place(tmp_path) -> Iterator[Path]:
    """ComfyUI's temporary folder."""
    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    yield tmp_path / "temp"
    folder_paths.set_temp_directory(before)


@dataclass
class Negative:
    """A restorer that inverts frames, doubles them, and keeps what it was given."""

    calls: list[Frames] = field(default_factory=list)
    stops_at: int | None = None
    error: type[BaseException] = comfy.model_management.InterruptProcessingException

    def restore(self, frames: Frames) -> Tensor:
        if self.stops_at is not None and frames.share.first + len(frames.images) > self.stops_at:
            raise self.error
        self.calls.append(frames)
        return (1 - frames.images).repeat_interleave(2, 1).repeat_interleave(2, 2)

    def restorer(self, at_once: int = 1) -> FrameRestorer:
        return FrameRestorer(self.restore, 2, at_once)


def restored(path: Path, negative: Negative | None = None, **options: Any) -> Any:
    video = InputImpl.VideoFromFile(str(path))
    return restore_video((negative or Negative()).restorer(), video, **options)


def test_every_frame_comes_back_at_its_time_beside_the_untouched_sound(tmp_path, place):
    write_video(tmp_path / "a.mp4", 60)
    made = restored(tmp_path / "a.mp4", crf=5)
    before, times = frames_of(tmp_path / "a.mp4")
    after, new_times = frames_of(made.get_stream_source())
    assert after.shape == (60, 64, 64, 3)
    assert np.abs(after[:, ::2, ::2].astype(int) - (255 - before.astype(int))).max() <= 6
    assert new_times == times
    assert audio_of(made.get_stream_source()) == audio_of(tmp_path / "a.mp4")
    assert (
        made.get_frame_rate() == InputImpl.VideoFromFile(str(tmp_path / "a.mp4")).get_frame_rate()
    )
    assert [path.name for path in place.iterdir()] == [Path(made.get_stream_source()).name]


def test_save_video_copies_what_was_made(tmp_path):
    write_video(tmp_path / "a.mp4", 5)
    made = restored(tmp_path / "a.mp4")
    made.save_to(str(tmp_path / "saved.mp4"))
    for read in (frames_of, audio_of):
        one, other = read(made.get_stream_source()), read(tmp_path / "saved.mp4")
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_times_that_vary_stay(tmp_path):
    times = [0.0, 0.04, 0.1, 0.5, 0.52, 1.3]
    write_video(tmp_path / "a.mkv", 6, audio=False, times=times)
    made = restored(tmp_path / "a.mkv")
    assert frames_of(made.get_stream_source())[1] == pytest.approx(times, abs=0.0006)


def test_ten_bits_and_turned_frames_of_odd_size(tmp_path):
    picture = np.full((30, 48, 3), 9000, np.uint16)
    write_video(
        tmp_path / "a.mp4", 2, 30, audio=False, width=48, turned=90, pix_fmt="yuv420p10le",
        pictures=[picture, picture],
    )  # fmt: skip
    negative = Negative()
    made = restore_video(
        FrameRestorer(lambda frames: negative.restore(frames)[:, :-1, :-1], 2, 1),
        InputImpl.VideoFromFile(str(tmp_path / "a.mp4")),
    )
    assert negative.calls[0].images.shape[1:] == (48, 30, 3)
    with av.open(made.get_stream_source()) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == (95, 59)
        assert stream.format.name == "yuv444p10le"
        frame = next(container.decode(stream))
        assert frame.rotation == 0
        seen = frame.to_ndarray(format="rgb48le").astype(int)
    assert np.abs(seen - (65535 - 9000)).max() < 4 * 64


def test_one_frame_is_a_video(tmp_path):
    write_video(tmp_path / "a.mp4", 1, audio=False)
    assert frames_of(restored(tmp_path / "a.mp4").get_stream_source())[0].shape == (1, 64, 64, 3)


@pytest.mark.parametrize(("start", "duration"), [(0.5, 1.0), (0.2, 0.3), (0.7, 0.1)])
def test_the_part_that_trim_video_leaves_is_restored(tmp_path, start, duration):
    write_video(tmp_path / "a.mp4", 20)
    first, end = round(10 * start), round(10 * (start + duration))
    trimmed = InputImpl.VideoFromFile(str(tmp_path / "a.mp4")).as_trimmed(start, duration)
    negative = Negative()
    made = restore_video(negative.restorer(), trimmed)
    before, _ = frames_of(tmp_path / "a.mp4")
    seen = torch.cat([call.images for call in negative.calls])
    assert np.abs(255 * seen.numpy() - before[first:end]).max() <= 2
    assert len(frames_of(made.get_stream_source())[0]) == end - first
    assert made.get_duration() == pytest.approx(duration, abs=0.05)


def test_a_video_in_memory_is_taken_as_it_is(tmp_path):
    images = torch.rand(7, 16, 24, 3, generator=torch.Generator().manual_seed(0))
    audio = {"waveform": torch.zeros(1, 2, 44100), "sample_rate": 44100}
    components = Types.VideoComponents(images=images, audio=audio, frame_rate=Fraction(29.97))
    negative = Negative()
    made = restore_video(negative.restorer(), InputImpl.VideoFromComponents(components))
    assert torch.equal(torch.cat([call.images for call in negative.calls]), images)
    found = made.get_components()
    assert found.images.shape == (7, 32, 48, 3)
    assert float(found.frame_rate) == pytest.approx(29.97)
    with av.open(made.get_stream_source()) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples == pytest.approx(44100 * 7 / 29.97, abs=2048)


def test_a_file_in_memory_is_read_from_there(tmp_path):
    write_video(tmp_path / "a.mp4", 4)
    video = InputImpl.VideoFromFile(io.BytesIO((tmp_path / "a.mp4").read_bytes()))
    made = restore_video(Negative().restorer(), video)
    assert audio_of(made.get_stream_source()) == audio_of(tmp_path / "a.mp4")


def test_parts_are_whole_calls_and_share_what_is_kept_of_the_video(tmp_path):
    write_video(tmp_path / "a.mp4", 17, audio=False)
    negative = Negative()
    restore_video(negative.restorer(5), InputImpl.VideoFromFile(str(tmp_path / "a.mp4")))
    shares = [(c.share.first, c.share.count, c.share.total) for c in negative.calls]
    assert shares == [(0, 15, 17), (15, 2, 17)]
    first, second = negative.calls
    assert first.memory is second.memory


@pytest.mark.parametrize("tinted", [None, 3])
def test_a_video_is_black_and_white_as_a_whole_or_not_at_all(tmp_path, tinted):
    pictures = [np.full((32, 32, 3), 20 * k, np.uint8) for k in range(6)]
    if tinted is not None:
        pictures[tinted] = pictures[tinted] + np.array([40, 0, 0], np.uint8)
    write_video(tmp_path / "a.mp4", 6, audio=False, pictures=pictures)
    negative = Negative()
    restored(tmp_path / "a.mp4", negative)
    assert {call.keep_grey for call in negative.calls} == {tinted is None}
    restored(tmp_path / "a.mp4", coloured := Negative(), keep_grey=False)
    assert {call.keep_grey for call in coloured.calls} == {False}


@pytest.fixture
def _small_parts(monkeypatch):
    monkeypatch.setattr(module, "MOST_PART_FRAMES", 2)
    monkeypatch.setattr(module, "SEGMENT_FRAMES", 4)


def interrupted(path: Path, stops_at: int, **options: Any) -> Negative:
    negative = Negative(stops_at=stops_at)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        restored(path, negative, **options)
    return negative


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("stops_at", [0, 3, 4, 11])
def test_a_run_that_was_interrupted_goes_on_where_it_stopped(tmp_path, place, stops_at):
    write_video(tmp_path / "a.mp4", 13)
    known = {"prompt": PROMPT, "node": "2", "crf": 5}
    whole = Negative()
    uninterrupted, _ = frames_of(restored(tmp_path / "a.mp4", whole, **known).get_stream_source())
    first = interrupted(tmp_path / "a.mp4", stops_at, **known)
    second = Negative()
    made = restored(tmp_path / "a.mp4", second, **known)
    seen = [call.share.first for call in (*first.calls, *second.calls)]
    assert seen == [call.share.first for call in whole.calls]
    for one, other in zip((*first.calls, *second.calls), whole.calls, strict=True):
        assert torch.equal(one.images, other.images)
    frames, times = frames_of(made.get_stream_source())
    assert times == frames_of(tmp_path / "a.mp4")[1]
    assert np.abs(frames.astype(int) - uninterrupted).max() <= 4  # key frames elsewhere
    assert audio_of(made.get_stream_source()) == audio_of(tmp_path / "a.mp4")
    assert not [path for path in place.iterdir() if path.is_dir()]


def panned(tmp_path: Path, frames: int) -> Path:
    """Return a video of a picture that moves by a pixel from frame to frame."""
    whole = (255 * picture(16, 16 + frames)[0].numpy()).astype(np.uint8)
    path = tmp_path / "a.mp4"
    write_video(
        path, frames, 16, audio=False, pictures=[whole[:, k : k + 16] for k in range(frames)]
    )
    return path


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("system", ["resshift", "diffbir"])
def test_moving_noise_and_steadiness_go_on_after_an_interrupt(
    tmp_path, folded, weights, monkeypatch, system
):
    from pack.pipelines import restore_diffbir, stage_one

    for place in (restore_diffbir, stage_one):
        monkeypatch.setattr(place, "SHORT_EDGE_PX", 64)
    model, vae = folded
    networks = DiffBIRWeights(model, None, vae, None, None) if system == "resshift" else weights
    settings = VideoSettings(
        PRESET, steps=2, scale=1.0, batch_noise="moving with the picture",
        steadiness=Steadiness(0.5),
    )  # fmt: skip
    chosen = choose_restorer(networks, settings)
    made: list[Tensor] = []
    failing = [True]

    def restore(frames: Frames) -> Tensor:
        if failing and frames.share.first == 2:
            failing.clear()
            chosen.restore(frames)  # memory is written into before it fails
            raise comfy.model_management.InterruptProcessingException
        made.append(chosen.restore(frames))
        return made[-1]

    video = InputImpl.VideoFromFile(str(panned(tmp_path, 5)))
    known = {"prompt": PROMPT, "node": "2"}
    restorer = FrameRestorer(restore, chosen.scale, 1)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        restore_video(restorer, video, **known)
    restore_video(restorer, video, **known)
    parted = torch.cat(made)
    made.clear()
    monkeypatch.setattr(module, "MOST_PART_FRAMES", 16)
    restore_video(restorer, video)
    (whole,) = made
    assert torch.equal(parted, whole)


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("other", ["frames", "seed", "model", "crf", "unknown"])
def test_another_run_begins_anew(tmp_path, other):
    write_video(tmp_path / "a.mp4", 8, audio=False)
    changed = {**PROMPT, "2": {"class_type": "RestorationVideo", "inputs": {"seed": 1}}}
    prompt: Any = changed if other == "seed" else PROMPT
    if other == "model":
        prompt = {**PROMPT, "1": {"class_type": "LoadVideo", "inputs": {"file": "b.mp4"}}}
    if other == "crf":
        prompt = {**PROMPT, "2": {"class_type": "RestorationVideo", "inputs": {"crf": 7}}}
    known = {"prompt": None if other == "unknown" else PROMPT, "node": "2"}
    interrupted(tmp_path / "a.mp4", 5, **known)
    if other == "frames":
        write_video(tmp_path / "a.mp4", 9, audio=False)
    second = Negative()
    known["prompt"] = None if other == "unknown" else prompt
    restored(tmp_path / "a.mp4", second, **known)
    assert second.calls[0].share.first == 0


@pytest.mark.usefixtures("_small_parts")
def test_an_interrupt_of_an_unknown_run_leaves_nothing(tmp_path, place):
    write_video(tmp_path / "a.mp4", 8)
    interrupted(tmp_path / "a.mp4", 5)
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("_small_parts")
def test_memory_that_runs_out_is_told_as_it_is_and_what_was_made_stays(tmp_path):
    write_video(tmp_path / "a.mp4", 8)
    known = {"prompt": PROMPT, "node": "2"}
    with pytest.raises(torch.OutOfMemoryError):
        restored(tmp_path / "a.mp4", Negative(stops_at=5, error=torch.OutOfMemoryError), **known)
    second = Negative()
    restored(tmp_path / "a.mp4", second, **known)
    assert second.calls[0].share.first == 4


@pytest.mark.usefixtures("_small_parts")
def test_an_interrupt_of_comfyui_is_seen_between_parts(tmp_path):
    write_video(tmp_path / "a.mp4", 8)
    negative = Negative()

    def stop(frames: Frames) -> Tensor:
        comfy.model_management.interrupt_current_processing()
        return negative.restore(frames)

    video = InputImpl.VideoFromFile(str(tmp_path / "a.mp4"))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        restore_video(FrameRestorer(stop, 2, 1), video)
    assert len(negative.calls) == 1


@pytest.mark.parametrize("damage", ["cut", "text", "sound only"])
def test_a_damaged_file_is_told_before_anything_is_restored(tmp_path, place, damage):
    path = tmp_path / "a.mp4"
    write_video(path, 5)
    path.write_bytes(path.read_bytes()[:600] if damage == "cut" else b"text")
    if damage == "sound only":
        with av.open(str(path), "w") as container:
            track = container.add_stream("aac", rate=44100, layout="mono")
            container.mux(track.encode(None))
    with pytest.raises(ValueError, match=r"no video|no frame"):
        restored(path)
    assert list(place.iterdir()) == []


def test_a_video_without_frames_is_told():
    components = Types.VideoComponents(images=torch.zeros(0, 8, 8, 3), frame_rate=Fraction(10))
    with pytest.raises(ValueError, match="'video' is empty"):
        restore_video(Negative().restorer(), InputImpl.VideoFromComponents(components))


def frames_at(images: Tensor, first: int = 3) -> Frames:
    return Frames(images, module.Share(first, len(images), 20), True, ClipMemory())


def some_frames(side: int = 8) -> Tensor:
    return torch.rand(2, side, side, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("batch_noise", ["different per image", "same for all"])
def test_resshift_restores_a_part_as_it_would_the_whole(folded, batch_noise):
    model, vae = folded
    settings = VideoSettings(PRESET, seed=5, steps=2, randomness=0.5, batch_noise=batch_noise)
    images = some_frames()
    whole = restore_with_resshift(
        model, vae, images[[0, 0, 0, 0, 1]], seed=5, steps=2, randomness=0.5,
        batch_noise=batch_noise, color_fix="wavelet",
    )  # fmt: skip
    restorer = choose_restorer(DiffBIRWeights(model, None, vae, None, None), settings)
    assert torch.equal(restorer.restore(frames_at(images)), whole[3:])


def test_diffbir_restores_a_part_as_its_own_node(weights, monkeypatch):
    from pack.pipelines import restore_diffbir, stage_one

    for place in (restore_diffbir, stage_one):
        monkeypatch.setattr(place, "SHORT_EDGE_PX", 64)
    images = some_frames(16)
    settings = VideoSettings(PRESET, seed=5, steps=2, scale=1.0, prompt="a street", cfg=2.0)
    made = choose_restorer(weights, settings).restore(frames_at(images))
    expected = restore_with_diffbir(
        weights, images, preset=PRESET, seed=8, steps=2, scale=1.0, prompt="a street", cfg=2.0
    )
    assert torch.equal(made, expected)


def test_a_model_with_hypir_restores_as_its_own_node(tmp_path, monkeypatch):
    from pack.pipelines import restore_hypir
    from pack.tests.support.diffbir import projection_vae, tiny_clip
    from pack.tests.support.hypir import save_lora, small_sd2

    monkeypatch.setattr(restore_hypir, "SHORT_EDGE_PX", 64)
    model = patch_hypir(small_sd2(), save_lora(tmp_path))
    clip, vae, images = tiny_clip(), projection_vae(), some_frames(16)
    settings = VideoSettings(PRESET, scale=2.0)
    chosen = choose_restorer(DiffBIRWeights(model, clip, vae, None, None), settings)
    expected = restore_with_hypir(model, clip, vae, images, scale=2.0)
    assert torch.equal(chosen.restore(frames_at(images)), expected)


def test_parts_of_diffbir_that_are_missing_are_named(weights):
    some = DiffBIRWeights(weights.model, weights.clip, weights.vae, None, None)
    with pytest.raises(ValueError, match="DiffBIR needs 'control_net', 'upscale_model' too"):
        choose_restorer(some, VideoSettings(PRESET))


def test_the_progress_bar_goes_over_all_frames(tmp_path, folded):
    import comfy.utils

    write_video(tmp_path / "a.mp4", 5, 8, audio=False)
    model, vae = folded
    chosen = choose_restorer(
        DiffBIRWeights(model, None, vae, None, None), VideoSettings(PRESET, steps=2)
    )
    seen: list[tuple[int, int]] = []
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, **rest: seen.append((value, total))
    )
    try:
        restore_video(chosen, InputImpl.VideoFromFile(str(tmp_path / "a.mp4")))
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert {total for _, total in seen} == {10}
    values = [value for value, _ in seen]  # ComfyUI leaves out those that follow fast
    assert values == sorted(values)
    assert values[-1] == 10


def grown_by_restoring(folder: str, frames: int) -> int:
    """Return by how many KiB restoring a video of 320x180 grew this process."""
    from pack.tests.support.alone import grown

    place = Path(folder) / str(frames)
    place.mkdir()
    folder_paths.set_temp_directory(str(place))
    write_video(place / "a.mp4", frames, 180, width=320)
    video = InputImpl.VideoFromFile(str(place / "a.mp4"))

    def enlarged(part: Frames) -> Tensor:
        return part.images.repeat_interleave(4, 1).repeat_interleave(4, 2)

    return grown(lambda: restore_video(FrameRestorer(enlarged, 4, 1), video)) // 1024


@pytest.mark.slow
def test_three_hundred_frames_need_the_memory_of_ten_and_of_what_the_encoder_looks_ahead(tmp_path):
    ten, hundred, three_hundred = (
        call_alone(grown_by_restoring, folder=str(tmp_path), frames=frames)
        for frames in (10, 100, 300)
    )
    assert three_hundred < hundred + 30 * 1024
    # x264 holds some 20 frames of 1280x720 before it gives the first, 2.5 MiB each with what it
    # makes of them; a part has one frame more. 290 frames would be 3 GiB.
    assert three_hundred < ten + 90 * 1024
