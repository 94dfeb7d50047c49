"""Latent guidance as a patch: closed form, decoder gradients, windows, batches, other models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pack.pipelines import latent_guidance
from pack.pipelines.latent_guidance import LatentGuidance, patch_latent_guidance
from pack.pipelines.resshift_conditioning import prepare_resshift
from pack.pipelines.resshift_sampling import residual_shift_sigmas
from pack.pipelines.tiles import patch_tiles
from pack.samplers.guidance import edge_weights, guidance_delta, posterior_mean_weight
from pack.tests.support.analytic import analytic_model, around
from pack.tests.support.diffbir import LATENT_SCALE, projection_vae, text, tiny_model, tiny_vae
from pack.tests.support.golden import assert_close
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy

SIZE = (1, 4, 8, 8)
FULL = LatentGuidance(fidelity=1.0)
SIGMAS = torch.tensor([10.0, 2.0, 0.5, 0.0])
# Windows of 16 latent pixels have other means to normalise by than the whole of 24 x 40: with random
# weights the moves differ by 0.29 of their spread. Those scaled for a window would differ by 2.75.
NEAR_WHOLE = 0.4


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def random(seed: int, shape: tuple[int, ...] = SIZE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample(model, *, batch=1, sampler="euler", sigmas=SIGMAS, cfg=1.0, size=SIZE) -> Tensor:
    shape = (batch, *size[1:])
    text = around(random(1, (1, *size[1:])))
    made = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    return comfy.sample.sample_custom(
        model,
        random(2, shape),
        cfg,
        made,
        sigmas.clone(),  # uni_pc writes into them
        text,
        around(random(3, (1, *size[1:]))),
        torch.zeros(shape),
        disable_pbar=True,
        seed=0,
    )


def predictions(model, **how) -> list[dict]:
    """Return what a run of single steps predicted, before and after the guidance."""
    seen = []

    def note(args):
        seen.append({"before": args["denoised"]})
        return args["denoised"]

    def steps(model, x, sigmas, extra_args, callback, disable):
        for i in range(len(sigmas) - 1):
            denoised = model(x, sigmas[i] * x.new_ones(len(x)), **extra_args)
            seen[i]["after"] = denoised
            x = denoised + sigmas[i + 1] / sigmas[i] * (x - denoised)
        return x

    watched = model.clone()
    watched.set_model_sampler_post_cfg_function(note)  # before the guidance, which joins last
    sample(watched, sampler=comfy.samplers.KSAMPLER(steps), **how)
    return seen


def latent(value: Tensor) -> dict:
    return {"samples": value}


def test_each_prediction_moves_by_the_rule():
    target = random(5)
    guidance = LatentGuidance(0.002, repeat=2, clamp=False)
    seen = predictions(patch_latent_guidance(analytic_model(), latent(target), guidance))
    assert len(seen) == 3
    for i, step in enumerate(seen):
        weight = posterior_mean_weight(SIGMAS[i], SIGMAS[i + 1])
        moved = step["before"]
        for _ in range(2):
            moved = moved + guidance_delta(moved, target * LATENT_SCALE, 6.0) / weight
        assert_close(step["after"], moved, 1e-5)


def test_full_fidelity_gives_the_target_and_none_changes_nothing():
    target = random(5)
    model = analytic_model()
    for sampler in ("euler", "dpmpp_2m", "dpmpp_3m_sde", "heun", "lcm"):
        given = sample(patch_latent_guidance(model, latent(target), FULL), sampler=sampler)
        assert_close(given, target, 2e-5)
    free = sample(model)
    for off in (LatentGuidance(), LatentGuidance(1.0, start_percent=0.5, end_percent=0.5)):
        assert torch.equal(sample(patch_latent_guidance(model, latent(target), off)), free)


def test_fidelity_is_the_share_of_the_target_in_every_prediction():
    target = random(5)
    guidance = LatentGuidance(fidelity=0.3)
    for step in predictions(patch_latent_guidance(analytic_model(), latent(target), guidance)):
        expected = 0.7 * step["before"] + 0.3 * target * LATENT_SCALE
        assert_close(step["after"], expected, 1e-5)


def test_more_fidelity_is_nearer_to_the_target():
    target = random(5)
    far = [
        (sample(patch_latent_guidance(analytic_model(), latent(target), settings)) - target)
        .square()
        .mean()
        .item()
        for settings in (
            LatentGuidance(),
            LatentGuidance(fidelity=0.2),
            LatentGuidance(fidelity=0.6),
            FULL,
        )
    ]
    assert far == sorted(far, reverse=True)
    assert far[0] > 10 * max(far[-1], 1e-6)


def test_a_window_covers_the_official_timesteps_and_no_other():
    model = analytic_model()
    sampling = model.get_model_object("model_sampling")
    sigmas = torch.cat([sampling.sigmas[[900, 599, 598, 300, 100, 99, 0]], torch.zeros(1)])
    # Official t_start 600 and t_stop 100: active at the timesteps 100 to 598.
    window = LatentGuidance(fidelity=0.5, start_percent=0.401, end_percent=0.9)
    patched = patch_latent_guidance(model, latent(random(5)), window)
    moved = [
        not torch.equal(step["before"], step["after"])
        for step in predictions(patched, sigmas=sigmas)
    ]
    assert moved == [False, False, True, True, True, False, False]


def test_every_official_window_is_a_number_of_the_slider():
    sampling = analytic_model().get_model_object("model_sampling")
    limits = torch.tensor([sampling.percent_to_sigma(k / 1000) for k in range(1001)])
    last_below = torch.searchsorted(sampling.sigmas, limits.float(), right=True) - 1
    assert set(range(1000)) <= set(last_below.tolist())  # as a start: active up to t
    first_above = torch.searchsorted(sampling.sigmas, limits.float())
    assert set(range(1000)) <= set(first_above.tolist())  # as an end: active from t on


def test_clamped_guidance_is_stable_where_the_official_overshoots():
    target = latent(torch.zeros(SIZE))
    strong = LatentGuidance(5.0, repeat=3)
    for sampler in ("euler", "dpmpp_2m_sde", "heun", "dpm_2", "lms"):
        model = patch_latent_guidance(analytic_model(), target, strong)
        assert sample(model, sampler=sampler).abs().max() < 3
    free = patch_latent_guidance(analytic_model(), target, replace(strong, clamp=False))
    assert sample(free).abs().max() > 100


def test_a_call_between_two_steps_is_guided_by_the_step_to_come():
    target, seen = random(5), []
    guidance = LatentGuidance(0.001, clamp=False)
    model = patch_latent_guidance(analytic_model(), latent(target), guidance)
    free = analytic_model()

    def midway(model, x, sigmas, extra_args, callback, disable):
        seen.append(model(x, 5.0 * x.new_ones(len(x)), **extra_args))
        return x

    for one in (free, model):
        sample(one, sampler=comfy.samplers.KSAMPLER(midway))
    weight = posterior_mean_weight(torch.tensor(5.0), torch.tensor(2.0))
    delta = guidance_delta(seen[0], target * LATENT_SCALE, 3.0)
    assert_close(seen[1], seen[0] + delta / weight, 1e-5)


@pytest.mark.parametrize("targets", [1, 3])
def test_a_batch_has_one_target_or_one_for_each(targets):
    target = random(5, (targets, *SIZE[1:]))
    given = sample(patch_latent_guidance(analytic_model(), latent(target), FULL), batch=3)
    assert_close(given, target.expand(3, -1, -1, -1), 2e-5)


def test_two_patches_act_one_after_the_other_and_leave_the_input_alone():
    model = analytic_model()
    free = sample(model)
    first = patch_latent_guidance(model, latent(random(5)), LatentGuidance(fidelity=0.5))
    both = patch_latent_guidance(first, latent(random(6)), LatentGuidance(fidelity=0.5))
    given = predictions(both)[-1]
    assert torch.equal(sample(model), free)
    step = (given["before"] + random(5) * LATENT_SCALE) / 2
    assert_close(given["after"], (step + random(6) * LATENT_SCALE) / 2, 1e-5)


def test_a_patched_model_samples_the_same_again():
    model = patch_latent_guidance(analytic_model(), latent(random(5)), LatentGuidance(0.001))
    assert torch.equal(sample(model), sample(model))


def test_it_acts_after_cfg():
    target = random(5)
    guidance = LatentGuidance(fidelity=0.5)
    for step in predictions(
        patch_latent_guidance(analytic_model(), latent(target), guidance), cfg=4.0
    ):
        assert_close(step["after"], (step["before"] + target * LATENT_SCALE) / 2, 1e-5)


# Pictures that decode to 64 x 64.
IMAGE_SIZE = (1, 4, 8, 8)


@pytest.fixture(scope="module")
def vae():
    with torch.inference_mode():
        return tiny_vae()


def expected_pull(vae, z, target, scale, weight, steps):
    """Return the pull by autograd of the stated distance through the VAE's decoder."""
    with torch.inference_mode(False), torch.enable_grad():
        decoder = tiny_vae().first_stage_model.requires_grad_(False)  # outside of inference mode
        target, weight = target.clone(), weight.clone()
        for step in steps:
            z = z.clone().requires_grad_()
            pixels = decoder.decode(z / LATENT_SCALE)
            distance = (weight * (pixels - target) ** 2).mean((1, 2, 3)).sum()
            (gradient,) = torch.autograd.grad(distance, z)
            z = (z - scale * gradient * step).detach()
    return z


