from __future__ import annotations

from typing import Any

import comfy.sample
import pytest
import torch

import nodes
from pack.pipelines import tiles
from pack.pipelines.diffbir_conditioning import CONDITION_KEY, prepare_diffbir
from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.diffbir_sampling import sample_diffbir
from pack.pipelines.noise import PictureSeeds
from pack.pipelines.own_pictures import own_pictures
from pack.pipelines.resshift_conditioning import prepare_resshift
from pack.pipelines.resshift_sampling import sample_resshift
from pack.pipelines.tiles import patch_tiles
from pack.tests.support.diffbir import text
from pack.tests.support.golden import assert_close
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy

ROUNDING = 5e-3  # of 300: sums of another batch round differently, and CFG enlarges that


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


def from_batch(latent: dict[str, Any], place: int, length: int = 1) -> dict[str, Any]:
    return nodes.LatentFromBatch().frombatch(latent, place, length)[0]


def stock(model, prepared, latent, **options) -> torch.Tensor:
    """Return what KSampler makes."""
    values = {"seed": 3, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    (made,) = nodes.KSampler().sample(
        model,
        positive=prepared.positive,
        negative=prepared.negative,
        latent_image=latent,
        **{**values, **options},
    )
    return made["samples"]


def own(model, prepared, latent) -> torch.Tensor:
    return sample_resshift(model, prepared.positive, latent, seeds=PictureSeeds(3))["samples"]


def own_diffbir(model, prepared, latent) -> torch.Tensor:
    return sample_diffbir(
        model,
        prepared.positive,
        prepared.negative,
        latent,
        preset=DIFFBIR_PRESETS["v2"],
        steps=2,
        seeds=PictureSeeds(3),
        sampler="euler",
    )["samples"]


def prepare(weights, images, **options):
    return prepare_diffbir(text(1), text(2), weights.control_net, weights.vae, images, **options)


@pytest.mark.parametrize("sampler", [stock, own])
def test_a_latent_out_of_a_batch_is_restored_as_its_own_picture(sr, sampler):
    model, vae = sr
    images = picture(8, 8, batch=3)
    whole = prepare_resshift(model, vae, images)
    alone = prepare_resshift(model, vae, images[1:2])
    latent = from_batch(whole.latent, 1)
    made = sampler(model, whole, latent)
    assert_close(made, sampler(model, alone, latent), 2e-5)
    assert_close(made, sampler(model, whole, whole.latent)[1:2], 2e-5)


@pytest.mark.parametrize("start", ["noise", "condition"])
@pytest.mark.parametrize("sampler", [stock, own_diffbir])
def test_a_latent_out_of_a_batch_meets_the_control_of_its_own_picture(weights, sampler, start):
    images = picture(64, 64, batch=3)
    whole = prepare(weights, images, start=start)
    alone = prepare(weights, images[1:2], start=start)
    latent = from_batch(whole.latent, 1)
    made = sampler(weights.model, whole, latent)
    assert_close(made, sampler(weights.model, alone, latent), ROUNDING)
    assert_close(made, sampler(weights.model, whole, whole.latent)[1:2], ROUNDING)
    again = sampler(weights.model, whole, from_batch(whole.latent, 2))
    assert (again - made).abs().max() > 0.1


@pytest.mark.parametrize("windows", [1, 2, 100])  # in a call; a CPU takes one
@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_tiles_of_a_latent_out_of_a_batch_see_their_own_picture(weights, monkeypatch, windows, cfg):
    monkeypatch.setattr(tiles, "_windows_per_call", lambda *_: windows)
    model = patch_tiles(weights.model, 64, 32)
    whole = prepare(weights, picture(64, 128, batch=3))
    latent = from_batch(whole.latent, 1)
    made = stock(model, whole, latent, cfg=cfg)
    of_whole = stock(model, whole, whole.latent, cfg=cfg)
    assert_close(made, of_whole[1:2], ROUNDING)
    assert (made - of_whole[:1]).abs().max() > 0.1


def test_a_latent_out_of_a_batch_is_known_by_little_noise_too(weights):
    whole = prepare(weights, picture(256, 256, batch=3))
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(3, 4, 32, 32, generator=generator) / 0.18215
    latent = {**whole.latent, "samples": samples}
    options = {"steps": 4, "scheduler": "normal", "denoise": 0.2}
    made = stock(weights.model, whole, from_batch(latent, 1), **options)
    assert_close(made, stock(weights.model, whole, latent, **options)[1:2], ROUNDING)


def test_the_guidance_pulls_to_the_own_picture(weights):
    whole = prepare(weights, picture(64, 64, batch=3))
    condition = whole.positive[0][1][CONDITION_KEY]
    (chosen,) = own_pictures([whole.positive], from_batch(whole.latent, 2))
    assert torch.equal(chosen[0][1][CONDITION_KEY], condition[2:])
    assert whole.positive[0][1][CONDITION_KEY] is condition


def test_branches_go_on_sharing_their_control(weights):
    whole = prepare(weights, picture(64, 64, batch=3))
    chosen = own_pictures([whole.positive, whole.negative], from_batch(whole.latent, 2))
    assert chosen[0][0][1]["control"] is chosen[1][0][1]["control"]
    untouched = own_pictures([whole.positive], whole.latent)
    assert untouched[0][0][1]["control"] is whole.positive[0][1]["control"]


@pytest.mark.parametrize("sampler", [stock, own])
def test_a_batch_taken_several_times_is_restored_several_times(sr, sampler):
    model, vae = sr
    whole = prepare_resshift(model, vae, picture(8, 8, batch=2))
    (twice,) = nodes.RepeatLatentBatch().repeat(whole.latent, 2)
    made = sampler(model, whole, twice)
    assert_close(made[:2], sampler(model, whole, whole.latent), 2e-5)


@pytest.mark.parametrize("sampler", [stock, own])
def test_a_latent_that_is_of_none_of_the_pictures_is_refused(sr, sampler):
    model, vae = sr
    whole = prepare_resshift(model, vae, picture(8, 8, batch=3))
    foreign = {"samples": torch.full((2, 3, 8, 8), 0.5), "batch_index": [8, 9]}
    with pytest.raises(ValueError, match="2 of the 3 pictures"):
        sampler(model, whole, foreign)


@pytest.mark.parametrize("index", [[1], [1, 1, 1]])
def test_noise_goes_by_the_place_that_comfyuis_nodes_give(sr, index):
    model, vae = sr
    images = picture(8, 8).expand(3, -1, -1, -1)
    whole = prepare_resshift(model, vae, images)
    part = {"samples": whole.latent["samples"][: len(index)], "batch_index": index}
    made = own(model, prepare_resshift(model, vae, images[:1]), part)
    expected = own(model, whole, whole.latent)[1]
    for row in made:
        assert_close(row, expected, 2e-5)


def test_an_sde_sampler_of_diffbir_draws_by_that_place_too(weights):
    def sampled(prepared, latent):
        return sample_diffbir(
            weights.model,
            prepared.positive,
            prepared.negative,
            latent,
            preset=DIFFBIR_PRESETS["v2"],
            steps=3,
            seeds=PictureSeeds(3),
            sampler="dpmpp_2m_sde",
        )["samples"]

    images = picture(64, 64).expand(3, -1, -1, -1)
    whole = prepare(weights, images)
    alone = prepare(weights, images[:1])
    made = sampled(alone, from_batch(whole.latent, 2))
    assert_close(made, sampled(whole, whole.latent)[2:], ROUNDING)


def test_a_control_alone_goes_by_the_noise_that_comfyui_drew(weights):
    whole = prepare(weights, picture(64, 64, batch=3))
    samples = torch.zeros(1, 4, 8, 8)
    foreign = torch.randn(samples.shape, generator=torch.Generator().manual_seed(77))
    with pytest.raises(ValueError, match="1 of the 3 pictures"):
        comfy.sample.sample(
            weights.model,
            foreign,
            1,
            1.0,
            "euler",
            "simple",
            whole.positive,
            whole.negative,
            samples,
            disable_pbar=True,
            seed=3,
        )


def test_a_latent_of_another_size_than_the_control_is_refused(weights):
    prepared = prepare(weights, picture(64, 64))
    larger = {"samples": torch.zeros(1, 4, 8, 16)}
    with pytest.raises(ValueError, match=r"is 16x8 .* made for 8x8"):
        own_diffbir(weights.model, prepared, larger)
