"""Videos restored a few frames at a time, whatever their length."""

from __future__ import annotations

import copy
import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
from comfy_api.latest import InputImpl
from torch import Tensor

from ..images.color import ColorFix
from ..videos.writing import join_segments
from .clip import Clip, Survey, as_image, open_clip, survey_clip
from .clip_motion import ClipMemory
from .diffbir_presets import DiffBIRPreset
from .diffbir_sampling import OFFICIAL, preset_guidance
from .frames import FRAMES_AT_ONCE, check_frames_at_once
from .hypir import HYPIR_KEY
from .noise import BatchNoise, PictureSeeds
from .progress import Share
from .resshift_conditioning import resshift_model
from .restore_diffbir import DiffBIRWeights, are_diffbir, restore_with_diffbir
from .restore_hypir import restore_with_hypir
from .restore_resshift import restore_with_resshift
from .steady_frames import NOT_STEADIED, Steadiness
from .tiles import TILES, TileSettings
from .video_segments import Restored, Segments, run_key

logger = logging.getLogger("resshift-diffbir")

# Restored frames of one call. More let networks stay loaded longer, fewer lose less to an interrupt.
PART_BYTES = 128 << 20
MOST_PART_FRAMES = 16
# Frames from one key frame to the next: two seconds of film.
SEGMENT_FRAMES = 48
CRF = 18.0

# Without AdaIN: what enters a frame at its border would change colours and contrast of all of it.
VIDEO_COLORS: tuple[ColorFix, ...] = ("wavelet", "none", "luminance")


@dataclass(frozen=True)
class Frames:
    """Some frames of a video that are to be restored.

    Attributes:
        images: `(N, H, W, 3)` IMAGE.
        share: Which of the video's frames they are.
        keep_grey: Whether black and white frames stay so; decided once for a whole video, or single
            frames would change between grey and tinted.
        memory: What is kept of the frames before them; a restorer that follows the video writes into
            it what is kept of these.
    """

    images: Tensor
    share: Share
    keep_grey: bool
    memory: ClipMemory


@dataclass(frozen=True)
class FrameRestorer:
    """A way to restore frames.

    Attributes:
        restore: Gives `(N, H, W, 3)` IMAGE for the frames it takes, each frame the same in whatever
            parts a video is cut; it gets the parts in their order.
        scale: How many times larger the result is.
        frames_at_once: How many share a call of the network; parts are multiples of it.
    """

    restore: Callable[[Frames], Tensor]
    scale: float
    frames_at_once: int


@dataclass(frozen=True)
class VideoSettings:
    """What decides restored frames besides the networks.

    Attributes:
        seed: Decides all noise; HYPIR has none.
        steps: Network calls a frame; 0 means as many as the model is made for; HYPIR takes one.
        color_fix: See `fix_color`; the reference is the frame, for DiffBIR stage 1's result.
        batch_noise: Whether frame k draws from `seed + k`, every frame from `seed`, or every frame
            from `seed` and then as the motion has moved it.
        steadiness: How far predictions are drawn to the frame before; HYPIR has none.
        tiles: How large frames are cut.
        frames_at_once: Frames that share each call, 1 or more.
        randomness: Of ResShift; see `restore_with_resshift`.
        scale: Of DiffBIR and HYPIR: side of the result over that of the frame.
        prompt: Of both: what the video shows.
        preset: Of DiffBIR: settings of the version that the weights belong to.
        cfg: Of DiffBIR; 0 means the preset's.
        fidelity: Of DiffBIR: share of each prediction that stage 1's result replaces.
    """

    preset: DiffBIRPreset
    seed: int = 0
    steps: int = 0
    color_fix: ColorFix = "wavelet"
    batch_noise: BatchNoise = "different per image"
    steadiness: Steadiness = NOT_STEADIED
    tiles: TileSettings = TILES
    frames_at_once: int = FRAMES_AT_ONCE
    randomness: float = 1.0
    scale: float = 4.0
    prompt: str = ""
    cfg: float = 0.0
    fidelity: float = 0.0

    def seed_of(self, frame: int) -> int:
        """Return the seed of a batch that begins at a frame of the video."""
        offset = frame if self.batch_noise == "different per image" else 0
        return PictureSeeds(self.seed).moved_by(offset).seed


def choose_restorer(weights: DiffBIRWeights, settings: VideoSettings) -> FrameRestorer:
    """Return the restorer of what is connected: HYPIR, DiffBIR, or a ResShift MODEL.

    Args:
        weights: MODEL and VAE; for HYPIR also CLIP, for DiffBIR all of it, else None.
        settings: What else decides.
    Raises:
        ValueError: If parts are missing, or all are and it is no ResShift MODEL.
    """
    check_frames_at_once(settings.frames_at_once)
    if weights.model.get_attachment(HYPIR_KEY) is not None:
        return hypir_frames(weights, settings)
    if are_diffbir(weights):
        return diffbir_frames(weights, settings)
    return resshift_frames(weights, settings)


def resshift_frames(weights: DiffBIRWeights, settings: VideoSettings) -> FrameRestorer:
    """Return the restorer of a ResShift MODEL and its VAE."""

    def restore(frames: Frames) -> Tensor:
        return restore_with_resshift(
            weights.model,
            weights.vae,
            frames.images,
            seed=settings.seed_of(frames.share.first),
            steps=settings.steps,
            randomness=settings.randomness,
            color_fix=settings.color_fix,
            batch_noise=settings.batch_noise,
            tiles=settings.tiles,
            frames_at_once=settings.frames_at_once,
            keep_grey=frames.keep_grey,
            share=frames.share,
            steadiness=settings.steadiness,
            memory=frames.memory,
        )

    scale = resshift_model(weights.model).record.scale
    return FrameRestorer(restore, scale, settings.frames_at_once)