@pytest.mark.parametrize("weighting", ["none", "edges"])
@pytest.mark.parametrize(("version", "scale", "repeat"), [("v2", 0.001, 1), ("v1", 3.0, 3)])
def test_pixel_guidance_is_the_gradient_through_the_decoder(vae, weighting, version, scale, repeat):
    image = picture(64, 64, batch=2)
    guidance = LatentGuidance(
        scale, version=version, space="rgb", weighting=weighting, repeat=repeat, clamp=False
    )
    model = patch_latent_guidance(analytic_model(), image, guidance, vae=vae)
    target = image.movedim(-1, 1) * 2 - 1
    weight = edge_weights(target) if weighting == "edges" else torch.ones(1)
    for i, step in enumerate(predictions(model, batch=2)):
        mean_weight = posterior_mean_weight(SIGMAS[i], SIGMAS[i + 1]).item()
        if version == "v2":
            pulled = expected_pull(
                vae, step["before"], target, 3000 * scale, weight, [1 / mean_weight] * repeat
            )
        else:
            pulled = expected_pull(vae, step["before"], target, scale, weight, [1.0] * repeat)
            pulled = step["before"] + 0.5 / mean_weight * (pulled - step["before"])
        moved = (pulled - step["before"]).abs().max().item()
        assert moved > 1e-3
        assert_close(step["after"], pulled, 1e-4 * max(1.0, moved))


