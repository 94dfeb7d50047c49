from __future__ import annotations

import copy
import logging
from dataclasses import replace

import comfy.model_management
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from pack.model_loaders.checkpoint import UnsupportedCheckpointError
from pack.model_loaders.networks.vq import VQAutoencoder
from pack.model_loaders.record import PRESETS, record_tensor
from pack.model_loaders.resshift import (
    BUNDLED_MODEL_PATH,
    bundled_vae,
    load_bundled_model,
    load_resshift,
    load_vq_vae,
)
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.tests.support.golden import assert_close
from pack.tests.support.objects import denoise
from pack.tests.support.tiny import (
    DENSELY_STARTED_UNET,
    FOLDED_RECORD,
    INPAINT_RECORD,
    INPAINT_UNET,
    OPERATIONS,
    TINY_RECORD,
    TINY_UNET,
    TINY_VQ,
    in_network,
    picture,
    random_unet_weights,
    random_vq_weights,
    save_unet,
    save_vq,
)

pytestmark = pytest.mark.comfy


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


def predict(model) -> torch.Tensor:
    """Return one denoising call of a MODEL with fixed inputs."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2, 3, 8, 8, generator=generator)
    lq = torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1
    comfy.model_management.load_models_gpu([model])
    return denoise(model, x + y, 1.4, {"concat_latent_image": y, "resshift_lq": lq})


def test_a_checkpoint_becomes_a_model_with_its_record_and_sizes(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        model = load_resshift(save_unet(tmp_path))
    assert model.model.record == TINY_RECORD
    assert model.model.network_config == TINY_UNET
    assert model.model.size_multiple_px == 8
    assert model.model.latent_format.latent_channels == 3
    assert model.model.latent_format.spacial_downscale_ratio == 4
    assert model.get_model_object("model_sampling").schedule == TINY_RECORD.schedule
    assert "'tiny_unet.safetensors': ResShift, super-resolution x4" in caplog.text


def test_the_weights_are_the_files(tmp_path):
    model = load_resshift(save_unet(tmp_path))
    loaded = model.model.diffusion_model.state_dict()
    for key, tensor in in_network(random_unet_weights()).items():
        assert torch.equal(loaded[key], tensor)


def test_an_inpainting_model_counts_the_condition_into_its_sizes(tmp_path):
    model = load_resshift(save_unet(tmp_path, INPAINT_UNET, INPAINT_RECORD))
    assert model.model.latent_format.spacial_downscale_ratio == 4
    assert model.model.size_multiple_px == 32


def test_a_pickle_of_training_gives_the_same_model(tmp_path):
    expected = predict(load_resshift(save_unet(tmp_path)))
    weights = {f"module._orig_mod.{key}": value for key, value in random_unet_weights().items()}
    weights["resshift_config"] = record_tensor(TINY_RECORD)
    path = tmp_path / "trained.pth"
    torch.save({"state_dict": weights, "iters_start": 4}, path)
    assert torch.equal(predict(load_resshift(path)), expected)


def test_the_references_buffers_may_be_there_or_not_and_give_the_trained_size(tmp_path):
    weights = random_unet_weights()
    expected = predict(load_resshift(save_unet(tmp_path)))
    block = "input_blocks.1.1.blocks"
    buffers = {
        f"{block}.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.int64),
        f"{block}.1.attn_mask": torch.zeros(4, 16, 16),
    }
    path = tmp_path / "with_buffers.safetensors"
    wrong_size = replace(TINY_RECORD, image_size=16)
    save_file({**weights, **buffers}, path, metadata={"resshift_config": wrong_size.to_json()})
    model = load_resshift(path)
    assert model.model.network_config.image_size == 8
    assert torch.equal(predict(model), expected)


def test_a_preset_is_used_in_place_of_the_files_record(tmp_path):
    model = load_resshift(save_unet(tmp_path), preset="realsr x4, 15 steps (v2)")
    assert model.model.record == PRESETS["realsr x4, 15 steps (v2)"]
    assert len(model.get_model_object("model_sampling").trained_sigmas) == 15


# What rounding of weights or of everything costs the denoised latent, whose spread is 1. CPUs compute
# in bf16, and their convolutions round in different places: 0.074 was seen on one, 0.101 on another.
PRECISION = {"fp32": 0.0, "fp16": 0.01, "bf16": 0.125}


@pytest.mark.parametrize("dtype", PRECISION)
def test_weights_may_be_stored_in_half_precision(tmp_path, dtype):
    stored = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    path = save_unet(tmp_path)
    exact = predict(load_resshift(path))
    model = load_resshift(path, dtype=dtype)
    assert {p.dtype for p in model.model.diffusion_model.parameters()} == {stored}
    prediction = predict(model)
    assert prediction.dtype == torch.float32
    assert_close(prediction, exact, PRECISION[dtype])
    assert dtype == "fp32" or not torch.equal(prediction, exact)


def test_auto_computes_in_float32_on_the_cpu_also_from_a_file_in_half_precision(tmp_path):
    path = tmp_path / "half.safetensors"
    weights = {key: value.half() for key, value in random_unet_weights().items()}
    save_file(weights, path, metadata={"resshift_config": TINY_RECORD.to_json()})
    model = load_resshift(path)
    assert model.model.get_dtype_inference() == torch.float32
    assert torch.equal(predict(model), predict(load_resshift(path, dtype="fp32")))


def test_a_start_of_another_scale_than_the_records_is_refused(tmp_path):
    path = save_unet(tmp_path, DENSELY_STARTED_UNET, replace(FOLDED_RECORD, scale=2))
    found = r"start that enlarges by 4, .* of scale 2\. Set preset to one of scale 4"
    with pytest.raises(UnsupportedCheckpointError, match=found):
        load_resshift(path)


def test_a_missing_tensor_is_named(tmp_path):
    path = save_unet(tmp_path)
    weights = load_file(path)
    del weights["output_blocks.1.0.in_layers.0.weight"]
    save_file(weights, path, metadata={"resshift_config": TINY_RECORD.to_json()})
    with pytest.raises(
        UnsupportedCheckpointError, match=r"lacks 1 of .* output_blocks\.1\.0\.in_layers\.0\.weight"
    ):
        load_resshift(path)


def test_a_tensor_too_many_is_named(tmp_path):
    path = tmp_path / "more.safetensors"
    weights = {**random_unet_weights(), "out.3.weight": torch.zeros(1)}
    save_file(weights, path, metadata={"resshift_config": TINY_RECORD.to_json()})
    with pytest.raises(UnsupportedCheckpointError, match=r"has 1 tensors .*out\.3\.weight"):
        load_resshift(path)


def test_an_autoencoder_in_the_model_loader_says_which_node_takes_it(tmp_path):
    with pytest.raises(UnsupportedCheckpointError, match=r"not a ResShift.*Load ResShift VAE"):
        load_resshift(save_vq(tmp_path))


def test_a_model_in_the_autoencoder_loader_says_what_it_is(tmp_path):
    with pytest.raises(
        UnsupportedCheckpointError, match=r"not a VQ autoencoder.*Load ResShift Model"
    ):
        load_vq_vae(save_unet(tmp_path))


def test_missing_files_say_so(tmp_path):
    for load in (load_resshift, load_vq_vae):
        with pytest.raises(FileNotFoundError, match=r"'gone\.pth' is not there"):
            load(tmp_path / "gone.pth")


def test_an_autoencoder_becomes_a_vae(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG):
        vae = load_vq_vae(save_vq(tmp_path))
    assert "No VAE weights" not in caplog.text
    assert vae.latent_channels == 3
    assert vae.spacial_compression_encode() == vae.spacial_compression_decode() == 4
    image = picture(24, 40)
    latent = vae.encode(image)
    assert_close(latent, vae.first_stage_model.encode(image.movedim(-1, 1) * 2 - 1), 1e-6)
    decoded = vae.decode(latent)
    assert decoded.shape == image.shape
    expected = (vae.first_stage_model.decode(latent) + 1) / 2
    assert_close(decoded, expected.clamp(0, 1).movedim(1, -1), 1e-6)


def test_the_first_stage_of_a_full_checkpoint_is_found(tmp_path):
    path = tmp_path / "full.ckpt"
    weights = {f"first_stage_model.{key}": value for key, value in random_vq_weights().items()}
    torch.save({"state_dict": {**weights, "model.other.weight": torch.zeros(1)}}, path)
    image = picture(8, 8)
    expected = load_vq_vae(save_vq(tmp_path)).encode(image)
    assert torch.equal(load_vq_vae(path).encode(image), expected)


def test_alpha_is_cut_before_encoding(tmp_path):
    image = picture(16, 16, channels=4)
    for vae in (load_vq_vae(save_vq(tmp_path)), bundled_vae()):
        assert torch.equal(vae.encode(image), vae.encode(image[..., :3]))


def test_sizes_that_do_not_fit_are_cropped_as_by_every_vae(tmp_path):
    vae = load_vq_vae(save_vq(tmp_path))
    image = picture(18, 23)
    assert torch.equal(vae.encode(image), vae.encode(image[:, 1:17, 1:21]))


def test_a_batch_is_encoded_and_decoded_picture_by_picture(tmp_path):
    vae = load_vq_vae(save_vq(tmp_path))
    images = picture(16, 24, batch=3)
    latent = vae.encode(images)
    alone = torch.cat([vae.encode(image[None]) for image in images])
    assert_close(latent, alone, 1e-5)
    assert_close(vae.decode(alone), torch.cat([vae.decode(one[None]) for one in alone]), 1e-5)


def test_tiles_of_the_vq_vae_are_near_the_whole(tmp_path):
    vae = load_vq_vae(save_vq(tmp_path))
    image = picture(96, 128)
    latent = vae.encode(image)
    tiled = vae.encode_tiled(image, tile_x=64, tile_y=64, overlap=16)
    assert tiled.shape == latent.shape
    # Norms see a tile instead of the picture, so equality is not to be had.
    assert (tiled - latent).abs().mean() < 0.5 * latent.std()
    decoded = vae.decode_tiled(latent, tile_x=16, tile_y=16, overlap=4)
    assert decoded.shape == image.shape
    whole = vae.decode(latent)
    assert (decoded - whole).abs().mean() < 0.5 * whole.std()


def test_a_tile_as_large_as_the_picture_is_the_whole(tmp_path):
    vae = load_vq_vae(save_vq(tmp_path))
    image = picture(32, 32)
    latent = vae.encode(image)
    # ComfyUI runs three shapes of tiles and averages; each holds the whole picture here.
    assert_close(vae.encode_tiled(image, tile_x=256, tile_y=256, overlap=8), latent, 1e-5)
    decoded = vae.decode_tiled(latent, tile_x=64, tile_y=64, overlap=2)
    assert_close(decoded, vae.decode(latent), 1e-5)


def test_the_bundled_vae_is_exact_to_float32(tmp_path):
    vae = bundled_vae()
    image = torch.randint(0, 256, (2, 20, 28, 3), generator=torch.Generator().manual_seed(0)) / 256
    latent = vae.encode(image)
    assert latent.shape == (2, 48, 5, 7)
    assert torch.equal(latent, F.pixel_unshuffle(image.movedim(-1, 1) * 2 - 1, 4))
    assert torch.equal(vae.decode(latent), image)


def test_the_bundled_vae_is_exact_under_tiling():
    vae = bundled_vae()
    # Thirds of these sum without rounding, so equality can be asked of ComfyUI's averages.
    image = torch.randint(0, 2, (1, 96, 160, 3), generator=torch.Generator().manual_seed(0)).float()
    latent = vae.encode(image)
    assert_close(vae.encode_tiled(image, tile_x=64, tile_y=64, overlap=16), latent, 0.0)
    assert_close(vae.decode_tiled(latent, tile_x=16, tile_y=16, overlap=4), image, 0.0)


def test_the_estimate_of_attention_holds_the_scores_of_as_many_slices_as_comfyui_makes(
    tmp_path, monkeypatch
):
    vae = load_vq_vae(save_vq(tmp_path))
    vae.device = torch.device("meta")  # no CPU, on which attention is fused
    tokens, size = 512 * 512, 4
    scores = tokens**2 * size
    fused = {"xformers_enabled_vae": False, "pytorch_attention_enabled_vae": False}

    def estimate(free: float, **enabled: bool) -> float:
        for name, value in {**fused, **enabled}.items():
            monkeypatch.setattr(comfy.model_management, name, lambda value=value: value)
        monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: free)
        return vae.memory_used_decode((1, 3, 512, 512), torch.float32)

    whole = estimate(2.6 * scores)
    maps = whole - 2 * scores
    assert 0 < maps < scores
    assert estimate(2.4 * scores) == maps + scores  # does not fit: in two slices
    assert estimate(0.7 * scores) == maps + scores / 2  # in four
    assert estimate(0) == maps + scores / 64  # no more than 128
    for kernel in fused:
        assert estimate(0, **{kernel: True}) < maps + scores / 64


def test_memory_estimates_grow_with_the_picture_and_the_dtype(tmp_path):
    vae = load_vq_vae(save_vq(tmp_path))
    small = vae.memory_used_encode((1, 3, 64, 64), torch.float32)
    assert small > 64 * 64 * 4 * TINY_VQ.width
    assert vae.memory_used_encode((1, 3, 128, 64), torch.float32) >= 2 * small
    assert vae.memory_used_encode((1, 3, 64, 64), torch.float16) < small
    assert vae.memory_used_decode((1, 3, 16, 16), torch.float32) >= small / 2

    model = load_resshift(save_unet(tmp_path)).model
    one = model.memory_required([1, 3, 512, 512])
    assert one > 512 * 512 * 4 * TINY_UNET.model_channels
    assert model.memory_required([2, 3, 512, 512]) > 1.9 * one
    assert model.memory_required([1, 3, 513, 512]) == model.memory_required([1, 3, 520, 512]) > one
    assert model.memory_required([1, 3, 8, 8]) > 1 << 20  # libraries' own


@pytest.mark.skipif(not BUNDLED_MODEL_PATH.is_file(), reason="no bundled model is trained yet")
def test_the_bundled_model_fits_the_bundled_vae():
    model, vae = load_bundled_model(), bundled_vae()
    assert model.model.record.scale == 4
    assert model.model.record.predict_type == "residual"
    assert model.model.latent_format.latent_channels == vae.latent_channels
    assert model.model.latent_format.spacial_downscale_ratio == vae.spacial_compression_encode()


@pytest.mark.parametrize(
    ("units", "told", "expected"),
    [
        ({"amx_bf16": True}, False, torch.bfloat16),
        ({"avx512_bf16": True}, False, torch.bfloat16),
        ({"amx_bf16": True}, True, torch.float32),
        ({"amx_bf16": False, "avx2": True}, False, torch.float32),
    ],
)
def test_a_cpu_with_units_for_bfloat16_uses_them(tmp_path, monkeypatch, units, told, expected):
    from comfy.cli_args import args

    monkeypatch.setattr(args, "force_fp32", told)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    path = save_unet(tmp_path)
    assert load_resshift(path).model.get_dtype_inference() == expected
    assert load_resshift(path, dtype="fp32").model.get_dtype_inference() == torch.float32
    # On request weights are bfloat16 everywhere; others than these take minutes to compute in it.
    half = load_resshift(path, dtype="bf16").model
    assert {p.dtype for p in half.diffusion_model.parameters()} == {torch.bfloat16}
    has_units = units.get("amx_bf16") or units.get("avx512_bf16")
    assert half.get_dtype_inference() == (torch.bfloat16 if has_units else torch.float32)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert load_resshift(path).model.get_dtype_inference() == torch.float32


def test_weights_of_convolutions_lie_channels_last_on_a_cpu(tmp_path):
    networks = (
        load_resshift(save_unet(tmp_path)).model.diffusion_model,
        load_vq_vae(save_vq(tmp_path)).first_stage_model,
    )
    for network in networks:
        weights = [w for w in network.parameters() if w.ndim == 4 and min(w.shape[1:]) > 1]
        assert len(weights) > 10
        assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_the_precision_of_the_autoencoder_is_that_asked_for(tmp_path):
    path = save_vq(tmp_path)
    # The tests run under --force-fp32, which is ComfyUI's choice on every CPU.
    assert load_vq_vae(path).vae_dtype == torch.float32
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        vae = load_vq_vae(path, dtype=name)
        assert vae.vae_dtype == dtype
        assert next(vae.first_stage_model.parameters()).dtype == dtype


def test_bfloat16_moves_few_codes_and_stays_near_float32(tmp_path):
    exact, coarse = (load_vq_vae(save_vq(tmp_path), dtype=name) for name in ("fp32", "bf16"))
    image = picture(64, 64)
    latent = exact.encode(image)
    nearest = exact.first_stage_model.quantize.nearest
    changed = (nearest(latent) != nearest(coarse.encode(image))).float().mean()
    assert changed < 0.1  # 2 % on a photograph with these weights
    error = (exact.decode(latent) - coarse.decode(latent)).square().mean()
    assert -10 * error.log10() > 35  # 39 dB there


@pytest.mark.skipif(not BUNDLED_MODEL_PATH.is_file(), reason="no bundled model is trained yet")
def test_the_bundled_model_in_bfloat16_is_40_db_from_float32():
    image = picture(48, 64)
    results = [
        restore_with_resshift(load_bundled_model(dtype=name), bundled_vae(), image, seed=0)
        for name in ("fp32", "bf16")
    ]
    error = (results[0] - results[1]).square().mean()
    assert -10 * error.log10() > 40


def test_encoding_in_fp32_on_a_cpu_is_as_exact_as_of_the_plain_network(tmp_path):
    vae = load_vq_vae(save_vq(tmp_path), dtype="fp32")
    plain = VQAutoencoder(TINY_VQ, operations=OPERATIONS)
    plain.load_state_dict(random_vq_weights())
    image = (0.6 + 0.04 * picture(128, 96).movedim(-1, 1)).contiguous()
    expected = copy.deepcopy(plain).double().encode(image.double())
    error = (plain.encode(image).double() - expected).abs().mean().item()
    made = vae.first_stage_model.encode(image).double()
    assert (made - expected).abs().mean().item() < 1.5 * error
