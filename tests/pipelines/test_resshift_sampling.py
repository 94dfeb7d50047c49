from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from safetensors.torch import save_file
from torch import Tensor

from pack.model_loaders.record import PRESETS
from pack.model_loaders.resshift import load_resshift, load_vq_vae
from pack.pipelines.finish import finish_restoration
from pack.pipelines.noise import PictureSeeds, draw_noise
from pack.pipelines.resshift_conditioning import ResShiftInputs, prepare_resshift
from pack.pipelines.resshift_sampling import (
    patch_schedule,
    residual_shift_sampler,
    residual_shift_sigmas,
    sample_resshift,
)
from pack.samplers.schedules import ResShiftSchedule, sampling_sigmas
from pack.tests.support.golden import assert_close, golden_case
from pack.tests.support.objects import inpaint_pair, sample_with_noises, tiny_pair
from pack.tests.support.tiny import golden_unet_weights, golden_vq_weights, picture

pytestmark = pytest.mark.comfy


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def inputs(sr) -> ResShiftInputs:
    with torch.inference_mode():
        return prepare_resshift(*sr, picture(8, 16))


@pytest.fixture(scope="module")
def golden_vae(tmp_path_factory):
    path = tmp_path_factory.mktemp("golden") / "vq.safetensors"
    save_file(golden_vq_weights("resshift/c1_vq_f4"), path)
    with torch.inference_mode():
        return load_vq_vae(path)


def golden_model(folder, unet: str, preset: str):
    record = replace(PRESETS[preset], image_size=16)
    path = folder / "unet.safetensors"
    save_file(
        golden_unet_weights(f"resshift/{unet}"),
        path,
        metadata={"resshift_config": record.to_json()},
    )
    return load_resshift(path)


GOLDEN_RUNS = [
    ("d1_sample_sf4_s15", "b1_unet_condlq", "realsr x4, 15 steps (v2)"),
    ("d2_sample_sf4_s4_rect", "b1_unet_condlq", "realsr x4, 4 steps (v3)"),
    ("d3_sample_sf1_mask_s4", "b4_unet_lq4x_mask", "inpainting, 4 steps"),
]


def golden_inputs(model, vae, golden: dict[str, Tensor]) -> ResShiftInputs:
    mask = (golden["mask"][:, 0] + 1) / 2 if "mask" in golden else None
    return prepare_resshift(model, vae, (golden["lq"].movedim(1, -1) + 1) / 2, mask)


@pytest.mark.parametrize(("run", "unet", "preset"), GOLDEN_RUNS)
def test_a_run_on_comfyuis_objects_is_the_references(tmp_path, golden_vae, run, unet, preset):
    _, golden = golden_case(f"resshift/{run}")
    model = golden_model(tmp_path, unet, preset)
    inputs = golden_inputs(model, golden_vae, golden)
    assert_close(inputs.latent["samples"], golden["z_y"], 2e-5)
    latent = sample_with_noises(model, inputs, golden["noises"])
    assert_close(latent, golden["latent_final"], 2e-5)
    network = golden_vae.first_stage_model
    assert torch.equal(network.quantize.nearest(latent), golden["indices"])
    assert_close(network.decode(latent), golden["decoded"], 5e-5)


def test_an_odd_picture_is_padded_sampled_decoded_and_cropped_as_by_the_reference(
    tmp_path, golden_vae
):
    _, golden = golden_case("resshift/d4_sample_padding_sf4_s4")
    model = golden_model(tmp_path, "b1_unet_condlq", "realsr x4, 4 steps (v3)")
    inputs = golden_inputs(model, golden_vae, golden)
    assert_close(inputs.positive[0][1]["resshift_lq"], golden["lq_padded"], 1e-6)
    latent = sample_with_noises(model, inputs, golden["noises"])
    assert_close(latent, golden["latent_final"], 2e-5)
    finished = finish_restoration(golden_vae.decode(latent), inputs.width, inputs.height)
    assert_close(finished.movedim(-1, 1) * 2 - 1, golden["output"], 5e-5)


def test_the_sampler_draws_from_seed_plus_k_and_nothing_else(sr):
    model, vae = sr
    inputs = prepare_resshift(model, vae, picture(8, 8, batch=3))
    noises = []
    for k in range(3):
        generator = torch.Generator().manual_seed(11 + k)
        noises.append(torch.stack([torch.randn(3, 8, 8, generator=generator) for _ in range(4)]))
    expected = sample_with_noises(model, inputs, torch.stack(noises, dim=1))
    sampled = sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(11))[
        "samples"
    ]
    assert torch.equal(sampled, expected)