def test_pixel_guidance_works_on_weights_of_either_mode():
    image = picture(64, 64)
    guidance = LatentGuidance(0.001, space="rgb")
    loaded_inside = tiny_vae()
    with torch.inference_mode(False):
        loaded_outside = tiny_vae()
    assert loaded_inside.first_stage_model.decoder.conv_in.weight.is_inference()
    assert not loaded_outside.first_stage_model.decoder.conv_in.weight.is_inference()
    results = [
        sample(patch_latent_guidance(analytic_model(), image, guidance, vae=one))
        for one in (loaded_inside, loaded_outside)
    ]
    assert_close(results[0], results[1], 1e-5)


def test_pixel_guidance_runs_on_weights_that_comfyui_does_not_move():
    """Those of the VAE may be in a buffer that the next layer overwrites: here they are spoilt."""
    image = picture(64, 64)
    guidance = LatentGuidance(0.001, space="rgb")
    expected = sample(patch_latent_guidance(analytic_model(), image, guidance, vae=tiny_vae()))
    with torch.inference_mode(False):
        vae = tiny_vae()
    decoder = vae.first_stage_model.decoder
    calls = []

    def spoil(*_: Any) -> None:
        calls.append(1)
        for weight in stored:
            weight.fill_(torch.nan)

    stored = list(decoder.requires_grad_(False).parameters())
    hook = decoder.conv_in.register_forward_pre_hook(spoil)
    found = sample(patch_latent_guidance(analytic_model(), image, guidance, vae=vae))
    hook.remove()
    assert len(calls) == 6  # three steps, each with a look at the clamped move
    assert_close(found, expected, 1e-5)


