"""DiffBIR's second stage through ComfyUI, against the reference's runs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from torch import Tensor

from pack.pipelines import diffbir_sampling, noise
from pack.pipelines.diffbir_conditioning import CONDITION_KEY, prepare_diffbir
from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.diffbir_sampling import (
    patch_dynamic_cfg,
    preset_guidance,
    run_sampler,
    sample_diffbir,
    spaced_run_sigmas,
)
from pack.pipelines.latent_guidance import LatentGuidance, patch_latent_guidance
from pack.pipelines.noise import PictureSeeds
from pack.samplers.guidance import rescaled_cfg_scale
from pack.tests.support.analytic import analytic_model, around
from pack.tests.support.diffbir import (
    LATENT_SCALE,
    golden_texts,
    projection_vae,
    sample_recorded,
    text,
    tiny_control_net,
    tiny_model,
)
from pack.tests.support.golden import assert_close, golden_case

pytestmark = pytest.mark.comfy

V1, V2, V21 = (DIFFBIR_PRESETS[name] for name in ("v1", "v2", "v2.1"))
SIZE = (1, 4, 8, 8)


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def trajectories():
    return golden_case("diffbir/spaced_trajectories")


@pytest.fixture(scope="module")
def run_case():
    return golden_case("diffbir/tiny_end_to_end")


@pytest.fixture(scope="module")
def controlled(tmp_path_factory, run_case):
    """Return positive and negative conditioning of the golden runs, made by DiffBIR Conditioning."""
    with torch.inference_mode():
        description, golden = run_case
        made = prepare_diffbir(
            *golden_texts(),
            tiny_control_net(tmp_path_factory.mktemp("control")),
            projection_vae(),
            golden["image"],
            strength=description["strength"],
        )
        if made.latent["samples"].shape != golden["x_T"].shape:  # the golden runs pad nothing
            pytest.fail(f"padded to {made.latent['samples'].shape}")
        return made


def empty(batch: int = 1, size: tuple[int, ...] = SIZE) -> dict:
    return {"samples": torch.zeros(batch, *size[1:])}


def replayed(monkeypatch, start: Tensor, noises: Tensor) -> None:
    """Let seed 0 stand for recorded draws: the start, then one for each step."""
    draws: dict[int, list[Tensor]] = {}

    def draw(generators, like):
        mine = draws.setdefault(id(generators), [start, *(one[None] for one in noises)])
        kept.append(generators)
        return mine.pop(0).to(like.device)

    kept: list = []  # so that no id is used twice
    monkeypatch.setattr(noise, "draw_noise", draw)


def watched(steps: list) -> Callable:
    """Return a callback that notes the prediction of each step."""
    return lambda step, denoised, x, total: steps.append(denoised.clone())


@pytest.mark.parametrize(
    "name", ["v2_plain", "v2_plain_5", "v2_plain_50", "v2_guided", "v2_guided_window"]
)
def test_spaced_runs_are_the_references(monkeypatch, trajectories, name):
    description, golden = trajectories
    settings = description["runs"][name]
    guidance = LatentGuidance(clamp=False)
    if settings["guidance_scale"]:
        start, stop = settings["t_start"], settings["t_stop"]  # active where stop < t + 1 < start
        guidance = LatentGuidance(
            settings["guidance_scale"],
            start_percent=0.0 if start > 999 else round(1 - (start - 1.5) / 999, 3),
            end_percent=1.0 if stop < 0 else round(1 - (stop - 0.5) / 999, 3),
            repeat=settings["repeat"],
            clamp=False,
        )
    replayed(monkeypatch, golden["x_T"], golden[f"{name}_noises"])
    model, seen = analytic_model(), []
    result = sample_diffbir(
        model,
        around(golden["mu_cond"]),
        around(golden["mu_uncond"]),
        empty(),
        preset=V2,
        seeds=PictureSeeds(0),
        steps=settings["steps"],
        cfg=settings["cfg"],
        guidance=guidance,
        guidance_target={"samples": golden["guidance_target"] / LATENT_SCALE},
        callback=watched(seen),
    )
    assert_close(result["samples"] * LATENT_SCALE, golden[f"{name}_x"][-1:], 2e-5)
    # With guidance the first prediction moves ten times its distance, and so does its rounding.
    assert_close(torch.cat(seen), golden[f"{name}_pred_x0"], 5e-5 if name != "v2_guided" else 2e-4)
    assert model.model.diffusion_model.timesteps == settings["timesteps_descending"]


def test_the_zero_snr_run_is_exact_from_the_first_step(monkeypatch, trajectories):
    description, golden = trajectories
    settings = description["runs"]["v21_plain"]
    replayed(monkeypatch, golden["x_T"], golden["v21_plain_noises"])
    seen = []
    result = sample_diffbir(
        patch_dynamic_cfg(analytic_model(velocity=True)),
        around(golden["mu_cond"]),
        around(golden["mu_uncond"]),
        empty(),
        preset=V21,
        seeds=PictureSeeds(0),
        steps=settings["steps"],
        cfg=settings["cfg"],
        sampler="spaced",
        callback=watched(seen),
    )
    assert_close(result["samples"] * LATENT_SCALE, golden["v21_plain_x"][-1:], 2e-5)
    assert_close(torch.cat(seen), golden["v21_plain_pred_x0"], 2e-5)


def test_the_official_sampler_of_v21_is_the_references():
    description, golden = golden_case("diffbir/edm_3m_sde")
    model = diffbir_sampling._with_schedule(analytic_model(velocity=True), V21)
    sigmas = diffbir_sampling._run_sigmas(model, V21, 10, run_sampler(V21, "official"), "official")
    assert_close(sigmas / golden["sigmas"].clamp(min=1e-9), torch.tensor([*[1.0] * 10, 0]), 1e-6)
    noises = iter(golden["noises"])
    options = {"noise_sampler": lambda *_: next(noises)[None]}
    result = comfy.sample.sample_custom(
        model,
        golden["x_T"],
        description["cfg"],
        comfy.samplers.ksampler(V21.sampler, options),
        sigmas,
        around(golden["mu_cond"]),
        around(golden["mu_uncond"]),
        empty()["samples"],
        disable_pbar=True,
        seed=0,
    )
    assert_close(result * LATENT_SCALE, golden["result"], 1e-5)
    calls = model.model.diffusion_model.timesteps
    assert calls == golden["timesteps"][:10].tolist()


@pytest.mark.parametrize("run", ["eps", "eps_guided", "v_zsnr_rescaled"])
def test_whole_runs_with_the_control_network_are_the_references(
    monkeypatch, run_case, controlled, run
):
    description, golden = run_case
    settings = description["runs"][run]
    replayed(monkeypatch, golden["x_T"], golden[f"{run}_noises"])
    model = tiny_model(settings["parameterization"])
    if settings["rescale_cfg"]:
        model = patch_dynamic_cfg(model)
    result = sample_diffbir(
        model,
        controlled.positive,
        controlled.negative,
        controlled.latent,
        preset=V21 if settings["zero_snr"] else V2,
        seeds=PictureSeeds(0),
        steps=settings["steps"],
        cfg=settings["cfg"],
        sampler="spaced",
        guidance=LatentGuidance(settings["guidance_scale"] or 0.0, clamp=False),
    )
    error = {"eps": 3e-4, "eps_guided": 4.2e-5, "v_zsnr_rescaled": 2e-5}[run]
    assert_close(result["samples"] * LATENT_SCALE, golden[f"{run}_result"], error)


def test_stock_nodes_with_the_spaced_scheduler_come_near_the_zero_snr_reference(
    run_case, controlled
):
    description, golden = run_case
    settings = description["runs"]["v_zsnr_rescaled"]
    model = ModelSamplingDiscrete().patch(tiny_model("eps"), "v_prediction", True)[0]
    model = patch_dynamic_cfg(model)
    result = sample_recorded(
        model,
        controlled.positive,
        controlled.negative,
        "v_zsnr_rescaled",
        sigmas=spaced_run_sigmas(model, settings["steps"]),
    )
    assert_close(result, golden["v_zsnr_rescaled_result"], 2.8e-3)  # ddpm's finite first sigma


def test_stock_nodes_with_the_guidance_patch_are_the_reference(run_case, controlled):
    description, golden = run_case
    settings = description["runs"]["eps_guided"]
    model = patch_latent_guidance(
        tiny_model(),
        {"samples": controlled.positive[0][1][CONDITION_KEY]},
        LatentGuidance(settings["guidance_scale"], clamp=False),
    )
    result = sample_recorded(model, controlled.positive, controlled.negative, "eps_guided")
    assert_close(result, golden["eps_guided_result"], 6e-5)


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_the_spaced_scheduler_has_the_references_timesteps_where_normal_has_not(steps):
    model = analytic_model()
    sampling = model.get_model_object("model_sampling")
    expected = golden_case("diffbir/schedules")[0]["space_timesteps"][str(steps)][::-1]
    run = spaced_run_sigmas(model, steps)
    assert torch.equal(run, torch.cat([sampling.sigmas[expected], torch.zeros(1)]))
    normal = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    assert (normal / run)[:-1].sub(1).abs().max() > 1e-3


def run(model=None, **changed):
    """Return the sampled latent of a short run on the analytic model."""
    generator = torch.Generator().manual_seed(9)
    positive, negative = (around(torch.randn(SIZE, generator=generator)) for _ in range(2))
    latent = changed.pop("latent", empty())
    settings = {"preset": V2, "seeds": PictureSeeds(3), "steps": 6, **changed}
    model = analytic_model() if model is None else model
    return sample_diffbir(model, positive, negative, latent, **settings)["samples"]


def test_the_official_sampler_of_v2_is_ddpm_and_euler_ancestral_with_the_same_noise(monkeypatch):
    generator = torch.Generator().manual_seed(5)
    start, *noises = torch.randn(7, *SIZE, generator=generator)
    replayed(monkeypatch, start, torch.cat(noises))
    ours = run()
    model = analytic_model()
    generator.manual_seed(9)
    texts = [around(torch.randn(SIZE, generator=generator)) for _ in range(2)]
    for name in ("ddpm", "euler_ancestral"):
        draws = iter(noises)
        sampler = comfy.samplers.ksampler(name, {"noise_sampler": lambda *_: next(draws)})  # noqa: B023
        sigmas = spaced_run_sigmas(model, 6)
        stock = comfy.sample.sample_custom(
            model, start, 4.0, sampler, sigmas, *texts, empty()["samples"], disable_pbar=True
        )
        assert_close(ours, stock, 1e-4)


def test_zero_stands_for_the_presets_steps_and_cfg():
    seen = []
    model = analytic_model()
    run(model, steps=0, callback=watched(seen))
    assert len(seen) == V2.steps
    assert_close(run(steps=3, cfg=0.0), run(steps=3, cfg=V2.cfg), 0)
    assert (run(steps=3, cfg=V2.cfg) - run(steps=3, cfg=2.0)).abs().max() > 0.1


def test_v1_runs_without_the_negative_prompt():
    model = analytic_model()
    calls = model.model.diffusion_model.timesteps
    run(model, preset=V1, steps=4)
    assert calls == [999, 666, 333, 0]


@pytest.mark.parametrize("sampler", ["official", "spaced", "dpmpp_3m_sde", "euler_ancestral"])
@pytest.mark.parametrize("preset", [V2, V21])
def test_a_picture_does_not_depend_on_the_rest_of_its_batch(preset, sampler):
    def sampled(seeds, batch):
        model = analytic_model(velocity=preset.prediction == "v")
        return run(model, preset=preset, sampler=sampler, seeds=seeds, latent=empty(batch))

    three = sampled(PictureSeeds(20), 3)
    for k in range(3):
        assert_close(three[k : k + 1], sampled(PictureSeeds(20 + k), 1), 1e-4)
        assert_close(three[k : k + 1], sampled(PictureSeeds(20, places=[k]), 1), 1e-4)
    assert (three[0] - three[1]).abs().max() > 0.1
    same = sampled(PictureSeeds(20, "same for all"), 2)
    assert_close(same[1], same[0], 1e-5)


@pytest.mark.parametrize("preset", [V2, V21])
@pytest.mark.parametrize("sampler", ["official", "spaced", "euler"])
@pytest.mark.parametrize("start", ["noise", "condition"])
def test_the_start_is_the_official_one(preset, sampler, start):
    first = []

    def note(args):
        if not first:
            first.append(args["input"] / (1 + args["sigma"] ** 2).sqrt())
        return args["denoised"]

    model = analytic_model(velocity=preset.prediction == "v")
    model.set_model_sampler_post_cfg_function(note)
    generator = torch.Generator().manual_seed(8)
    condition = torch.randn(SIZE, generator=generator)
    latent = {"samples": condition if start == "condition" else torch.zeros(SIZE)}
    run(model, preset=preset, sampler=sampler, latent=latent)

    drawn = noise.draw_noise(PictureSeeds(3, "same for all", [0]).generators(1), condition)
    expected = drawn
    if start == "condition" and not preset.zero_snr:
        kept = golden_case("diffbir/schedules")[1]["alphas_cumprod"][999].float()
        expected = kept.sqrt() * condition * LATENT_SCALE + (1 - kept).sqrt() * drawn
    assert_close(first[0], expected, 2e-6)


def test_the_preset_decides_what_the_network_predicts():
    v_model = analytic_model(velocity=True)
    mean = run(v_model, preset=V21, sampler="spaced", cfg=1.0) * LATENT_SCALE
    generator = torch.Generator().manual_seed(9)
    target = torch.randn(SIZE, generator=generator)
    assert (mean - target).std() < 3 * 0.5  # drawn around the mean with the model's spread
    sampling = v_model.get_model_object("model_sampling")
    assert not isinstance(sampling, comfy.model_sampling.V_PREDICTION)  # the input stays as it was


def test_a_patch_that_agrees_with_the_preset_is_kept_and_one_that_does_not_is_refused():
    patched = ModelSamplingDiscrete().patch(analytic_model(velocity=True), "v_prediction", True)[0]
    assert torch.isfinite(run(patched, preset=V21)).all()
    kept = diffbir_sampling._with_schedule(patched, V21)
    assert kept is patched
    with pytest.raises(ValueError, match="Choose the preset of the weights"):
        run(patched, preset=V2)
    for prediction, zero_snr in (("eps", True), ("x0", False), ("v_prediction", False)):
        other = ModelSamplingDiscrete().patch(analytic_model(), prediction, zero_snr)[0]
        with pytest.raises(ValueError, match="take that node away"):
            run(other, preset=V2)


def test_another_model_is_refused_by_name():
    model = analytic_model()
    model.model.model_config = comfy.supported_models.SD15(model.model.model_config.unet_config)
    with pytest.raises(ValueError, match=r"SD15, and DiffBIR works on Stable Diffusion 2\.1"):
        run(model)
    inpainting = analytic_model()
    inpainting.model.model_config.unet_config["in_channels"] = 9
    with pytest.raises(ValueError, match="for inpainting"):
        run(inpainting)


@pytest.mark.parametrize("preset", [V2, V21])
@pytest.mark.parametrize("sampler", ["dpmpp_3m_sde", "euler_ancestral", "euler"])
def test_one_step_of_a_stock_sampler_is_the_prediction(preset, sampler):
    model = analytic_model(velocity=preset.prediction == "v")
    seen = []
    sampled = run(model, preset=preset, sampler=sampler, steps=1, callback=watched(seen))
    assert len(seen) == 1
    assert_close(sampled * LATENT_SCALE, seen[0], 2e-3)  # euler's difference of large states


@pytest.mark.parametrize(
    ("preset", "sampler", "clamp", "clamped"),
    [
        (V2, "official", False, False),
        (V2, "spaced", False, False),
        (V2, "spaced", True, True),
        (V2, "euler", False, True),
        (V21, "official", False, True),
        (V21, "spaced", False, False),
    ],
)
def test_moves_pass_the_target_only_with_the_spaced_sampler(preset, sampler, clamp, clamped):
    guidance = preset_guidance(
        preset, sampler, 0.5, 0.25, start_percent=0.1, end_percent=0.9, repeat=3, clamp=clamp
    )
    assert guidance == LatentGuidance(
        0.5, 0.25, preset.guidance_version, 0.1, 0.9, repeat=3, clamp=clamped
    )


def test_one_step_of_the_spaced_sampler_is_refused():
    with pytest.raises(ValueError, match="2 or more, not 1"):
        run(steps=1)
    with pytest.raises(ValueError, match="1 to 1000"):
        run(steps=1001)


@pytest.mark.parametrize("sampler", comfy.samplers.SAMPLER_NAMES)
@pytest.mark.parametrize("preset", [V2, V21])
def test_samplers_of_comfyui_run_with_guidance(preset, sampler):
    model = analytic_model(velocity=preset.prediction == "v")
    guidance = LatentGuidance(0.01, 0.2)
    sampled = run(
        model,
        preset=preset,
        sampler=sampler,
        guidance=guidance,
        guidance_target={"samples": torch.ones(SIZE)},
        cfg=2.0,
    )
    assert torch.isfinite(sampled).all()
    assert sampled.abs().max() < 100


@pytest.mark.parametrize("steps", [4, 20])
def test_a_sampler_may_ask_for_the_noise_of_an_interval_of_no_length(steps):
    sampled = run(analytic_model(), sampler="exp_heun_2_x0_sde", steps=steps)
    assert torch.isfinite(sampled).all()
    assert sampled.abs().max() < 100


@pytest.mark.parametrize("sampler", ["spaced", "dpmpp_2m"])
@pytest.mark.parametrize("scheduler", ["normal", "karras", "sgm_uniform", "ddim_uniform"])
def test_schedulers_of_comfyui_run(sampler, scheduler):
    assert torch.isfinite(run(sampler=sampler, scheduler=scheduler)).all()


def test_a_noise_mask_keeps_the_rest_of_the_latent():
    generator = torch.Generator().manual_seed(8)
    samples = torch.randn(SIZE, generator=generator)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6] = 1
    sampled = run(latent={"samples": samples, "noise_mask": mask})
    kept = mask.expand(SIZE) == 0
    assert_close(sampled[kept], samples[kept], 1e-5)
    assert (sampled[~kept] - samples[~kept]).abs().max() > 0.1


def test_the_latent_comes_back_with_what_it_carries():
    latent = {**empty(), "downscale_ratio_spacial": 8, "batch_index": [0]}
    sampled = sample_diffbir(
        analytic_model(),
        *[around(torch.zeros(SIZE))] * 2,
        latent,
        preset=V2,
        seeds=PictureSeeds(0),
        steps=2,
    )
    assert sampled.keys() == {"samples", "batch_index"}


def test_the_target_is_the_condition_unless_another_is_given(controlled):
    full = LatentGuidance(fidelity=1.0)

    def sampled(**changed):
        return sample_diffbir(
            tiny_model(),
            controlled.positive,
            controlled.negative,
            controlled.latent,
            preset=V2,
            seeds=PictureSeeds(0),
            steps=2,
            guidance=full,
            **changed,
        )["samples"]

    assert_close(sampled(), controlled.positive[0][1][CONDITION_KEY], 1e-5)
    other = torch.full_like(controlled.latent["samples"], 0.3)
    assert_close(sampled(guidance_target={"samples": other}), other, 1e-5)
    with pytest.raises(ValueError, match="make the conditioning with 'DiffBIR Conditioning'"):
        sample_diffbir(
            tiny_model(),
            text(),
            text(),
            controlled.latent,
            preset=V2,
            seeds=PictureSeeds(0),
            guidance=full,
        )


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_dynamic_cfg_is_the_rescaled_scale_at_every_step(scale):
    seen = []

    def note(args):
        seen.append((args["sigma"][0], args["denoised"], args["cond_denoised"]))
        return args["denoised"]

    generator = torch.Generator().manual_seed(9)
    texts = [around(torch.randn(SIZE, generator=generator)) for _ in range(2)]
    model = patch_dynamic_cfg(analytic_model())
    model.set_model_sampler_post_cfg_function(note)
    run(model, cfg=scale)
    plain = analytic_model().model
    for sigma, denoised, cond in seen:
        if scale == 1.0:
            assert torch.equal(denoised, cond)
            continue
        timestep = plain.model_sampling.timestep(sigma[None])
        a = 1 / (1 + sigma**2)
        difference = (texts[0][0][0] - texts[1][0][0]).view(SIZE)
        # How far the two means move the exact denoiser's answers apart.
        apart = difference * (1 - 0.25 * a / (0.25 * a + 1 - a))
        expected = cond + (rescaled_cfg_scale(scale, timestep.float()) - 1) * apart
        assert_close(denoised, expected, 2e-5)
    assert len(seen) == 6


@pytest.mark.parametrize("rank", [4, 5])
def test_dynamic_cfg_grows_over_the_noise_of_a_flow_too(rank):
    sampling = comfy.model_sampling.ModelSamplingFlux()
    (patch,) = patch_dynamic_cfg(analytic_model()).model_options["sampler_pre_cfg_function"]
    cond, uncond = torch.ones([2, *[1] * (rank - 1)]), torch.zeros([2, *[1] * (rank - 1)])
    scales = []
    for sigma in (1.0, 0.9, 0.5, 0.1, 0.0):
        made, pulled = patch(
            {
                "conds_out": [cond, uncond],
                "conds": [[], []],
                "cond_scale": 4.0,
                "sigma": torch.full((2,), sigma),
                "model": SimpleNamespace(model_sampling=sampling),
            }
        )
        guided = pulled + 4.0 * (made - pulled)
        assert guided.shape == cond.shape
        # cond is 1 and uncond 0: the scale at which classifier-free guidance gives as much.
        scales.append(guided.flatten()[0].item())
    assert scales == sorted(scales)
    assert scales[0] == pytest.approx(1.0)
    assert scales[1] < 1.1
    assert scales[-1] == pytest.approx(5.0)


def test_dynamic_cfg_works_under_a_patch_that_replaces_cfg():
    model = analytic_model()
    patched = patch_dynamic_cfg(model)
    for one in (model, patched):
        one.set_model_sampler_cfg_function(
            lambda args: args["uncond"] + args["cond_scale"] * (args["cond"] - args["uncond"])
        )
    replaced = run(patched)
    assert_close(replaced, run(patch_dynamic_cfg(analytic_model())), 1e-3)
    assert (replaced - run(model)).abs().max() > 0.1
