"""DiffBIR's second stage through ComfyUI, against the reference's runs."""

from __future__ import annotations

from collections.abc import Callable

import comfy.sample
import comfy.samplers
import comfy_extras.nodes_custom_sampler
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from torch import Tensor

from pack.pipelines import diffbir_sampling, noise
from pack.pipelines.control import CONDITION_KEY, prepare_diffbir
from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.diffbir_sampling import (
    patch_dynamic_cfg,
    run_sampler,
    sample_diffbir,
    spaced_run_sigmas,
    spaced_sampler,
)
from pack.pipelines.latent_guidance import LatentGuidance, patch_latent_guidance
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
    monkeypatch.setattr(diffbir_sampling, "draw_noise", draw)


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
        seed=0,
        steps=settings["steps"],
        cfg=settings["cfg"],
        guidance=guidance,
        guidance_target={"samples": golden["guidance_target"] / LATENT_SCALE},
        callback=watched(seen),
    )
    assert_close(result["samples"] * LATENT_SCALE, golden[f"{name}_x"][-1:], 2e-5)
    assert_close(torch.cat(seen), golden[f"{name}_pred_x0"], 2e-4)  # k is 10 at the start
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
        seed=0,
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
        seed=0,
        steps=settings["steps"],
        cfg=settings["cfg"],
        sampler="spaced",
        guidance=LatentGuidance(settings["guidance_scale"] or 0.0, clamp=False),
    )
    error = {"eps": 3e-4, "eps_guided": 6e-5, "v_zsnr_rescaled": 6e-5}[run]
    assert_close(result["samples"] * LATENT_SCALE, golden[f"{run}_result"], error)