def test_the_node_and_comfyuis_custom_sampler_make_the_same_first_picture(sr, inputs):
    model = sr[0]
    samples = inputs.latent["samples"]
    custom = comfy.sample.sample_custom(
        model,
        comfy.sample.prepare_noise(samples, 5),
        1.0,
        residual_shift_sampler(),
        residual_shift_sigmas(model, 0),
        inputs.positive,
        inputs.negative,
        samples,
        disable_pbar=True,
        seed=5,
    )
    own = sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(5))["samples"]
    assert torch.equal(custom, own)


def test_the_same_seed_gives_the_same_latent_whatever_ran_before(sr, inputs):
    model = sr[0]
    first = sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(3))["samples"]
    other = sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(4), steps=2)[
        "samples"
    ]
    torch.manual_seed(99)
    torch.randn(7)
    stock(model, inputs, "euler_ancestral", "karras")
    again = sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(3))["samples"]
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.01


def test_every_picture_of_a_batch_is_that_picture_sampled_alone(sr):
    model, vae = sr
    images = picture(8, 8, batch=3)
    inputs = prepare_resshift(model, vae, images)
    sampled = sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(20))[
        "samples"
    ]
    for k in range(3):
        alone = prepare_resshift(model, vae, images[k : k + 1])
        by_seed = sample_resshift(model, alone.positive, alone.latent, seeds=PictureSeeds(20 + k))[
            "samples"
        ]
        by_place = sample_resshift(
            model, alone.positive, alone.latent, seeds=PictureSeeds(20, places=[k])
        )["samples"]
        assert torch.equal(by_seed, by_place)
        assert_close(sampled[k : k + 1], by_seed, 2e-5)  # sums of a batch round differently


def test_noise_may_be_the_same_for_all_pictures(sr):
    model, vae = sr
    inputs = prepare_resshift(model, vae, picture(8, 8).expand(2, -1, -1, -1))
    sampled = [
        sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(1, choice))[
            "samples"
        ]
        for choice in ("same for all", "different per image")
    ]
    assert_close(sampled[0][0], sampled[0][1], 2e-5)
    assert (sampled[1][0] - sampled[1][1]).abs().max() > 0.01


def test_without_randomness_the_chain_is_eulers_method(sr, inputs):
    model = sr[0]
    calm = sample_resshift(
        model, inputs.positive, inputs.latent, seeds=PictureSeeds(1), randomness=0.0
    )["samples"]
    samples = inputs.latent["samples"]
    start = draw_noise(PictureSeeds(1, "same for all", [0]).generators(1), samples)
    euler = stock(model, inputs, "euler", "simple", noise=start)
    assert_close(calm, euler, 2e-5)
    wild = sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(1))["samples"]
    assert (wild - calm).abs().max() > 0.01


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_any_number_of_steps_runs_and_reports_each(sr, inputs, steps):
    seen = []
    sampled = sample_resshift(
        sr[0],
        inputs.positive,
        inputs.latent,
        seeds=PictureSeeds(0),
        steps=steps,
        callback=lambda step, denoised, x, total: seen.append((step, total)),
    )["samples"]
    assert seen == [(step, steps) for step in range(steps)]
    assert torch.isfinite(sampled).all()


def test_zero_steps_are_the_models_own_also_where_it_needs_one(tmp_path, sr):
    assert len(residual_shift_sigmas(sr[0], 0)) == 5
    one_step, _ = tiny_pair(tmp_path, sampling_steps=1)
    sigmas = residual_shift_sigmas(one_step, 0)
    assert sigmas.tolist() == [
        one_step.get_model_object("model_sampling").trained_sigmas[-1].item(),
        0,
    ]


def test_the_latent_comes_back_with_what_it_carries(sr, inputs):
    latent = {**inputs.latent, "batch_index": [0]}
    sampled = sample_resshift(sr[0], inputs.positive, latent, seeds=PictureSeeds(0), steps=1)
    assert sampled.keys() == {"samples", "batch_index"}
    assert sampled["samples"].shape == latent["samples"].shape


def stock(model, inputs, sampler: str, scheduler: str, *, steps: int = 4, noise=None) -> Tensor:
    """Return what ComfyUI's KSampler makes."""
    samples = inputs.latent["samples"]
    if noise is None:
        noise = comfy.sample.prepare_noise(samples, 1)
    return comfy.sample.sample(
        model,
        noise,
        steps,
        1.0,
        sampler,
        scheduler,
        inputs.positive,
        inputs.negative,
        samples,
        disable_pbar=True,
        seed=1,
    )


@pytest.mark.parametrize("sampler", comfy.samplers.SAMPLER_NAMES)
@pytest.mark.parametrize("steps", [1, 4])
def test_every_stock_sampler_ends_without_noise(sr, inputs, sampler, steps):
    predictions = []

    def note(args):
        predictions.append(args["denoised"])
        return args["denoised"]

    model = sr[0].clone()
    model.set_model_sampler_post_cfg_function(note)
    sampled = stock(model, inputs, sampler, "simple", steps=steps)
    assert torch.isfinite(sampled).all()
    left = (sampled - predictions[-1]).std() / model.get_model_object("model_sampling").sigma_min
    assert left < 0.01  # in units of the noise at the last step; uni_pc ends at sigma 0.001


