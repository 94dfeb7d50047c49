"""Predictions drawn to the frame before: closed form, batches, chunks, tiles, other patches."""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from torch import Tensor

from pack.images.motion import Motion
from pack.pipelines.clip_motion import ClipMemory
from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.latent_guidance import LatentGuidance, patch_latent_guidance
from pack.pipelines.noise import PictureSeeds
from pack.pipelines.resshift_conditioning import prepare_resshift
from pack.pipelines.resshift_sampling import sample_resshift
from pack.pipelines.restore_diffbir import restore_with_diffbir
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.pipelines.steady_frames import (
    PreviousFrame,
    Steadiness,
    patch_steady_frames,
    patch_steady_motion,
)
from pack.pipelines.tiles import patch_tiles
from pack.tests.support.analytic import analytic_model, around
from pack.tests.support.diffbir import LATENT_SCALE
from pack.tests.support.golden import assert_close
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy

SIZE = (4, 8, 16)
SIGMAS = torch.tensor([10.0, 2.0, 0.5, 0.0])
HALF = Steadiness(0.5)


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pan(count: int, step: float = 1.0, trust: float = 1.0) -> Motion:
    """Return the motion of a clip that is panned to the right by latent pixels."""
    backward = torch.zeros(count, 2, *SIZE[1:])
    backward[:, 0] = step
    return Motion(backward, torch.full((count, 1, *SIZE[1:]), trust))


def panned(count: int, height: int = 16, width: int = 24, step: int = 2) -> Tensor:
    wide = picture(height, width + step * count, seed=3)
    return torch.cat([wide[:, :, k * step : k * step + width] for k in range(count)])


def sample(model: Any, noise: Tensor, sampler: str = "euler", sigmas: Tensor = SIGMAS) -> Tensor:
    mean = around(torch.zeros(1, *SIZE))
    made = comfy.samplers.sampler_object(sampler)
    return comfy.sample.sample_custom(
        model, noise, 1.0, made, sigmas.clone(), mean, mean, torch.zeros_like(noise),
        disable_pbar=True, seed=0,
    )  # fmt: skip


def last_predictions(model: Any, noise: Tensor) -> Tensor:
    """Return what a run of one step gives: its predictions, in the VAE's scale."""
    return sample(model, noise, sigmas=torch.tensor([2.0, 0.0]))


def test_each_frame_is_drawn_to_the_one_before_which_is_drawn_already():
    noise = random(2, 3, *SIZE)
    free = last_predictions(analytic_model(), noise)
    drawn = last_predictions(patch_steady_motion(analytic_model(), pan(3), HALF), noise)
    assert torch.equal(drawn[0], free[0])
    for k in (1, 2):
        expected = (free[k][..., :-1] + drawn[k - 1][..., 1:]) / 2
        assert_close(drawn[k][..., :-1], expected, 1e-5)


def test_what_is_not_trusted_is_left_free():
    noise = random(2, 2, *SIZE)
    motion = pan(2)
    motion.trust[..., :8] = 0.0
    free = last_predictions(analytic_model(), noise)
    drawn = last_predictions(patch_steady_motion(analytic_model(), motion, Steadiness(1.0)), noise)
    assert torch.equal(drawn[1][..., :8], free[1][..., :8])
    assert_close(drawn[1][..., 8:-1], drawn[0][..., 9:], 1e-5)


def test_a_previous_latent_draws_the_first_frame_in_the_models_scale():
    noise, before = random(2, 2, *SIZE), random(3, 1, *SIZE)
    model = patch_steady_motion(analytic_model(), pan(2), Steadiness(1.0), before)
    drawn = last_predictions(model, noise)
    assert_close(drawn[0][..., :-1], before[0][..., 1:], 1e-4 / LATENT_SCALE)
    assert_close(drawn[1][..., :-2], before[0][..., 2:], 1e-4 / LATENT_SCALE)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "dpmpp_2m_sde"])
def test_full_strength_gives_every_sampler_one_moving_picture(sampler):
    model = patch_steady_motion(analytic_model(), pan(3), Steadiness(1.0))
    made = sample(model, random(2, 3, *SIZE), sampler)
    assert_close(made[2][..., :-2], made[0][..., 2:], 1e-4)


def test_a_window_covers_the_steps_in_it_and_no_other():
    noise, before = random(2, 1, *SIZE), random(3, 1, *SIZE)
    free = sample(analytic_model(), noise)
    for steadiness, changes in (
        (Steadiness(1.0, 0.0, 0.001), False),  # sigma above 10
        (Steadiness(1.0, 0.5, 1.0), True),
        (Steadiness(1.0, 0.5, 0.5), False),
        (Steadiness(0.0), False),
    ):
        model = patch_steady_motion(analytic_model(), pan(1), steadiness, before)
        assert torch.equal(sample(model, noise), free) is not changes


def test_a_single_picture_stays_bit_for_bit(folded):
    model, vae = folded
    image = picture(16, 24)
    made = prepare_resshift(model, vae, image)
    free = sample_resshift(model, made.positive, made.latent, seeds=PictureSeeds(3))["samples"]
    steady = patch_steady_frames(model, image, Steadiness(1.0))
    same = sample_resshift(steady, made.positive, made.latent, seeds=PictureSeeds(3))["samples"]
    assert torch.equal(same, free)
    options = {"seed": 3}
    restored = restore_with_resshift(*folded, image, **options)
    assert torch.equal(
        restore_with_resshift(*folded, image, steadiness=Steadiness(1.0), **options), restored
    )


