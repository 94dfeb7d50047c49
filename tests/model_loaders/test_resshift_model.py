from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import comfy.sd
import latent_preview
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comfy.cli_args import args
from comfy_extras.nodes_model_merging import ModelMergeSimple, save_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from pack.images.resize import enlarge_bicubic
from pack.model_loaders.networks.swin_unet import SwinUNet
from pack.model_loaders.resshift import load_resshift, load_vq_vae
from pack.model_loaders.resshift_model import PreviewColors
from pack.pipelines.noise import PictureSeeds
from pack.pipelines.resshift_conditioning import prepare_resshift
from pack.pipelines.resshift_sampling import patch_schedule, sample_resshift
from pack.pipelines.resshift_start import start_picture
from pack.samplers.chain import PREDICT_TYPES, predict_x_0, scale_input
from pack.samplers.schedules import ResShiftSchedule
from pack.tests.support.golden import assert_close
from pack.tests.support.objects import denoise, folded_pair, tiny_pair
from pack.tests.support.tiny import (
    DENSELY_STARTED_UNET,
    FOLDED_RECORD,
    INPAINT_RECORD,
    INPAINT_UNET,
    STARTED_UNET,
    TINY_RECORD,
    TINY_UNET,
    build_unet,
    picture,
    random_unet_weights,
    random_vq_weights,
    save_unet,
)

pytestmark = pytest.mark.comfy

GENERATOR = torch.Generator().manual_seed(0)
NOISE, Y = torch.randn(2, 2, 3, 8, 8, generator=GENERATOR)
LQ = torch.rand(2, 3, 8, 8, generator=GENERATOR) * 2 - 1
CONDITIONING = {"concat_latent_image": Y, "resshift_lq": LQ}
GRID = TINY_RECORD.schedule.trained_sigmas().float()


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


def load(folder, **record):
    model = load_resshift(save_unet(folder, record=replace(TINY_RECORD, **record)))
    comfy.model_management.load_models_gpu([model])
    return model


def predict(model, step: int = 2) -> Tensor:
    """Return one denoising call of a MODEL as it is loaded, at a step of the tiny chain."""
    sigma = GRID[step].item()
    return denoise(model, Y + sigma * NOISE, sigma, CONDITIONING)


@pytest.mark.parametrize("predict_type", PREDICT_TYPES)
@pytest.mark.parametrize("step", [0, 2, 3])
def test_every_predict_type_gives_the_papers_prediction(tmp_path, predict_type, step):
    model = load(tmp_path, predict_type=predict_type)
    network = build_unet(TINY_UNET, random_unet_weights())
    eta = TINY_RECORD.schedule.eta()[step]
    x = (1 - eta) * (Y + GRID[step].double() * NOISE) + eta * Y
    index = torch.full([2], step)
    output = network(scale_input(x, eta, 2.0).float(), index, lq=LQ)
    expected = predict_x_0(predict_type, output.double(), x, Y, eta, 2.0)
    # epsilon types divide float32's rounding of the output by 1 - eta, 0.02 at the last step
    divided = predict_type.startswith("epsilon")
    tolerance = 2e-5 / (1 - eta.item()) if divided else 2e-5
    assert_close(predict(model, step).double(), expected, tolerance)


def test_the_image_and_the_mask_reach_the_network_at_their_size(tmp_path):
    model = load_resshift(save_unet(tmp_path, INPAINT_UNET, INPAINT_RECORD))
    comfy.model_management.load_models_gpu([model])
    lq = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mask = lq[:, :1].sign()
    sigma = GRID[1].item()
    denoised = denoise(
        model, Y + sigma * NOISE, sigma, {**CONDITIONING, "resshift_lq": lq, "resshift_mask": mask}
    )
    network = build_unet(INPAINT_UNET, random_unet_weights(INPAINT_UNET))
    eta = TINY_RECORD.schedule.eta()[1].float()
    x = (1 - eta) * (Y + sigma * NOISE) + eta * Y
    expected = network(
        scale_input(x, eta, 2.0),
        torch.ones(2),
        lq=F.pixel_unshuffle(lq, 4),
        mask=F.pixel_unshuffle(mask, 4),
    )
    assert_close(denoised, expected, 1e-5)