def test_pixels_outside_a_noise_mask_are_kept_at_the_clean_end(sr, inputs):
    mask = torch.zeros(1, 1, *inputs.latent["samples"].shape[-2:])
    mask[..., 4:] = 1
    samples = inputs.latent["samples"]
    sampled = comfy.sample.sample(
        sr[0],
        comfy.sample.prepare_noise(samples, 1),
        4,
        1.0,
        "dpm_fast",
        "simple",
        inputs.positive,
        inputs.negative,
        samples,
        noise_mask=mask,
        disable_pbar=True,
        seed=1,
    )
    assert torch.equal(sampled[..., :4], samples[..., :4])
    assert (sampled[..., 4:] - samples[..., 4:]).abs().max() > 0.01


def test_a_run_that_is_to_leave_noise_leaves_it(sr, inputs):
    samples = inputs.latent["samples"]
    sampled = comfy.sample.sample(
        sr[0],
        comfy.sample.prepare_noise(samples, 1),
        4,
        1.0,
        "dpm_fast",
        "simple",
        inputs.positive,
        inputs.negative,
        samples,
        last_step=2,
        disable_pbar=True,
        seed=1,
    )
    assert (sampled - samples).std() > 1


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc"])
def test_stock_schedulers_run(sr, inputs, sampler, scheduler):
    sampled = stock(sr[0], inputs, sampler, scheduler, steps=6)
    assert torch.isfinite(sampled).all()
    assert sampled.abs().max() < 20


@pytest.mark.parametrize(
    "schedule", [ResShiftSchedule(4, 2.0, 0.2), ResShiftSchedule(15, 2.0, 0.04)]
)
def test_the_simple_scheduler_at_t_steps_is_the_trained_grid_bit_for_bit(sr, schedule):
    model = patch_schedule(sr[0], schedule)
    sampling = model.get_model_object("model_sampling")
    simple = comfy.samplers.calculate_sigmas(sampling, "simple", schedule.steps)
    assert torch.equal(simple, sampling_sigmas(schedule.trained_sigmas().float(), 0))
    assert torch.equal(simple, residual_shift_sigmas(model, schedule.steps))


def network_inputs(model) -> tuple[object, list[dict[str, Tensor]]]:
    """Return a clone of a MODEL and a list that its network's inputs are noted in."""
    seen = []

    def note(executor, x, timesteps, *arguments, **kwargs):
        seen.append({"x": x, "timesteps": timesteps, **kwargs})
        return executor(x, timesteps, *arguments, **kwargs)

    watched = model.clone()
    watched.add_wrapper(WrappersMP.DIFFUSION_MODEL, note)
    return watched, seen


def test_the_network_gets_the_whole_index_of_each_step(sr, inputs):
    model, seen = network_inputs(sr[0])
    sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(0))
    assert [call["timesteps"].tolist() for call in seen] == [[3], [2], [1], [0]]


def test_areas_crop_what_the_network_sees(sr):
    model, seen = network_inputs(sr[0])
    inputs = prepare_resshift(*sr, picture(8, 32))
    left, right = (8, 16, 0, 0), (8, 16, 0, 16)  # height, width, y, x in latent pixels
    text, values = inputs.positive[0]
    areas = [[text, {**values, "area": area, "strength": 1.0}] for area in (left, right)]
    sampled = sample_resshift(model, areas, inputs.latent, seeds=PictureSeeds(0), steps=1)[
        "samples"
    ]

    whole = values["resshift_lq"]
    noise = draw_noise(PictureSeeds(0, "same for all", [0]).generators(1), whole)
    for name, columns in (("left", slice(0, 16)), ("right", slice(16, 32))):
        lq = whole[..., columns]
        assert any(torch.equal(lq, one[None]) for call in seen for one in call["lq"]), name
        part = ResShiftInputs(
            [
                [
                    text,
                    {
                        "concat_latent_image": inputs.latent["samples"][..., columns],
                        "resshift_lq": lq,
                    },
                ]
            ],
            [],
            {"samples": inputs.latent["samples"][..., columns]},
            0,
            0,
        )
        part = replace(part, negative=part.positive)
        sigmas = residual_shift_sigmas(sr[0], 1)
        alone = comfy.sample.sample_custom(
            sr[0],
            noise[..., columns],
            1.0,
            residual_shift_sampler(),
            sigmas,
            part.positive,
            part.negative,
            part.latent["samples"],
            disable_pbar=True,
            seed=0,
        )
        assert_close(sampled[..., columns], alone, 2e-5)


