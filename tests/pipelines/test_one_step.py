"""ResShift's students of one step: SinSR against the golden step, RSD's channel of noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pack.model_loaders.checkpoint import UnsupportedCheckpointError
from pack.model_loaders.record import PRESETS, RSD_X2, RSD_X4
from pack.model_loaders.resshift import load_resshift, load_vq_vae
from pack.pipelines.noise import PictureSeeds
from pack.pipelines.resshift_conditioning import ResShiftInputs, prepare_resshift
from pack.pipelines.resshift_sampling import residual_shift_sigmas, sample_resshift
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.pipelines.tiles import TileSettings
from pack.tests.support.golden import assert_close, golden_case
from pack.tests.support.objects import sample_with_noises
from pack.tests.support.tiny import (
    TINY_UNET,
    golden_unet_weights,
    picture,
    random_unet_weights,
    save_vq,
)

pytestmark = pytest.mark.comfy

RSD_UNET = replace(TINY_UNET, noise_channels=1)
RSD_RECORD = replace(PRESETS[RSD_X4], image_size=8)


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("spacing", ["even", "official"])
@pytest.mark.parametrize("steps", [0, 1])
def test_its_own_step_is_the_noisiest_whatever_the_spacing(student, spacing, steps):
    sigmas = residual_shift_sigmas(student, steps, spacing)
    trained = student.get_model_object("model_sampling").trained_sigmas
    assert sigmas.tolist() == [trained[-1].item(), 0]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    with torch.inference_mode():
        return load_vq_vae(save_vq(tmp_path_factory.mktemp("vae")))


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Any:
    path = tmp_path_factory.mktemp("rsd") / "student.safetensors"
    header = {"resshift_config": RSD_RECORD.to_json()}
    save_file(random_unet_weights(RSD_UNET), path, metadata=header)
    with torch.inference_mode():
        return load_resshift(path)


def test_sinsr_is_the_references_first_step_from_its_start(tmp_path):
    """Start y + kappa sqrt(eta_T) n, one call at index 14, whose prediction is the result."""
    _, golden = golden_case("resshift/d1_sample_sf4_s15")
    record = replace(PRESETS["SinSR x4, 1 step"], image_size=16)
    path = tmp_path / "sinsr.safetensors"
    header = {"resshift_config": record.to_json()}
    save_file(golden_unet_weights("resshift/b1_unet_condlq"), path, metadata=header)
    model = load_resshift(path)
    values = {"concat_latent_image": golden["z_y"], "resshift_lq": golden["lq"]}
    conditioning = [[torch.zeros(1, 1, 8), values]]
    inputs = ResShiftInputs(conditioning, conditioning, {"samples": golden["z_y"]}, 64, 64)
    seen = watch_first_convolution(model)
    result = sample_with_noises(model, inputs, golden["noises"][:1])
    assert_close(result, golden["x0_steps"][0], 1e-5)
    (call,) = seen
    kappa, eta = 2.0, 0.99**2
    divisor = (kappa**2 * eta + 1) ** 0.5
    assert_close(call[:, :3] * divisor, golden["x_T"], 1e-5)
    assert_close(golden["x_T"], golden["z_y"] + kappa * 0.99 * golden["noises"][0], 1e-6)
    assert residual_shift_sigmas(model, 0).tolist() == pytest.approx([99.497487, 0.0])


def watch_first_convolution(model: Any) -> list[Tensor]:
    """Return a list that will hold what the network's first convolution is given."""
    seen: list[Tensor] = []
    first = model.model.diffusion_model.input_blocks[0][0]
    first.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    return seen


def test_the_network_sees_the_state_the_image_and_noise(student, vae):
    inputs = prepare_resshift(student, vae, picture(8, 16))
    seen = watch_first_convolution(student)
    sample_resshift(student, inputs.positive, inputs.latent, seeds=PictureSeeds(5))
    (call,) = seen  # one call
    assert call.shape == (1, 7, 8, 16)
    assert torch.equal(call[:, 3:6], inputs.positive[0][1]["resshift_lq"])
    start = torch.randn(1, 3, 8, 16, generator=torch.Generator().manual_seed(5))
    noise = call[:, 6:]
    assert 0.8 < noise.std() < 1.2
    assert not any(torch.equal(noise[0, 0], channel) for channel in start[0])


def sampled(model: Any, inputs: ResShiftInputs, seed: int) -> Tensor:
    return sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(seed))[
        "samples"
    ]