def test_pixel_guidance_asks_for_room_once_in_a_run(monkeypatch, vae):
    asked = []
    load = comfy.model_management.load_models_gpu

    def watch(models: Any, **options: Any) -> Any:
        asked.append(models)
        return load(models, **options)

    model = patch_latent_guidance(
        analytic_model(), picture(64, 64), LatentGuidance(0.001, space="rgb", repeat=3), vae=vae
    )
    # Where the gradient is asked for; ComfyUI's own loading at the start of a run is not meant.
    monkeypatch.setattr(latent_guidance.comfy.model_management, "load_models_gpu", watch)
    sample(model)
    assert len(asked) == 2  # the run's networks, then room for the decoder


def test_pixel_guidance_out_of_memory_goes_on_in_smaller_tiles(vae, caplog):
    guidance = LatentGuidance(0.01, space="rgb", clamp=False)
    whole = wide_moves(vae, guidance)
    decoder = vae.first_stage_model.decoder

    def refuse(_: Any, inputs: tuple[Tensor]) -> None:
        if inputs[0].shape[-2] * inputs[0].shape[-1] > 20 * 20:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")

    hook = decoder.register_forward_pre_hook(refuse)
    cut = wide_moves(vae, guidance)
    hook.remove()
    for moved, expected in zip(cut, whole, strict=True):
        assert (moved - expected).std() < NEAR_WHOLE * expected.std()
    (said,) = (text for text in caplog.messages if "gradient of decoding" in text)
    assert "320 pixels" in said
    assert "tiles of 160" in said


def test_pixel_guidance_brings_the_decoded_picture_nearer(vae):
    image = picture(64, 64)
    model = analytic_model()
    for weighting in ("none", "edges"):
        guidance = LatentGuidance(0.5, space="rgb", weighting=weighting, repeat=2)
        guided = sample(patch_latent_guidance(model, image, guidance, vae=vae))
        far, near = (
            (vae.decode(result) - image).square().mean().item()
            for result in (sample(model), guided)
        )
        assert near < 0.7 * far


def test_clamped_pixel_guidance_never_ends_farther_than_it_began(vae):
    image = picture(64, 64)
    target = image.movedim(-1, 1) * 2 - 1
    short = torch.tensor([10.0, 9.5, 0.0])  # c1 of 0.01, so the free move counts a hundredfold
    for scale in (0.01, 100.0):
        guidance = LatentGuidance(scale, space="rgb")
        model = patch_latent_guidance(analytic_model(), image, guidance, vae=vae)
        for step in predictions(model, sigmas=short):
            far, near = (
                (vae.first_stage_model.decode(step[when] / LATENT_SCALE) - target).square().mean()
                for when in ("before", "after")
            )
            assert near < 1.02 * far


def test_a_clamped_pull_of_v1_counts_once_however_short_the_step(vae):
    guidance = LatentGuidance(30.0, version="v1", space="rgb")
    model = patch_latent_guidance(analytic_model(), picture(64, 64), guidance, vae=vae)
    moves = []
    for sigma_next in (9.5, 9.0):
        step = predictions(model, sigmas=torch.tensor([10.0, sigma_next, 0.0]))[0]
        moves.append(step["after"] - step["before"])
    assert moves[0].abs().max() > 1e-3
    assert_close(moves[0], moves[1], 1e-6)


def test_pixel_guidance_rests_outside_of_its_window(vae):
    guidance = LatentGuidance(0.01, space="rgb", start_percent=0.5)
    seen = predictions(patch_latent_guidance(analytic_model(), picture(64, 64), guidance, vae=vae))
    assert [torch.equal(step["before"], step["after"]) for step in seen] == [True, True, False]


def test_an_image_is_padded_with_black_to_the_latents_size_and_encoded():
    vae = projection_vae()
    image = picture(100, 70)
    padded = F.pad(image.movedim(-1, 1), (0, 58, 0, 28)).movedim(1, -1)
    model = patch_latent_guidance(analytic_model(), image, FULL, vae=vae)
    assert_close(sample(model, size=(1, 4, 16, 16)), vae.encode(padded), 2e-5)


