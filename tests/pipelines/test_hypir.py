"""HYPIR on ComfyUI's objects: parity with the formula, patches that act as any LoRA's."""

from __future__ import annotations

import logging

import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete
from comfy_extras.nodes_model_merging import ModelMergeSimple
from torch import Tensor

from pack.pipelines.hypir import (
    TIMESTEP,
    patch_hypir,
    single_step_sampler,
    single_step_sigmas,
)
from pack.pipelines.noise import WHOLE_BATCH
from pack.pipelines.sampling import sample_latent
from pack.pipelines.tiles import patch_tiles
from pack.tests.support.diffbir import LATENT_SCALE, tiny_model
from pack.tests.support.golden import assert_close, golden_case
from pack.tests.support.hypir import STEP_CASE, lora_weights, save_lora, small_sd2, unet_weights

pytestmark = pytest.mark.comfy

# float32 against float64, through 257 patched modules.
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return golden_case(STEP_CASE)[1]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_lora(tmp_path_factory.mktemp("hypir"))


@pytest.fixture(scope="module")
def model(path):
    with torch.inference_mode():
        return patch_hypir(small_sd2(), path)


def latent_of(golden: dict[str, Tensor]) -> Tensor:
    """Return the latent as a VAE makes it; ComfyUI scales it to the golden z."""
    return golden["z"] / LATENT_SCALE


def restore(model, golden: dict[str, Tensor], *, noise: Tensor | None = None, **options) -> Tensor:
    """Return what HYPIR's SAMPLER and SIGMAS make through ComfyUI, in the network's scale."""
    latent = options.pop("latent", latent_of(golden))
    mask = options.pop("mask", None)
    sigmas = single_step_sigmas(model, options.pop("timestep", TIMESTEP))
    text = [[golden["context"], {}]]
    restored = comfy.sample.sample_custom(
        model,
        torch.zeros_like(latent) if noise is None else noise,
        1.0,
        single_step_sampler(**options),
        sigmas,
        text,
        text,
        latent,
        noise_mask=mask,
        disable_pbar=True,
        seed=0,
    )
    return restored * LATENT_SCALE


def test_a_step_is_the_published_formula(model, golden):
    """The reference: diffusers' UNet with PEFT's LoRA unmerged, in float64."""
    assert_close(restore(model, golden), golden["x_0"], TOLERANCE)


def test_the_timestep_is_200_and_its_sigma_the_published_one(model):
    sigmas = single_step_sigmas(model)
    alpha_bar = golden_case(STEP_CASE)[0]["alpha_bar"]
    assert sigmas.tolist() == pytest.approx([((1 - alpha_bar) / alpha_bar) ** 0.5, 0], rel=1e-6)
    timestep = model.get_model_object("model_sampling").timestep(sigmas[:1])
    assert timestep.tolist() == [200]


def test_noise_that_is_connected_is_not_added(model, golden):
    noise = torch.randn(golden["z"].shape, generator=torch.Generator().manual_seed(9))
    assert torch.equal(restore(model, golden, noise=noise), restore(model, golden))


@pytest.mark.parametrize("timestep", [0, 500, 999])
def test_at_other_timesteps_the_network_sees_the_latent_as_it_is(model, golden, timestep: int):
    sampling = model.get_model_object("model_sampling")
    sigma = float(sampling.sigmas[timestep])
    seen = []

    def noted(apply, args):
        seen.append((args["input"], args["timestep"]))
        return apply(args["input"], args["timestep"], **args["c"])

    watched = model.clone()
    watched.set_model_unet_function_wrapper(noted)
    restored = restore(watched, golden, timestep=timestep)
    ((x, found),) = seen
    # ComfyUI's class divides by sqrt(1 + sigma^2) right before the network.
    assert_close(x / (1 + sigma**2) ** 0.5, golden["z"], 1e-6)
    assert found.tolist() == pytest.approx([sigma], rel=1e-6)
    assert torch.isfinite(restored).all()


def test_strength_stops_on_the_way(model, golden):
    whole, half = restore(model, golden), restore(model, golden, strength=0.5)
    assert_close(half, (golden["z"] + whole) / 2, 1e-5)
    assert_close(restore(model, golden, strength=0.0), golden["z"], 1e-6)


def test_masked_pixels_alone_change_and_the_rest_is_seen_as_it_is(model, golden):
    whole = restore(model, golden)
    mask = torch.zeros(1, 1, *golden["z"].shape[-2:])
    mask[..., :8] = 1
    kept = restore(model, golden, mask=mask)
    assert_close(kept[..., 8:], golden["z"][..., 8:], 1e-6)
    assert_close(kept[..., :8], whole[..., :8], 1e-5)


def test_tiles_that_are_larger_change_nothing_and_smaller_ones_blend(model, golden):
    assert torch.equal(restore(patch_tiles(model, 512, 256), golden), restore(model, golden))
    tiled = restore(patch_tiles(model, 64, 32), golden)
    assert torch.isfinite(tiled).all()
    assert not torch.equal(tiled, restore(model, golden))