def test_the_noise_counts_and_comes_from_the_seed(student, vae):
    inputs = prepare_resshift(student, vae, picture(8, 8))
    first = sampled(student, inputs, 5)
    torch.manual_seed(77)
    torch.randn(5)
    assert torch.equal(sampled(student, inputs, 5), first)
    noise = comfy.sample.prepare_noise(inputs.latent["samples"], 5)
    custom = comfy.sample.sample_custom(
        student,
        noise,
        1.0,
        comfy.samplers.sampler_object("euler"),
        residual_shift_sigmas(student, 0),
        inputs.positive,
        inputs.negative,
        inputs.latent["samples"],
        disable_pbar=True,
        seed=12345,  # the noise decides, not the number beside it
    )
    assert_close(custom, first, 1e-4)  # Euler goes back from sigma 99, which rounds


def test_a_picture_of_a_batch_has_its_own_noise(student, vae):
    pictures = picture(8, 8, batch=2)
    both = restore_with_resshift(student, vae, pictures, seed=5, frames_at_once=2)
    alone = restore_with_resshift(student, vae, pictures[1:], seed=6)
    assert_close(both[1:], alone, 1e-4)


def test_tiles_cut_the_noise_with_the_latent(student, vae):
    whole = restore_with_resshift(student, vae, picture(8, 40), seed=5)
    seen = watch_first_convolution(student)
    tiled = restore_with_resshift(
        student, vae, picture(8, 40), seed=5, tiles=TileSettings(tile=64, overlap=32)
    )
    assert tiled.shape == whole.shape
    noises = [call[0, 6] for call in seen]
    assert len(noises) > 1
    assert torch.equal(noises[0][:, 8:], noises[1][:, :8])


def test_a_saved_student_knows_its_noise(student, tmp_path):
    saved = student.model.state_dict_for_saving(student.model.diffusion_model.state_dict())
    path = tmp_path / "saved.pth"
    torch.save({key: tensor.clone() for key, tensor in saved.items()}, path)
    assert load_resshift(path).model.record == RSD_RECORD


def save_bare(folder: Path, config=RSD_UNET, name: str = "net.safetensors", **header: str) -> Path:
    path = folder / name
    save_file(random_unet_weights(config), path, metadata=header)
    return path


def test_seven_channels_are_taken_for_noise_by_preset_header_or_name(tmp_path):
    header = {"noise_mode": "concat", "noise_channels": "1"}
    by_preset = load_resshift(save_bare(tmp_path), RSD_X4)
    by_header = load_resshift(save_bare(tmp_path, name="other.safetensors", **header))
    by_name = load_resshift(save_bare(tmp_path, name="ema_model_2800.safetensors"))
    for model in (by_preset, by_header, by_name):
        assert model.model.network_config.noise_channels == 1
        assert not model.model.network_config.cond_mask
        assert model.model.record.sampling_steps == 1


def test_seven_channels_are_taken_for_a_mask_by_a_preset_of_inpainting(tmp_path):
    model = load_resshift(save_bare(tmp_path), "inpainting, 4 steps")
    assert model.model.network_config.cond_mask


@pytest.mark.parametrize("preset", ["realsr x4, 15 steps (v1)", "SinSR x4, 1 step"])
def test_seven_channels_are_not_guessed(tmp_path, preset: str):
    with pytest.raises(
        UnsupportedCheckpointError,
        match=rf"of noise, as a student of RSD, or of a mask.*Set preset to '{RSD_X4}'",
    ):
        load_resshift(save_bare(tmp_path), preset)


@pytest.mark.parametrize("preset", [RSD_X4, RSD_X2])
def test_a_preset_of_rsd_for_another_network_is_told(tmp_path, preset: str):
    with pytest.raises(UnsupportedCheckpointError, match="none of them of noise"):
        load_resshift(save_bare(tmp_path, TINY_UNET), preset)


def test_the_preset_of_another_scale_is_told_with_the_autoencoder(tmp_path, vae):
    model = load_resshift(save_bare(tmp_path), RSD_X2)
    with pytest.raises(ValueError, match=r"at 1/2\. .*or choose the model's right preset"):
        prepare_resshift(model, vae, picture(8, 8))


def test_x2_works_on_an_image_of_twice_the_latents_size(tmp_path, vae):
    config = replace(RSD_UNET, condition_stages=1)
    record = replace(PRESETS[RSD_X2], image_size=8)
    model = load_resshift(save_bare(tmp_path, config, resshift_config=record.to_json()))
    assert restore_with_resshift(model, vae, picture(16, 24), seed=1).shape == (1, 32, 48, 3)