def test_one_image_serves_a_batch(tmp_path):
    model = load(tmp_path)
    one = {name: value[:1] for name, value in CONDITIONING.items()}
    repeated = {name: value.expand(2, -1, -1, -1) for name, value in one.items()}
    x = Y + NOISE
    assert torch.equal(denoise(model, x, 1.0, one), denoise(model, x, 1.0, repeated))


def test_a_latent_of_another_size_than_the_conditionings_is_refused(tmp_path):
    larger = F.interpolate(Y + NOISE, size=(12, 16))
    with pytest.raises(ValueError, match=r"latent is 16x12 .* was made for 8x8\. Connect"):
        denoise(load(tmp_path), larger, 1.0, CONDITIONING)


def test_without_an_own_y_the_latent_that_is_sampled_is_y(tmp_path):
    model = load(tmp_path)
    x = Y + NOISE
    conds = model.model.extra_conds(noise=x, device=x.device, latent_image=Y, resshift_lq=LQ)
    assert torch.equal(conds["y_latent"].cond, Y)


@pytest.mark.parametrize(
    ("conditioning", "channels", "remedy"),
    [
        ({}, 3, "Connect positive and negative of the node 'ResShift Conditioning'"),
        ({"resshift_lq": LQ}, 4, "Encode with its own VAE: 'tiny_vq.safetensors'"),
    ],
)
def test_what_was_made_for_another_model_is_refused(tmp_path, conditioning, channels, remedy):
    with pytest.raises(ValueError, match=remedy):
        denoise(load(tmp_path), torch.zeros(1, channels, 8, 8), 1.0, conditioning)


def test_a_model_with_a_mask_asks_for_one(tmp_path):
    model = load_resshift(save_unet(tmp_path, INPAINT_UNET, INPAINT_RECORD))
    with pytest.raises(ValueError, match="needs a mask: connect one to 'ResShift Conditioning'"):
        denoise(model, torch.zeros(1, 3, 8, 8), 1.0, CONDITIONING)


BLOCK = "diffusion_model.input_blocks.1.1.blocks.1"
PATCHED_KEYS = (
    "diffusion_model.out.2.weight",
    f"{BLOCK}.norm1.weight",
    f"{BLOCK}.attn.qkv.weight",
    f"{BLOCK}.mlp.fc1.bias",
    f"{BLOCK}.attn.relative_position_bias_table.weight",
)


def with_patches(model, keys=PATCHED_KEYS):
    """Return a clone with a difference added to some weights, as a LoRA adds it."""
    patched = model.clone()
    weights = model.model.state_dict()
    generator = torch.Generator().manual_seed(3)
    patches = {
        key: ("diff", (torch.randn(weights[key].shape, generator=generator),)) for key in keys
    }
    assert set(patched.add_patches(patches, 0.5)) == set(keys)
    return patched


# Norms are summed in another order where weights are cast: 3e-5 of a range of 20 was seen.
ROUNDING = 1e-4


def load_partially(model):
    """Load a MODEL with room for next to nothing, so that its weights are cast when used."""
    model.load(torch.device("cpu"), lowvram_model_memory=1000)
    casting = [
        module for module in model.model.modules() if getattr(module, "comfy_cast_weights", 0)
    ]
    assert len(casting) > 20
    return model


def test_a_partly_loaded_model_predicts_the_same(tmp_path):
    expected = predict(load(tmp_path))
    model = load_resshift(save_unet(tmp_path))
    assert_close(predict(load_partially(model)), expected, ROUNDING)


