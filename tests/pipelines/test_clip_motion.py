"""A clip's motion on latents, its noise in whole and parts, with every sampler of the pack."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from pack.pipelines.clip_motion import (
    ClipMemory,
    MovingNoise,
    clip_noise,
    frame_grid,
    frame_places,
    latent_fold,
)
from pack.pipelines.diffbir_conditioning import prepare_diffbir
from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.diffbir_sampling import sample_diffbir
from pack.pipelines.noise import BATCH_NOISES, MOVING, PictureSeeds, noise_draws
from pack.pipelines.resshift_conditioning import prepare_resshift
from pack.pipelines.resshift_sampling import (
    residual_shift_sampler,
    residual_shift_sigmas,
    sample_resshift,
)
from pack.pipelines.restore_diffbir import restore_with_diffbir
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.pipelines.sampling import sample_latent
from pack.pipelines.tiles import TileSettings
from pack.tests.support.analytic import analytic_model, around
from pack.tests.support.diffbir import text
from pack.tests.support.golden import assert_close
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy

MOVED = PictureSeeds(7, MOVING)
V2 = DIFFBIR_PRESETS["v2"]


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


def panned(count: int = 4, height: int = 16, width: int = 24, step: int = 2) -> Tensor:
    """Return the frames of a camera that moves to the right, IMAGE."""
    wide = picture(height, width + step * count, seed=3)
    return torch.cat([wide[:, :, k * step : k * step + width] for k in range(count)])


def latents(model: Any, vae: Any, frames: Tensor) -> Any:
    return prepare_resshift(model, vae, frames)


def test_the_bundled_kind_of_latent_is_known_to_be_folded_and_others_not(folded, sr):
    assert latent_fold(folded[0]) == 4
    assert latent_fold(sr[0]) == 1
    assert latent_fold(analytic_model()) == 1


def test_frames_lie_on_latents_as_they_were_padded(folded, inpaint):
    # The tiny models pad to multiples of 8.
    grid = frame_grid(folded[0], (13, 20), (16, 24))
    assert (grid.height, grid.width, grid.per_pixel, grid.fold) == (64, 96, 4.0, 4)
    result = frame_grid(folded[0], (52, 80), (16, 24))
    assert result.per_pixel == 1.0
    ratio = inpaint[0].model.network_config.condition_ratio
    assert frame_grid(inpaint[0], (64, 64), (64 // ratio, 64 // ratio)).per_pixel == 1 / ratio


def test_frames_of_other_models_are_of_the_results_size_or_fill_the_latent():
    model = analytic_model()
    assert frame_grid(model, (500, 700), (64, 88)).per_pixel == 1 / 8
    assert frame_grid(model, (16, 24), (32, 48)).per_pixel == 2.0
    with pytest.raises(ValueError, match="Connect the pictures that are restored"):
        frame_grid(model, (16, 24), (64, 48))


def test_places_of_frames_are_told_by_their_number_or_their_index():
    three = {"samples": torch.zeros(3, 4, 8, 8)}
    assert frame_places(3, three) == [0, 1, 2]
    assert frame_places(5, {**three, "batch_index": [4, 0, 1]}) == [4, 0, 1]
    for wrong in (three, {**three, "batch_index": [3, 4, 5]}):
        with pytest.raises(ValueError, match="whole clip and its latents"):
            frame_places(5, wrong)


def test_noise_of_a_clip_moves_with_it_and_begins_as_a_single_pictures(folded):
    frames = panned(3, 32, 48)
    made = latents(*folded, frames)
    moved = clip_noise(folded[0], frames.movedim(-1, 1), made.latent["samples"], range(3))
    noise = noise_draws(MOVED.along(moved), made.latent["samples"])()
    assert torch.equal(noise[:1], noise_draws(PictureSeeds(7), made.latent["samples"][:1])())
    seen = torch.nn.functional.pixel_shuffle(noise, 4)
    # A frame moves by 2 pixels, which is 8 of the result.
    same = [
        (after[..., 16:-24] == before[..., 24:-16]).float().mean()
        for before, after in itertools.pairwise(seen)
    ]
    assert min(same) > 0.5
    assert abs(noise.mean()) < 0.02
    assert abs(noise.var() - 1) < 0.03


def test_a_single_picture_has_the_noise_of_its_seed_whatever_the_choice(folded):
    image = picture(16, 24)
    results = [
        restore_with_resshift(*folded, image, seed=3, batch_noise=choice) for choice in BATCH_NOISES
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_moving_noise_without_motion_is_refused():
    like = torch.zeros(2, 4, 8, 8)
    with pytest.raises(ValueError, match="Connect the clip to 'frames'"):
        noise_draws(MOVED, like)
    with pytest.raises(ValueError, match="Connect the clip to 'frames'"):
        noise_draws(PictureSeeds(7, MOVING, [3]), like[:1])
    moved = clip_noise(analytic_model(), torch.rand(3, 3, 64, 64), like, range(3))
    with pytest.raises(ValueError, match="of the 2 pictures"):
        noise_draws(MOVED.along(moved), like)


def test_a_frames_result_does_not_depend_on_the_part_that_it_is_sampled_in(folded):
    model, vae = folded
    made = latents(model, vae, panned())
    whole = sample_resshift(model, made.positive, made.latent, seeds=MOVED)["samples"]
    for part in ([0, 1], [2, 3], [3]):
        latent = {"samples": made.latent["samples"][part], "batch_index": part}
        own = sample_resshift(model, made.positive, latent, seeds=MOVED)["samples"]
        assert_close(own, whole[part], 1e-4)
    other = sample_resshift(model, made.positive, made.latent, seeds=PictureSeeds(7))["samples"]
    assert_close(other[:1], whole[:1], 1e-4)
    assert (other[1:] - whole[1:]).abs().max() > 1e-3


@pytest.mark.parametrize("frames_at_once", [1, 3, 4])
def test_the_one_node_restoration_gives_the_chains_pictures_in_any_parts(folded, frames_at_once):
    model, vae = folded
    frames = panned()
    made = latents(model, vae, frames)
    sampled = sample_resshift(model, made.positive, made.latent, seeds=MOVED)["samples"]
    whole = vae.decode(sampled)[:, : made.height, : made.width].clamp(0, 1)
    options = {"seed": 7, "batch_noise": MOVING, "keep_grey": False}
    restored = restore_with_resshift(model, vae, frames, frames_at_once=frames_at_once, **options)
    assert_close(restored, whole, 1e-3)
    memory = ClipMemory()
    parts = [
        restore_with_resshift(model, vae, frames[part], memory=memory, **options)
        for part in (slice(0, 1), slice(1, 3), slice(3, 4))
    ]
    assert_close(torch.cat(parts), restored, 1e-3)


def test_a_clip_is_not_followed_in_pieces_restored_one_by_one(folded):
    tiles = TileSettings("official chop", 32)
    with pytest.raises(ValueError, match="Set 'tiling' to 'per step'"):
        restore_with_resshift(*folded, panned(2), seed=0, batch_noise=MOVING, tiles=tiles)


def test_frames_of_one_clip_are_of_one_size(folded):
    memory = ClipMemory()
    options = {"seed": 0, "batch_noise": MOVING, "memory": memory}
    restore_with_resshift(*folded, picture(16, 24), **options)
    before = copy.copy(memory)
    with pytest.raises(ValueError, match="of one size"):
        restore_with_resshift(*folded, picture(16, 16), **options)
    assert memory == before


def test_the_sampler_object_draws_the_steps_of_the_node_from_the_conditioning(folded):
    model, vae = folded
    made = latents(model, vae, panned(3))
    expected = sample_resshift(model, made.positive, made.latent, seeds=MOVED)["samples"]
    samples = made.latent["samples"]
    moved = clip_noise(model, panned(3).movedim(-1, 1), samples, range(3))
    given = sample_latent(
        model,
        made.positive,
        made.negative,
        made.latent,
        residual_shift_sampler(1.0, PictureSeeds(batch_noise=MOVING)),
        residual_shift_sigmas(model, 0),
        seeds=MOVED.along(moved),
    )["samples"]
    assert_close(given, expected, 1e-5)


def test_the_noise_object_gives_each_frame_its_own_in_whole_and_parts(folded):
    model, vae = folded
    frames = panned()
    samples = latents(model, vae, frames).latent["samples"]
    noise = MovingNoise(model, frames, 7)
    whole = noise.generate_noise({"samples": samples})
    moved = clip_noise(model, frames.movedim(-1, 1), samples, range(4))
    assert torch.equal(whole, noise_draws(MOVED.along(moved), samples)())
    part = noise.generate_noise({"samples": samples[1:3], "batch_index": [1, 2]})
    assert torch.equal(part, whole[1:3])
    assert noise.seed == 7


@pytest.mark.parametrize("sampler", ["official", "dpmpp_3m_sde", "dpmpp_sde", "euler_ancestral"])
def test_what_a_model_makes_of_noise_moves_with_the_clip(sampler):
    # The exact denoiser of equal pixels: what it samples is the noise, pixel by pixel.
    model = analytic_model()
    frames = panned(3, 64, 128, 8)
    mean = around(torch.zeros(1, 4, 8, 16))

    def sampled(**changed: Any) -> Tensor:
        settings = {"preset": V2, "seeds": MOVED, "steps": 4, "sampler": sampler, "cfg": 1.0}
        settings |= {"frames": frames} | changed
        empty = {"samples": torch.zeros(len(settings["frames"]), 4, 8, 16)}
        return sample_diffbir(model, mean, mean, empty, **settings)["samples"]

    made = sampled()
    for before, after in itertools.pairwise(made):
        moved = (after[..., 2:-3] - before[..., 3:-2]).abs().amax(0) < 1e-4
        assert moved.float().mean() > 0.8
    alone = sampled(frames=frames[:1])
    assert_close(made[:1], alone, 1e-5)
    still = sampled(seeds=PictureSeeds(7))
    assert (still[1] - made[1]).abs().mean() > 0.1


def test_added_noise_of_the_condition_moves_too(weights):
    made = {
        choice: prepare_diffbir(
            *_texts(),
            weights.control_net,
            weights.vae,
            panned(2, 64, 64, 8),
            noise_aug=300,
            seeds=PictureSeeds(3, choice),
        ).positive[0][1]["control"]
        for choice in BATCH_NOISES
    }
    hints = {choice: control.cond_hint_original for choice, control in made.items()}
    assert torch.equal(hints[MOVING][0], hints["same for all"][0])
    assert not torch.equal(hints[MOVING][1], hints["same for all"][1])


def test_diffbir_in_one_node_gives_the_same_pictures_in_any_parts(weights):
    frames = panned(3, 16, 32)

    def restored(image: Tensor, **options: Any) -> Tensor:
        settings = {"preset": V2, "steps": 2, "rules": "none", "seed": 7, "batch_noise": MOVING}
        return restore_with_diffbir(weights, image, **(settings | options))

    whole = restored(frames, frames_at_once=3)
    assert_close(restored(frames), whole, 1e-3)
    memory = ClipMemory()
    parts = [restored(frames[k : k + 1], memory=memory) for k in range(3)]
    assert_close(torch.cat(parts), whole, 1e-3)
    assert_close(whole[:1], restored(frames[:1], batch_noise="same for all"), 1e-3)
    assert (whole[1:] - restored(frames, batch_noise="same for all")[1:]).abs().max() > 1e-3


def _texts() -> tuple[list, list]:
    return text(4), text(5)