def test_one_image_serves_a_batch_of_latents(sr, inputs):
    model = sr[0]
    three = {"samples": inputs.latent["samples"].expand(3, -1, -1, -1)}
    sampled = sample_resshift(model, inputs.positive, three, seeds=PictureSeeds(30))["samples"]
    for k in range(3):
        alone = sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(30 + k))[
            "samples"
        ]
        assert_close(sampled[k : k + 1], alone, 2e-5)


@pytest.mark.parametrize("sampler", ["own", "euler"])
def test_a_noise_mask_keeps_the_rest_of_the_latent(sr, inputs, sampler):
    model = sr[0]
    mask = torch.zeros(1, 1, 8, 16)
    mask[..., 4:12] = 1
    samples = inputs.latent["samples"]
    if sampler == "own":
        latent = {**inputs.latent, "noise_mask": mask}
        sampled = sample_resshift(model, inputs.positive, latent, seeds=PictureSeeds(0))["samples"]
    else:
        sampled = comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(samples, 0),
            4,
            1.0,
            "euler",
            "simple",
            inputs.positive,
            inputs.negative,
            samples,
            noise_mask=mask,
            disable_pbar=True,
            seed=0,
        )
    kept = mask.expand_as(samples) == 0
    assert_close(sampled[kept], samples[kept], 1e-6)
    assert (sampled[~kept] - samples[~kept]).abs().max() > 0.1


def test_a_latent_of_a_grey_picture_is_not_mistaken_for_an_empty_one(sr, inputs):
    latent = {"samples": torch.zeros(1, 3, 8, 16), "downscale_ratio_spacial": 4}
    sampled = sample_resshift(sr[0], inputs.positive, latent, seeds=PictureSeeds(0))["samples"]
    assert sampled.shape == (1, 3, 8, 16)
    assert sampled.abs().max() > 0.1


def test_a_mask_model_samples_with_stock_samplers_too(tmp_path):
    model, vae = inpaint_pair(tmp_path)
    mask = torch.zeros(32, 32)
    mask[8:24, 8:24] = 1
    inputs = prepare_resshift(model, vae, picture(32, 32), mask)
    assert torch.isfinite(stock(model, inputs, "dpmpp_2m", "simple")).all()


def test_guidance_with_an_equal_negative_changes_nothing(sr, inputs):
    model = sr[0]
    samples = inputs.latent["samples"]
    runs = [
        comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(samples, 0),
            4,
            cfg,
            "euler",
            "simple",
            inputs.positive,
            inputs.negative,
            samples,
            disable_pbar=True,
            seed=0,
        )
        for cfg in (1.0, 5.0)
    ]
    assert_close(runs[1], runs[0], 1e-4)


def test_the_sampler_on_a_model_of_another_kind_says_what_to_load():
    class Patcher:
        def get_model_object(self, name: str) -> object:
            return object()

    class Wrapped:
        class inner_model:  # noqa: N801 - the attribute's name
            model_patcher = Patcher()

    sampler = residual_shift_sampler()
    with pytest.raises(ValueError, match="Load one with 'Load ResShift Model'"):
        sampler.sampler_function(
            Wrapped, torch.zeros(1, 3, 8, 8), torch.ones(2), **sampler.extra_options
        )


def test_a_schedule_out_of_range_is_refused(sr):
    with pytest.raises(ValueError, match="must be positive"):
        patch_schedule(sr[0], ResShiftSchedule(4, -1.0, 0.2))
    with pytest.raises(ValueError, match="at most 4"):
        residual_shift_sigmas(sr[0], 5, "official")


def test_a_patched_schedule_is_what_is_sampled(sr, inputs):
    patched, seen = network_inputs(patch_schedule(sr[0], ResShiftSchedule(6, 1.0, 0.1)))
    sample_resshift(patched, inputs.positive, inputs.latent, seeds=PictureSeeds(0))
    own = sr[0].model.record
    assert len(seen) == (own.sampling_steps or 6)
    assert len(residual_shift_sigmas(patched, 0)) == 7


@pytest.mark.parametrize("neg_scale", [0.0, 1.0])
def test_perp_neg_which_divides_by_no_difference_is_the_prediction_itself(sr, inputs, neg_scale):
    samples = inputs.latent["samples"]
    guider = Guider_PerpNeg(sr[0])
    guider.set_conds(inputs.positive, inputs.negative, inputs.negative)
    guider.set_cfg(4.0, neg_scale)
    noise = comfy.sample.prepare_noise(samples, 1)
    sigmas = residual_shift_sigmas(sr[0], 0)
    euler = comfy.samplers.sampler_object("euler")
    sampled = guider.sample(noise, samples, euler, sigmas, disable_pbar=True, seed=1)
    assert_close(sampled, stock(sr[0], inputs, "euler", "simple", noise=noise), 1e-4)