@pytest.mark.parametrize("key", PATCHED_KEYS)
def test_a_weight_patch_works_loaded_whole_and_partly_and_is_taken_back(tmp_path, key):
    model = load(tmp_path)
    expected = predict(model)

    patched = with_patches(model, [key])
    comfy.model_management.load_models_gpu([patched])
    whole = predict(patched)
    assert (whole - expected).abs().max() > 1e-4

    comfy.model_management.load_models_gpu([model])
    assert torch.equal(predict(model), expected)

    fresh = with_patches(load_resshift(save_unet(tmp_path)), [key])
    assert_close(predict(load_partially(fresh)), whole, ROUNDING)


def merged_with_nothing_of_the_first(folder, config=STARTED_UNET, record=FOLDED_RECORD):
    """Return a merge of two models that takes all of the second, and the second."""
    models = []
    for seed in (1, 2):
        own = folder / str(seed)
        own.mkdir()
        models.append(load_resshift(save_unet(own, config, record, seed=seed)))
    (merged,) = ModelMergeSimple().merge(*models, ratio=0.0)
    return merged, models[1]


def test_a_merge_of_all_of_another_model_is_that_model(tmp_path):
    merged, second = merged_with_nothing_of_the_first(tmp_path)
    comfy.model_management.load_models_gpu([merged])
    weights, expected = merged.model.state_dict(), second.model.state_dict()
    assert [key for key in weights if not torch.equal(weights[key], expected[key])] == []


def test_a_partly_loaded_merge_is_merged_too(tmp_path):
    merged, second = merged_with_nothing_of_the_first(tmp_path, TINY_UNET, TINY_RECORD)
    comfy.model_management.load_models_gpu([second])
    assert_close(predict(load_partially(merged)), predict(second), ROUNDING)


WITH_A_START = pytest.mark.parametrize(
    "config", [STARTED_UNET, DENSELY_STARTED_UNET], ids=["compact", "dense"]
)


@WITH_A_START
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_the_picture_of_a_start_in_half_types_is_near_that_in_float32(tmp_path, config, dtype):
    path = save_unet(tmp_path, config, FOLDED_RECORD)
    planes = picture(8, 8).movedim(-1, 1)
    exact, half = (
        start_picture(load_resshift(path, dtype=choice), planes) for choice in ("fp32", dtype)
    )
    assert 0 < (half - exact).abs().max() < 0.05


@WITH_A_START
def test_the_network_of_a_start_is_merged_too_where_it_is_partly_loaded(tmp_path, config):
    merged, second = merged_with_nothing_of_the_first(tmp_path, config)
    planes = picture(8, 8).movedim(-1, 1)
    made = load_partially(merged).model.diffusion_model.start(planes)
    assert_close(made, second.model.diffusion_model.start(planes), ROUNDING)


@WITH_A_START
def test_a_saved_merge_is_the_merge_under_the_names_of_released_files(tmp_path, config):
    merged, _ = merged_with_nothing_of_the_first(tmp_path, config)
    out = tmp_path / "out"
    out.mkdir()
    save_checkpoint(merged, filename_prefix="saved", output_dir=str(out))
    held = {
        key.removeprefix("model.diffusion_model."): weight
        for key, weight in load_file(saved(out)).items()
        if key.startswith("model.diffusion_model.")
    }
    expected = random_unet_weights(config, seed=2)
    assert held.keys() == expected.keys()
    assert [key for key in held if not torch.equal(held[key], expected[key])] == []


def test_another_schedule_on_a_clone_leaves_the_model_as_it_is(tmp_path):
    model = load(tmp_path)
    expected = predict(model)
    patched = patch_schedule(model, ResShiftSchedule(7, 1.0, 0.1))
    assert len(patched.get_model_object("model_sampling").trained_sigmas) == 7
    assert len(model.get_model_object("model_sampling").trained_sigmas) == 4
    comfy.model_management.load_models_gpu([patched])
    assert (predict(patched) - expected).abs().max() > 1e-3
    comfy.model_management.load_models_gpu([model])
    assert torch.equal(predict(model), expected)


