"""DiffBIR as a whole: an IMAGE in, an IMAGE out."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..images.color import ColorFix
from ..images.conversion import check_image, collect_pictures, planes_to_image
from ..images.motion import Motion
from ..images.padding import multiple_above
from ..images.resize import Rounding, scaled_size, short_edge_size
from ..images.transparency import visible_planes
from .clip_motion import ClipMemory
from .diffbir_conditioning import (
    LATENT_RATIO,
    SIZE_MULTIPLE_PX,
    Start,
    check_control_net,
    check_sd_vae,
    prepare_diffbir,
)
from .diffbir_presets import DIFFBIR_BASES, DiffBIRPreset
from .diffbir_sampling import NO_GUIDANCE, OFFICIAL, sample_diffbir
from .finish import finish_restoration, with_alpha_of
from .frames import FRAMES_AT_ONCE, check_frames_at_once
from .latent_guidance import LatentGuidance
from .noise import MOVING, BatchNoise, PictureSeeds
from .progress import RunProgress, Share
from .sd2 import check_sd2
from .stage_one import SHORT_EDGE_PX, Rules, check_network, remove_degradation, stage_one_tile
from .stage_one import SIZE_MULTIPLE_PX as STAGE_ONE_MULTIPLE_PX
from .steady_frames import NOT_STEADIED, Steadiness, patch_steady_motion
from .tiles import DIFFBIR_TILINGS, TILES, TileSettings, in_tiles

# Results of stage 1 held between the stages, so that each network works on several pictures before
# the next is loaded: 83 of 512 pixels, 5 of 2048.
HELD_BYTES = 256 << 20
BYTES_PER_CLEANED_PIXEL = 3 * 4

LongPrompt = Literal["all of it", "77 tokens (official)"]
LONG_PROMPTS: tuple[str, ...] = get_args(LongPrompt)
CONTENT_TOKENS = 75  # between start and end


@dataclass(frozen=True)
class DiffBIRWeights:
    """The networks of a run.

    Attributes:
        model: MODEL of Stable Diffusion 2.1.
        clip: Its CLIP.
        vae: Its VAE.
        control_net: A LAControlNet.
        upscale_model: The network of stage 1.
    """

    model: Any
    clip: Any
    vae: Any
    control_net: Any
    upscale_model: Any


def are_diffbir(weights: DiffBIRWeights) -> bool:
    """Return whether all of DiffBIR's networks are there, not MODEL and VAE alone.

    Raises:
        ValueError: If some are.
    """
    parts = {
        "clip": weights.clip,
        "control_net": weights.control_net,
        "upscale_model": weights.upscale_model,
    }
    missing = [name for name, part in parts.items() if part is None]
    if missing and len(missing) < len(parts):
        raise ValueError(
            f"DiffBIR needs {', '.join(map(repr, missing))} too. Connect"
            f" {'them' if len(missing) > 1 else 'it'}, or none of 'clip', 'control_net' and"
            " 'upscale_model' for a ResShift model."
        )
    return not missing


def restore_with_diffbir(
    weights: DiffBIRWeights,
    image: Tensor,
    *,
    preset: DiffBIRPreset,
    seed: int,
    scale: float = 4.0,
    prompt: str = "",
    negative_prompt: str = "",
    steps: int = 0,
    cfg: float = 0.0,
    sampler: str = OFFICIAL,
    scheduler: str = OFFICIAL,
    strength: float = 1.0,
    noise_aug: int = 0,
    start: Start = "noise",
    guidance: LatentGuidance = NO_GUIDANCE,
    color_fix: ColorFix = "wavelet",
    rules: Rules = "auto",
    resize: Rounding = "official 8-bit",
    tiles: TileSettings = TILES,
    long_prompt: LongPrompt = "all of it",
    batch_noise: BatchNoise = "different per image",
    frames_at_once: int = FRAMES_AT_ONCE,
    keep_grey: bool = True,
    for_saving: bool = False,
    share: Share | None = None,
    steadiness: Steadiness = NOT_STEADIED,
    memory: ClipMemory | None = None,
) -> Tensor:
    """Return every picture of a batch restored by both stages of DiffBIR.

    Each stage takes as many pictures as may be held between stages, so that networks are not loaded
    anew for every picture, and runs `frames_at_once` at a time; memory besides input and result
    does not grow with the batch. A picture's noise is its own, so it does not depend on its
    neighbours but for the rounding of calls that it shares with them.

    Args:
        weights: The networks.
        image: `(B, H, W, C)` IMAGE; alpha comes back enlarged.
        preset: Settings of the version that the weights belong to.
        seed: Decides all noise.
        scale: Side of the result over that of `image`; 1 for faces and for denoising.
        prompt: What the picture shows; put in front of the preset's own prompt.
        negative_prompt: What it must not show; the preset's where it is empty.
        steps: Network calls a picture; 0 means the preset's.
        cfg: Scale of classifier-free guidance; 0 means the preset's.
        sampler: `official`, `spaced` or one of ComfyUI's.
        scheduler: `official` or one of ComfyUI's.
        strength: Factor of the control branch.
        noise_aug: Training timestep whose noise is added to the condition, 0 for none.
        start: Whether sampling starts from noise or from the condition.
        guidance: Latent guidance to the result of stage 1, none by default.
        color_fix: See `fix_color`; the reference is the result of stage 1.
        rules: Sizes and order of steps of stage 1; see `remove_degradation`.
        resize: Precision of stage 1's enlargement; see `remove_degradation`.
        tiles: How pictures are cut that are larger than a tile: in stage 1, in the VAE and at every
            step. `official chop` is not of DiffBIR.
        long_prompt: Whether all of a prompt counts, or its first 75 tokens as in the reference.
        batch_noise: Whether picture k draws from `seed + k`, every picture from `seed`, or every
            picture from `seed` and then as the clip's motion has moved it.
        frames_at_once: Pictures that share each call of stage 2, 1 or more.
        keep_grey: Whether a black and white picture stays so.
        for_saving: See `finish_restoration`.
        share: Which part of a longer run this is, for the progress bar; None for all of it.
        steadiness: How far each picture's predictions are drawn to what was made of the picture
            before, where the pictures are a clip. They are then restored one by one.
        memory: What is kept of a clip whose frames come in several calls; None where they come in
            one.
    Returns:
        `(B, H scale, W scale, 3)` or, with alpha, 4 channels, in [0, 1], on the CPU.
    Raises:
        ValueError: If an input does not fit; the message says which and what to do.

    Source: Lin et al. 2023 (arXiv 2308.15070).
    """
    if tiles.tiling not in DIFFBIR_TILINGS:
        raise ValueError(
            f"DiffBIR has no '{tiles.tiling}'; choose 'per step', 'official' or 'off'."
        )
    # Before the first stage runs, which may take minutes.
    check_sd2(weights.model, DIFFBIR_BASES)
    check_control_net(weights.control_net)
    check_sd_vae(weights.vae)
    check_network(weights.upscale_model)
    check_image(image)
    check_frames_at_once(frames_at_once)
    texts = join_prompt(prompt, preset.positive), negative_prompt.strip() or preset.negative
    positive, negative = (encode_text(weights.clip, text, long_prompt) for text in texts)
    model, vae = in_tiles(weights.model, unclamped_vae(weights.vae), tiles)
    count, held = len(image), _pictures_held(weights.upscale_model, image, scale, frames_at_once)
    tile = tile_of_stage_one(weights.upscale_model, tiles)
    memory = ClipMemory() if memory is None else memory
    follows = batch_noise == MOVING or steadiness.acts
    if steadiness.acts:
        frames_at_once = 1  # each is drawn to what was made of the one before
    # Stage 1 counts as a step of the progress bar.
    run_steps = steps or preset.steps
    progress = RunProgress(weights.model, (run_steps + 1) * count, share)

    def restored(first: int) -> Tensor:
        pictures = image[first : first + held]
        done = (run_steps + 1) * first
        cleaned = remove_degradation(
            weights.upscale_model,
            pictures,
            scale=scale,
            rules=rules,
            resize=resize,
            tile=tile,
            tile_overlap=tile // 2,
            bounded=True,
            progress=lambda calls, total: progress.move(done + len(pictures) * calls // total),
        )
        done += len(pictures)
        parts = [slice(k, k + frames_at_once) for k in range(0, len(pictures), frames_at_once)]
        seeds = [
            PictureSeeds(seed, batch_noise, range(first, first + len(pictures))[part])
            for part in parts
        ]
        multiple = _padding_multiple(cleaned.image, tiles)
        motions: list[Motion | None] = [None for _ in parts]
        if follows:
            size = _latent_size(cleaned.image, multiple)
            for k, part in enumerate(parts):
                motion = memory.follow(model, cleaned.image[part], size)
                motions[k], seeds[k] = motion, memory.move_noise(seeds[k], motion)
        inputs = [
            prepare_diffbir(
                positive,
                negative,
                weights.control_net,
                vae,
                cleaned.image[part],
                strength=strength,
                noise_aug=noise_aug,
                zero_snr=preset.zero_snr,
                start=start,
                seeds=own_seeds,
                multiple=multiple,
            )
            for part, own_seeds in zip(parts, seeds, strict=True)
        ]
        sampled = []
        for part, prepared, own_seeds, motion in zip(parts, inputs, seeds, motions, strict=True):
            run_model = model
            if motion is not None:
                run_model = patch_steady_motion(model, motion, steadiness, memory.latent)
            latent = sample_diffbir(
                run_model,
                prepared.positive,
                prepared.negative,
                prepared.latent,
                preset=preset,
                seeds=own_seeds,
                steps=steps,
                cfg=cfg,
                sampler=sampler,
                scheduler=scheduler,
                guidance=guidance,
                vae=vae,
                callback=progress.steps_after(
                    done + run_steps * part.start, len(cleaned.image[part])
                ),
            )
            memory.latent = latent["samples"][-1:]
            sampled.append(latent)
        finished = (
            with_alpha_of(
                pictures[part],
                finish_restoration(
                    vae.decode(latent["samples"]),
                    prepared.width,
                    prepared.height,
                    reference=cleaned.image[part],
                    color_fix=color_fix,
                    output_width=cleaned.output_width,
                    output_height=cleaned.output_height,
                    grey_like=planes_to_image(visible_planes(pictures[part]))
                    if keep_grey
                    else None,
                    for_saving=for_saving,
                    name="the restored picture",
                ),
            )
            for part, prepared, latent in zip(parts, inputs, sampled, strict=True)
        )
        return collect_pictures(finished, len(pictures)).cpu()

    return collect_pictures(map(restored, range(0, count, held)), count)


def _pictures_held(upscale_model: Any, image: Tensor, scale: float, frames_at_once: int) -> int:
    """Return how many results of stage 1 are held at once, whole calls of stage 2."""
    size = scaled_size(image.shape[1], image.shape[2], max(scale, upscale_model.scale))
    height, width = short_edge_size(*size, SHORT_EDGE_PX)
    calls = HELD_BYTES // (frames_at_once * height * width * BYTES_PER_CLEANED_PIXEL)
    return frames_at_once * max(1, calls)


def _latent_size(cleaned: Tensor, multiple: int) -> tuple[int, int]:
    """Return height and width of the latents that are made of results of stage 1."""
    height, width = (multiple_above(side, multiple) for side in cleaned.shape[1:3])
    return height // LATENT_RATIO, width // LATENT_RATIO


def _padding_multiple(cleaned: Tensor, tiles: TileSettings) -> int:
    """Return what sides are padded to multiples of; the UNet takes a whole picture in 64 alone."""
    is_cut = min(cleaned.shape[1:3]) >= tiles.tile
    return LATENT_RATIO if tiles.tiling == "official" and is_cut else SIZE_MULTIPLE_PX


def tile_of_stage_one(upscale_model: Any, tiles: TileSettings) -> int:
    """Return the side of stage 1's tiles in pixels of its network's input, 0 for none."""
    if tiles.tiling == "off":
        return 0
    if tiles.by_memory:
        return stage_one_tile(upscale_model)
    multiple = STAGE_ONE_MULTIPLE_PX
    return max(multiple, tiles.tile // upscale_model.scale // multiple * multiple)


def join_prompt(caption: str, quality: str) -> str:
    """Return caption and quality text joined as the reference implementation does."""
    return ", ".join(part for part in (caption.strip(), quality) if part)


def encode_text(clip: Any, text: str, long_prompt: LongPrompt = "all of it") -> list:
    """Return the CONDITIONING of a text, in which brackets and backslashes are what they are.

    Args:
        clip: CLIP of the checkpoint.
        text: A caption or a prompt.
        long_prompt: Whether all of it counts, in pieces of 77 tokens as ComfyUI passes it, or the
            first 75 tokens alone, as the reference cuts it.
    Raises:
        ValueError: If the checkpoint had no text encoder.
    """
    if clip is None:
        raise ValueError(
            "there is no text encoder at 'clip'. Load a checkpoint that has one, such as"
            " v2-1_512-ema-pruned, with Load Checkpoint."
        )
    # ComfyUI takes brackets for weights unless a backslash is before them.
    plain = text.replace("(", "\\(").replace(")", "\\)")
    tokens = clip.tokenize(plain, return_word_ids=True)
    if long_prompt == "77 tokens (official)":
        empty = clip.tokenize("", return_word_ids=True)
        tokens = {name: [_first_tokens(empty[name][0], tokens[name])] for name in tokens}
    without_ids = {
        name: [[token[:2] for token in piece] for piece in pieces]
        for name, pieces in tokens.items()
    }
    return clip.encode_from_tokens_scheduled(without_ids)


def _first_tokens(frame: list[tuple], pieces: list[list[tuple]]) -> list[tuple]:
    """Return the first tokens of a text between the start and the end of an empty one."""
    words = [token for piece in pieces for token in piece if token[2] != 0][:CONTENT_TOKENS]
    return [frame[0], *words, *frame[1:]][: len(frame)]


def unclamped_vae(vae: Any) -> Any:
    """Return the VAE with decoded pixels left as they are.

    The colour correction compares frequencies, which clamping would change; its result is clamped.
    A VAE that does something else than ComfyUI's usual mapping from [-1, 1] is left as it is.
    """
    if vae.process_output(torch.tensor([-3.0, 0.0, 3.0])).tolist() != [0.0, 0.5, 1.0]:
        return vae
    unclamped = copy.copy(vae)
    unclamped.process_output = lambda image: image.add_(1).div_(2)
    return unclamped