def test_pictures_of_a_batch_are_restored_as_alone(model, golden):
    latents = torch.cat([latent_of(golden), latent_of(golden).flip(-1)])
    both = restore(model, golden, latent=latents)
    assert_close(both[:1], golden["x_0"], TOLERANCE)
    assert_close(both[1:], restore(model, golden, latent=latents[1:]), TOLERANCE)


def product(name: str) -> Tensor:
    up, down = (lora_weights()[f"{name}.lora_{part}.default.weight"] for part in "BA")
    return up.flatten(1) @ down.flatten(1)


WEIGHTS = {
    "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2.weight",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0": (
        "middle_block.1.transformer_blocks.0.attn1.to_out.0.weight"
    ),
    "up_blocks.0.upsamplers.0.conv": "output_blocks.2.1.conv.weight",
    "conv_out": "out.2.weight",
}


def test_the_unpatched_model_stays_as_it_was(path):
    base = small_sd2()
    patched = patch_hypir(base, path)
    assert len(patched.patches) == 257
    assert not base.patches
    assert patched.model is base.model


def saved_weights(model, tmp_path) -> dict[str, Tensor]:
    target = tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(target), model)
    return comfy.utils.load_torch_file(str(target))


def test_a_saved_model_holds_the_lora(model, tmp_path):
    saved = saved_weights(model, tmp_path)
    for name, key in WEIGHTS.items():
        before = unet_weights()[key]
        expected = before + product(name).view(before.shape)
        assert_close(saved[f"model.diffusion_model.{key}"], expected, 1e-5)


@pytest.mark.slow
def test_merging_takes_the_lora_along(model, tmp_path):
    merged = ModelMergeSimple().merge(small_sd2(), model, 0.25)[0]
    saved = saved_weights(merged, tmp_path)
    key = WEIGHTS["conv_out"]
    expected = unet_weights()[key] + 0.75 * product("conv_out").view(unet_weights()[key].shape)
    assert_close(saved[f"model.diffusion_model.{key}"], expected, 1e-5)


def test_another_lora_adds_to_it(model, tmp_path):
    key = "diffusion_model.out.2.weight"
    lora = {"lora_unet_conv_out.lora_up.weight": torch.ones(4, 1, 1, 1)}
    lora["lora_unet_conv_out.lora_down.weight"] = torch.ones(1, 32, 3, 3)
    both, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0)
    saved = saved_weights(both, tmp_path)[f"model.{key}"]
    before = unet_weights()["out.2.weight"]
    assert_close(saved, before + product("conv_out").view(before.shape) + 0.5, 1e-5)


def test_a_base_of_v_prediction_is_told_and_may_be_declared_to_predict_noise(path, golden):
    base = tiny_model("v", weights=unet_weights())
    with pytest.raises(ValueError, match=r"takes for v-prediction.*Load v2-1_512-ema-pruned"):
        patch_hypir(base, path)
    with pytest.raises(ValueError, match=r"takes for v-prediction.*Load v2-1_512-ema-pruned"):
        single_step_sigmas(base)
    (declared,) = ModelSamplingDiscrete().patch(base, "eps", False)
    assert_close(restore(patch_hypir(declared, path), golden), golden["x_0"], TOLERANCE)


def test_a_schedule_without_training_timesteps_is_told(model):
    (continuous,) = ModelSamplingContinuousEDM().patch(model, "eps", 120.0, 0.002)
    with pytest.raises(ValueError, match=r"has no training timesteps. Take that node away"):
        single_step_sigmas(continuous)


def test_hypir_is_not_added_twice(model, path):
    with pytest.raises(
        ValueError, match=r"twice is too much. Connect the model of Load Checkpoint"
    ):
        patch_hypir(model, path)


def test_an_empty_latent_is_told(model, golden):
    with pytest.raises(ValueError, match=r"'latent_image' is empty.*from VAE Encode"):
        restore(model, golden, latent=torch.zeros_like(golden["z"]))


def test_a_model_without_the_lora_is_told_in_the_log(model, caplog):
    with caplog.at_level(logging.WARNING):
        single_step_sigmas(model)
        assert not caplog.text
        single_step_sigmas(small_sd2())
    assert "did not come through 'Load HYPIR'" in caplog.text


def test_a_node_that_set_v_prediction_is_told_to_go(path):
    model = small_sd2()
    model.add_object_patch(
        "model_sampling", tiny_model("v", weights=unet_weights()).model.model_sampling
    )
    with pytest.raises(ValueError, match=r"v-prediction, and HYPIR needs noise .*Take that node"):
        patch_hypir(model, path)


def test_more_than_one_step_is_refused(model, golden):
    latent = {"samples": latent_of(golden)}
    text = [[golden["context"], {}]]
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    with pytest.raises(ValueError, match="one step and got 2 of them"):
        sample_latent(model, text, text, latent, single_step_sampler(), sigmas, seeds=WHOLE_BATCH)


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_strength_out_of_range_is_told(strength: float):
    with pytest.raises(ValueError, match=f"'strength' is {strength}; give 0 to 1"):
        single_step_sampler(strength)


@pytest.mark.parametrize("timestep", [-1, 1000])
def test_a_timestep_out_of_range_is_told(model, timestep: int):
    with pytest.raises(ValueError, match=f"'timestep' is {timestep}; give 0 to 999"):
        single_step_sigmas(model, timestep)