def saved(folder):
    return next(folder.glob("*.safetensors"))


def test_a_saved_model_loads_again_by_itself_and_predicts_the_same(tmp_path):
    model = load(tmp_path, task="saving", power=0.5, sampling_steps=3, predict_type="residual")
    out = tmp_path / "out"
    out.mkdir()
    save_checkpoint(model, filename_prefix="saved", output_dir=str(out))
    again = load_resshift(saved(out))
    assert again.model.record == model.model.record
    comfy.model_management.load_models_gpu([again])
    assert torch.equal(predict(again), predict(model))


@WITH_A_START
def test_a_saved_model_keeps_the_network_it_starts_from(tmp_path, config):
    model = load_resshift(save_unet(tmp_path, config, FOLDED_RECORD))
    out = tmp_path / "out"
    out.mkdir()
    save_checkpoint(model, filename_prefix="saved", output_dir=str(out))
    again = load_resshift(saved(out))
    planes = picture(8, 8).movedim(-1, 1)
    with torch.inference_mode():
        assert torch.equal(start_picture(again, planes), start_picture(model, planes))


def test_a_model_saved_with_patches_holds_them(tmp_path):
    schedule = ResShiftSchedule(5, 1.5, 0.1, 0.9, 0.7)
    model = patch_schedule(with_patches(load(tmp_path)), schedule, "epsilon")
    comfy.model_management.load_models_gpu([model])
    expected = predict(model)
    out = tmp_path / "out"
    out.mkdir()
    save_checkpoint(model, filename_prefix="saved", output_dir=str(out))
    again = load_resshift(saved(out))
    assert again.model.record == replace(
        TINY_RECORD.with_schedule(schedule), predict_type="epsilon"
    )
    comfy.model_management.load_models_gpu([again])
    assert torch.equal(predict(again), expected)


def test_a_saved_model_may_be_saved_with_a_vae_and_still_loads(tmp_path):
    model, vae = tiny_pair(tmp_path)
    path = tmp_path / "both.safetensors"
    comfy.sd.save_checkpoint(str(path), model, vae=vae)
    again = load_resshift(path)
    comfy.model_management.load_models_gpu([again])
    expected = predict(load(tmp_path))
    assert torch.equal(predict(again), expected)


def preview(model, latent: Tensor) -> np.ndarray:
    """Return the preview that ComfyUI draws of a latent, `(h, w, 3)` in 0..255."""
    previewer = latent_preview.get_previewer(torch.device("cpu"), model.model.latent_format)
    _, drawn, _ = previewer.decode_latent_to_preview_image("JPEG", latent)
    return np.asarray(drawn)


@pytest.fixture
def _previews(monkeypatch):
    monkeypatch.setattr(args, "preview_method", latent_preview.LatentPreviewMethod.Latent2RGB)


def color_vq_weights() -> dict[str, Tensor]:
    """Return weights of a VQ autoencoder whose latent is the picture's colours, evened out.

    As in a trained one the colours can be told from the latent, but with what factors only a fit
    finds out.
    """
    weights = {key: torch.zeros_like(value) for key, value in random_vq_weights().items()}
    for key, value in weights.items():
        if "norm" in key and key.endswith("weight"):
            value.fill_(1)
        if key.endswith("downsample.conv.weight"):
            value[range(32), range(32), 1, 1] = 1
    for color in range(3):  # silu(x) - silu(-x) is x
        weights["encoder.conv_in.weight"][color, color, 1, 1] = 1
        weights["encoder.conv_in.weight"][3 + color, color, 1, 1] = -1
        weights["encoder.conv_out.weight"][color, color, 1, 1] = 1
        weights["encoder.conv_out.weight"][color, 3 + color, 1, 1] = -1
    mixing = torch.tensor([[0.0, -1.0, 0.5], [0.7, 0.0, 0.0], [0.2, 0.3, -0.9]])
    weights["quant_conv.weight"].copy_(mixing[..., None, None])
    return weights