def diffbir_frames(weights: DiffBIRWeights, settings: VideoSettings) -> FrameRestorer:
    """Return the restorer of DiffBIR's networks."""

    def restore(frames: Frames) -> Tensor:
        return restore_with_diffbir(
            weights,
            frames.images,
            preset=settings.preset,
            seed=settings.seed_of(frames.share.first),
            scale=settings.scale,
            prompt=settings.prompt,
            steps=settings.steps,
            cfg=settings.cfg,
            guidance=preset_guidance(settings.preset, OFFICIAL, 0.0, settings.fidelity),
            color_fix=settings.color_fix,
            tiles=settings.tiles,
            batch_noise=settings.batch_noise,
            frames_at_once=settings.frames_at_once,
            keep_grey=frames.keep_grey,
            share=frames.share,
            steadiness=settings.steadiness,
            memory=frames.memory,
        )

    return FrameRestorer(restore, settings.scale, settings.frames_at_once)


def hypir_frames(weights: DiffBIRWeights, settings: VideoSettings) -> FrameRestorer:
    """Return the restorer of a MODEL with HYPIR; stage 1 runs before it where it is connected."""

    def restore(frames: Frames) -> Tensor:
        return restore_with_hypir(
            weights.model,
            weights.clip,
            weights.vae,
            frames.images,
            upscale_model=weights.upscale_model,
            scale=settings.scale,
            prompt=settings.prompt,
            color_fix=settings.color_fix,
            tiles=settings.tiles,
            frames_at_once=settings.frames_at_once,
            keep_grey=frames.keep_grey,
            share=frames.share,
        )

    return FrameRestorer(restore, settings.scale, settings.frames_at_once)


def restore_video(
    restorer: FrameRestorer,
    video: Any,
    *,
    crf: float = CRF,
    keep_grey: bool = True,
    prompt: dict[str, Any] | None = None,
    node: str | None = None,
) -> Any:
    """Return a restored VIDEO, a file in ComfyUI's temporary folder.

    Frames are decoded, restored and encoded a few at a time. What was finished before an error or
    an interrupt is taken up by the next run of the same workflow, until ComfyUI starts anew.

    Args:
        restorer: How frames are restored.
        video: VIDEO.
        crf: x264's constant rate factor, 0 to 51; less is better and larger.
        keep_grey: Whether a black and white video stays so.
        prompt: The workflow as ComfyUI runs it; None keeps nothing for a next run.
        node: The node's id in it.
    Raises:
        ValueError: If the video has no pictures or is damaged, or the restorer refuses its frames.
    """
    clip = open_clip(video)
    survey = survey_clip(clip)
    key = run_key(prompt, node, survey.digest)
    place = Path(folder_paths.get_temp_directory())
    folder = place / f"restored_video_{key or uuid.uuid4().hex}"
    if (sound := clip.sound()) is not None:  # what it refuses is told before any frame is restored
        sound.close()
    segments = Segments(folder, clip.look, crf)
    count = len(survey.times)
    if segments.frames:
        logger.info("Restore Video goes on at frame %d of %d.", segments.frames + 1, count)
    try:
        _restore_rest(restorer, clip, survey, segments, keep_grey and survey.is_grey)
    except BaseException:
        if key is None or not segments.frames:
            segments.remove()
        raise
    result = place / f"restored_video_{uuid.uuid4().hex}.mp4"
    try:
        exchanged = join_segments(result, segments.paths, survey.times, clip.look, clip.sound())
    except BaseException:
        result.unlink(missing_ok=True)
        raise
    segments.remove()
    if exchanged:
        logger.info("MP4 takes no %s: that sound was made AAC.", " and no ".join(exchanged))
    return InputImpl.VideoFromFile(str(result))


def _restore_rest(
    restorer: FrameRestorer, clip: Clip, survey: Survey, segments: Segments, keep_grey: bool
) -> None:
    count = len(survey.times)
    at_once = _part_frames(restorer, survey.size)
    frames = clip.frames(at_once, segments.frames)
    memory = segments.memory()

    def parts(first: int) -> Iterator[Restored]:
        done = first
        while done < min(count, first + SEGMENT_FRAMES):
            comfy.model_management.throw_exception_if_processing_interrupted()
            images = as_image(next(frames)[0])[..., :3]
            share = Share(done, len(images), count)
            done += len(images)
            # Nothing here holds the result while the next part is made.
            yield Restored(
                restorer.restore(Frames(images, share, keep_grey, memory)), copy.copy(memory)
            )

    while segments.frames < count:
        segments.add(parts(segments.frames))


def _part_frames(restorer: FrameRestorer, size: tuple[int, int]) -> int:
    """Return how many frames are restored in one go, whole calls of the network."""
    height, width = size
    frame_bytes = max(1, round(height * width * restorer.scale**2)) * 3 * 4
    most = min(MOST_PART_FRAMES, PART_BYTES // frame_bytes)
    return restorer.frames_at_once * max(1, most // restorer.frames_at_once)