def flicker(pictures: Tensor, step_px: int) -> float:
    """Return the mean square by which frames differ from the ones before, moved along."""
    inner = pictures[:, 8:-8, 8:-8]
    return float((inner[1:, :, :-step_px] - inner[:-1, :, step_px:]).square().mean())


def test_frames_of_a_resshift_model_flicker_less_in_a_batch_and_one_by_one(folded):
    model, vae = folded
    frames = panned(3, 32, 48, 1)
    made = prepare_resshift(model, vae, frames)

    def decoded(patched: Any) -> Tensor:
        seeds = PictureSeeds(3)
        sampled = sample_resshift(patched, made.positive, made.latent, seeds=seeds)["samples"]
        return vae.decode(sampled)

    free = flicker(decoded(model), 4)
    steadied = patch_steady_frames(model, frames, Steadiness(0.8))
    assert flicker(decoded(steadied), 4) < 0.3 * free
    one_by_one = restore_with_resshift(*folded, frames, seed=3, steadiness=Steadiness(0.8))
    assert flicker(one_by_one, 4) < 0.3 * free


def test_chunks_of_any_length_give_what_the_whole_clip_gives(folded, weights):
    frames = panned(4)
    options = {"seed": 7, "batch_noise": "moving with the picture", "steadiness": HALF}

    def diffbir(image: Tensor, **more: Any) -> Tensor:
        preset = DIFFBIR_PRESETS["v2"]
        settings = {"preset": preset, "steps": 2, "rules": "none"}
        return restore_with_diffbir(weights, image, **(settings | options | more))

    def resshift(image: Tensor, **more: Any) -> Tensor:
        return restore_with_resshift(*folded, image, **(options | more))

    for restore in (resshift, diffbir):
        whole = restore(frames, frames_at_once=3)
        memory = ClipMemory()
        parts = [restore(frames[:1], memory=memory), restore(frames[1:], memory=memory)]
        assert_close(torch.cat(parts), whole, 1e-4)
        assert (whole - restore(frames, steadiness=Steadiness())).abs().max() > 1e-3


def test_the_node_goes_on_from_what_was_sampled_before(folded):
    model, vae = folded
    frames = panned(4)
    seeds = PictureSeeds(3)

    def sampled(part: Tensor, previous: PreviousFrame | None) -> dict[str, Any]:
        made = prepare_resshift(model, vae, part)
        patched = patch_steady_frames(model, part, Steadiness(1.0), previous)
        return sample_resshift(patched, made.positive, made.latent, seeds=seeds)

    first = sampled(frames[:2], None)
    free, second = (
        sampled(frames[2:], previous)["samples"]
        for previous in (None, PreviousFrame(frames[:2], first))
    )
    assert (second[0] - free[0]).abs().max() > 0.01


def test_it_goes_with_tiles_and_with_latent_guidance():
    noise = random(2, 3, *SIZE)
    target = {"samples": random(4, 1, *SIZE)}
    fidelity = LatentGuidance(fidelity=0.5)
    plain = patch_steady_motion(analytic_model(), pan(3), HALF)
    tiled = patch_steady_motion(patch_tiles(analytic_model(), 1024, 64), pan(3), HALF)
    assert torch.equal(sample(tiled, noise), sample(plain, noise))
    guided = patch_latent_guidance(plain, target, fidelity)
    drawn = last_predictions(plain, noise)
    both = last_predictions(guided, noise)
    assert (both - drawn).abs().max() > 0.1
    assert_close(both, (drawn + target["samples"]) / 2, 1e-3)


def test_what_does_not_fit_is_refused(folded):
    model, vae = folded
    frames = panned(3)
    made = prepare_resshift(model, vae, frames[:2])
    patched = patch_steady_frames(model, frames, HALF)
    with pytest.raises(ValueError, match="Connect the frames of the latent's pictures"):
        sample_resshift(patched, made.positive, made.latent, seeds=PictureSeeds(0))
    with pytest.raises(ValueError, match="the frame before, of the same clip"):
        patch_steady_frames(model, frames, HALF, PreviousFrame(picture(8, 8), made.latent))
    latent = {"samples": torch.zeros(1, 4, 16, 24)}
    with pytest.raises(ValueError, match="'previous_latent' has shape"):
        patch_steady_frames(model, frames, HALF, PreviousFrame(frames, latent))
    small = {"samples": torch.zeros(1, 48, 8, 8)}
    patched = patch_steady_frames(model, frames[:2], HALF, PreviousFrame(frames, small))
    with pytest.raises(ValueError, match="of the same size"):
        sample_resshift(patched, made.positive, made.latent, seeds=PictureSeeds(0))
    for wrong in ({"strength": 1.5}, {"start_percent": -0.1}, {"end_percent": 2.0}):
        with pytest.raises(ValueError, match="give 0 to 1"):
            Steadiness(**wrong)


def test_in_tiles_the_whole_latent_is_drawn(folded):
    model, vae = folded
    frames = panned(2, 32, 48)
    made = prepare_resshift(model, vae, frames)
    tiled = patch_tiles(model, 64, 16)
    results = [
        sample_resshift(patched, made.positive, made.latent, seeds=PictureSeeds(3))["samples"]
        for patched in (tiled, patch_steady_frames(tiled, frames, Steadiness(1.0)))
    ]
    free, drawn = (flicker(vae.decode(samples), 8) for samples in results)
    assert torch.equal(results[0][0], results[1][0])
    assert drawn < 0.1 * free