def test_pixels_and_fidelity_go_together(vae):
    image = picture(64, 64)
    guidance = LatentGuidance(0.001, fidelity=1.0, space="rgb")
    given = sample(patch_latent_guidance(analytic_model(), image, guidance, vae=vae))
    assert_close(given, vae.encode(image), 2e-5)


# Pictures that decode to 192 x 320.
WIDE_SIZE = (1, 4, 24, 40)


def wide_moves(vae, guidance: LatentGuidance, model=None) -> list[Tensor]:
    """Return how each prediction of a run is moved."""
    model = model or analytic_model()
    patched = patch_latent_guidance(model, picture(192, 320), guidance, vae=vae)
    return [step["after"] - step["before"] for step in predictions(patched, size=WIDE_SIZE)]


def cut_decoding(monkeypatch, tile: int, overlap: int) -> None:
    """Cut the decoding of a MODEL without tiles into other ones than usual."""
    monkeypatch.setattr(latent_guidance, "TILE_PX", tile)
    monkeypatch.setattr(latent_guidance, "TILE_OVERLAP_PX", overlap)


@pytest.mark.parametrize("clamp", [True, False])
def test_pixel_guidance_in_one_tile_is_that_without_tiles_bit_by_bit(vae, clamp):
    guidance = LatentGuidance(0.01, space="rgb", weighting="edges", clamp=clamp)
    whole = wide_moves(vae, guidance)
    one = wide_moves(vae, guidance, patch_tiles(analytic_model(), 4096, 64))
    for moved, expected in zip(one, whole, strict=True):
        assert torch.equal(moved, expected)


@pytest.mark.parametrize("weighting", ["none", "edges"])
def test_pixel_guidance_in_tiles_is_near_that_of_the_whole(monkeypatch, vae, weighting):
    guidance = LatentGuidance(0.01, space="rgb", weighting=weighting, clamp=False)
    whole = wide_moves(vae, guidance)[0]
    cut_decoding(monkeypatch, 128, 64)
    tiled = wide_moves(vae, guidance)[0]
    assert not torch.equal(tiled, whole)
    error = ((tiled - whole).std() / whole.std()).item()
    assert error < NEAR_WHOLE, error


def decoded_sizes(vae, run) -> set[tuple[int, int]]:
    sizes = set()
    hook = vae.first_stage_model.decoder.register_forward_pre_hook(
        lambda _, inputs: sizes.add(tuple(inputs[0].shape[-2:]))
    )
    try:
        run()
    finally:
        hook.remove()
    return sizes


def test_pixel_guidance_decodes_no_more_than_a_tile_at_once(monkeypatch, vae):
    cut_decoding(monkeypatch, 160, 32)
    guidance = LatentGuidance(0.01, space="rgb")
    assert decoded_sizes(vae, lambda: wide_moves(vae, guidance)) == {(20, 20)}


def test_pixel_guidance_takes_the_tiles_of_the_model(vae):
    guidance = LatentGuidance(0.01, space="rgb")
    tiled = patch_tiles(tiny_model(), 128, 64)
    model = patch_latent_guidance(tiled, picture(192, 320), guidance, vae=vae)

    def run() -> None:
        comfy.sample.sample_custom(
            model, random(2, WIDE_SIZE), 1.0, comfy.samplers.sampler_object("euler"),
            torch.tensor([10.0, 0.0]), text(1), text(2), torch.zeros(WIDE_SIZE),
            disable_pbar=True, seed=0,
        )  # fmt: skip

    assert decoded_sizes(vae, run) == {(16, 16)}


def test_tiled_pixel_guidance_brings_the_decoded_picture_nearer(monkeypatch, vae):
    image = picture(192, 320)
    cut_decoding(monkeypatch, 128, 64)
    guidance = LatentGuidance(0.5, space="rgb", repeat=2)
    model = analytic_model()
    free, guided = (
        vae.decode(sample(one, size=WIDE_SIZE))
        for one in (model, patch_latent_guidance(model, image, guidance, vae=vae))
    )
    assert (guided - image).square().mean() < 0.7 * (free - image).square().mean()


class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    pass