@pytest.mark.usefixtures("_previews")
def test_a_fitted_preview_of_a_vq_latent_is_a_recognisable_picture(tmp_path):
    model = load(tmp_path)
    path = tmp_path / "colors.safetensors"
    save_file(color_vq_weights(), path)
    vae = load_vq_vae(path)
    image = picture(24, 32).movedim(-1, 1)
    latent = vae.encode(enlarge_bicubic(image, 4).clamp(0, 1).movedim(1, -1))

    def correlation() -> float:
        drawn = preview(model, latent).astype(float)
        return np.corrcoef(drawn.ravel(), image[0].movedim(0, -1).numpy().ravel())[0, 1]

    assert correlation() < 0.5
    model.model.latent_format.preview_colors.fit(latent, image * 2 - 1)
    assert correlation() > 0.95


def test_the_fit_of_a_preview_is_the_best_there_is(tmp_path):
    _, vae = tiny_pair(tmp_path)
    image = picture(24, 32).movedim(-1, 1) * 2 - 1
    latent = vae.encode((enlarge_bicubic(image, 4).movedim(1, -1) + 1) / 2)
    colors = PreviewColors()
    colors.fit(latent, image)
    samples = latent.movedim(1, -1).reshape(-1, 3)
    targets = image.movedim(1, -1).reshape(-1, 3)
    drawn = colors(latent).movedim(1, -1).reshape(-1, 3)
    samples = torch.cat([samples, torch.ones(len(samples), 1)], dim=1)
    best = samples @ torch.linalg.lstsq(samples, targets).solution
    error, least = ((each - targets).square().mean() for each in (drawn, best))
    assert error < 1.02 * least  # a little damping is in it


@pytest.mark.usefixtures("_previews")
def test_a_preview_of_folded_pixels_is_the_picture_made_smaller(tmp_path):
    model, vae = folded_pair(tmp_path)
    image = picture(32, 48)
    latent = vae.encode(image)
    assert model.model.latent_format.latent_rgb_factors_reshape is None
    smaller = F.interpolate(image.movedim(-1, 1), size=(8, 12), mode="area")[0].movedim(0, -1)
    drawn = preview(model, latent)
    assert np.abs(drawn - smaller.numpy() * 255).max() <= 1  # drawn in whole steps, cut off


def test_preparing_a_picture_leaves_the_previews_of_other_runs_alone(tmp_path):
    model, vae = tiny_pair(tmp_path)
    one, other = (prepare_resshift(model, vae, picture(8, 8, seed=k)) for k in range(2))
    colors = model.model.latent_format.preview_colors
    assert colors.factors is None
    seen = []
    for inputs in (one, other, one):
        sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(), steps=1)
        seen.append(colors.factors)
    assert (seen[0] - seen[1]).abs().max() > 1e-3
    assert torch.equal(seen[0], seen[2])


@pytest.mark.usefixtures("_previews")
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_picture_gives_a_flat_preview_of_its_colour(tmp_path, value):
    model, vae = tiny_pair(tmp_path)
    image = torch.full((1, 8, 8, 3), value)
    latent = vae.encode(image.repeat_interleave(4, 1).repeat_interleave(4, 2))
    model.model.latent_format.preview_colors.fit(latent, image.movedim(-1, 1) * 2 - 1)
    drawn = preview(model, latent)
    assert np.isfinite(drawn).all()
    assert abs(drawn.mean() / 255 - value) < 0.1


def test_networks_are_built_from_the_models_operations(tmp_path):
    assert isinstance(load(tmp_path).model.diffusion_model, SwinUNet)
    assert not load(tmp_path).model.diffusion_model.training