def test_a_flow_model_is_guided_in_its_own_terms():
    model = analytic_model()
    model.add_object_patch("model_sampling", Flow(model.model.model_config))
    target = random(5)
    sigmas = torch.tensor([1.0, 0.8, 0.3, 0.0])
    guidance = LatentGuidance(0.001, clamp=False)
    patched = patch_latent_guidance(model, latent(target), guidance)
    for i, step in enumerate(predictions(patched, sigmas=sigmas)):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        level, level_next = sigma / (1 - sigma), sigma_next / (1 - sigma_next)
        weight = (1 - (level_next / level) ** 2) / (1 + level_next**2) ** 0.5
        delta = guidance_delta(step["before"], target * LATENT_SCALE, 3.0)
        assert_close(step["after"], step["before"] + delta / weight, 1e-5)


def test_a_resshift_model_is_guided_by_its_chain(sr):
    model, vae = sr
    inputs = prepare_resshift(model, vae, picture(8, 16))
    samples = inputs.latent["samples"]
    target = torch.full_like(samples, 0.4)
    sigmas = residual_shift_sigmas(model, 4)
    seen = []

    def one_call(model, x, sigmas, extra_args, callback, disable):
        seen.append(model(x, sigmas[2] * x.new_ones(len(x)), **extra_args))
        return x

    for guidance in (LatentGuidance(), LatentGuidance(0.002, clamp=False)):
        comfy.sample.sample_custom(
            patch_latent_guidance(model, latent(target), guidance),
            random(2, tuple(samples.shape)),
            1.0,
            comfy.samplers.KSAMPLER(one_call),
            sigmas,
            inputs.positive,
            inputs.positive,
            samples,
            disable_pbar=True,
            seed=0,
        )
    eta = model.model.record.schedule.eta()
    weight = (1 - eta[0] / eta[1]).item()
    delta = guidance_delta(seen[0], model.model.process_latent_in(target), 6.0)
    assert_close(seen[1], seen[0] + delta / weight, 1e-5)
    assert delta.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changed", "remedy"),
    [
        ({"scale": -1.0}, "a scale of 0 or more"),
        ({"repeat": 0}, "a repeat of 1 or more"),
        ({"fidelity": 1.1}, "'fidelity' is 1.1; give 0 to 1"),
        ({"start_percent": -0.1}, "give 0 to 1"),
        ({"version": "v3"}, "one of v2, v1"),
        ({"space": "pixels"}, "one of latent, rgb"),
        ({"weighting": "edges"}, "Set 'space' to 'rgb'"),
    ],
)
def test_settings_out_of_range_are_refused(changed, remedy):
    with pytest.raises(ValueError, match=remedy):
        LatentGuidance(**changed)


def test_targets_that_do_not_fit_are_refused(vae):
    model = analytic_model()
    with pytest.raises(ValueError, match="Encode the target with the model's VAE"):
        patch_latent_guidance(model, latent(torch.zeros(1, 3, 8, 8)), FULL)
    with pytest.raises(ValueError, match="connect the model's VAE to 'vae' too"):
        patch_latent_guidance(model, picture(64, 64), FULL)
    with pytest.raises(ValueError, match="Connect 'image' and 'vae'"):
        patch_latent_guidance(model, latent(random(5)), LatentGuidance(1.0, space="rgb"))
    small = patch_latent_guidance(model, latent(random(5, (1, 4, 4, 8))), FULL)
    with pytest.raises(ValueError, match="Make both from the same padded image"):
        sample(small)
    two = patch_latent_guidance(model, latent(random(5, (2, *SIZE[1:]))), FULL)
    with pytest.raises(ValueError, match="2 targets for 3 images"):
        sample(two, batch=3)
    large = patch_latent_guidance(model, picture(72, 64), FULL, vae=projection_vae())
    with pytest.raises(
        ValueError, match="is 64 x 72, and the latent that is sampled decodes to 64 x 64"
    ):
        sample(large)
    small = patch_latent_guidance(model, picture(64, 64), FULL, vae=projection_vae())
    with pytest.raises(ValueError, match="at its own size or padded"):
        sample(small, size=(1, 4, 8, 16))
    three_channels = projection_vae()
    three_channels.latent_channels = 3
    with pytest.raises(ValueError, match="Connect the VAE that belongs to the model"):
        patch_latent_guidance(model, picture(64, 64), FULL, vae=three_channels)
