from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pack.model_loaders.checkpoint import Checkpoint, UnsupportedCheckpointError, check_weights
from pack.model_loaders.detection import detect_swin_unet, detect_vq, swin_unet_weights
from pack.model_loaders.networks.swin_unet import SwinUNet, SwinUNetConfig
from pack.model_loaders.networks.vq import VQAutoencoder, VQConfig
from pack.model_loaders.weight_names import key_in_files
from pack.tests.support.golden import GOLDEN, golden_manifest
from pack.tests.support.tiny import (
    BUFFERS,
    DENSELY_STARTED_UNET,
    OPERATIONS,
    STARTED_UNET,
    TINY_UNET,
    TINY_VQ,
    random_unet_weights,
)

pytestmark = pytest.mark.comfy

PATH = Path("net.pth")
META = torch.device("meta")
MANIFESTS = sorted(path.stem for path in (GOLDEN / "resshift" / "manifests").glob("*.json"))
VQ_MANIFESTS = [name for name in MANIFESTS if "vq_" in name]
UNET_MANIFESTS = [name for name in MANIFESTS if name not in VQ_MANIFESTS]

FACE = SwinUNetConfig(latent_channels=8, condition_stages=3)
UNET_CONFIGS = {
    "tiny": TINY_UNET,
    "mask at latent size": replace(TINY_UNET, cond_mask=True),
    "one stage": replace(TINY_UNET, condition_stages=1),
    "two stages and mask": replace(TINY_UNET, condition_stages=2, cond_mask=True),
    "three stages, 8 channels": replace(TINY_UNET, condition_stages=3, latent_channels=8),
    "48 channels": replace(TINY_UNET, latent_channels=48),
    "a start of its own": STARTED_UNET,
    "a start of dense blocks": DENSELY_STARTED_UNET,
    "sees its start": replace(TINY_UNET, latent_channels=48, cond_start=True),
    "blocks per level": replace(
        TINY_UNET, channel_mult=(1, 1, 3), num_res_blocks=(1, 3, 2), attention_levels=(True,) * 3
    ),
    "attention at the second level": replace(TINY_UNET, attention_levels=(False, True)),
    "shifts at the second level only": replace(
        TINY_UNET, attention_levels=(False, True), image_size=16
    ),
    "attention at the first level": replace(TINY_UNET, attention_levels=(True, False)),
    "attention only in the middle": replace(TINY_UNET, attention_levels=(False, False)),
    "one level": replace(
        TINY_UNET, channel_mult=(2,), num_res_blocks=(1,), attention_levels=(True,)
    ),
    "no scale and shift": replace(TINY_UNET, use_scale_shift_norm=False),
    "patch norm": replace(TINY_UNET, patch_norm=True),
    "other Swin sizes": replace(
        TINY_UNET, swin_embed_dim=96, num_heads=3, swin_depth=3, mlp_ratio=1.5, window_size=2
    ),
    "wider": replace(TINY_UNET, model_channels=64, image_size=32, window_size=8),
}


def build(config: SwinUNetConfig) -> SwinUNet:
    return SwinUNet(config, device=META, operations=OPERATIONS)


def in_files(network: SwinUNet) -> dict[str, Tensor]:
    """Return the weights of a network by their names in files."""
    return {key_in_files(key): weight for key, weight in network.state_dict().items()}


def with_reference_buffers(network: SwinUNet) -> dict[str, Tensor]:
    """Return the state dict as the reference would save it, tables and masks included."""
    state_dict = in_files(network)
    config = network.config
    for key in list(state_dict):
        if not key.endswith(".attn.relative_position_bias_table"):
            continue
        block = network.get_submodule(key.removesuffix(".attn.relative_position_bias_table"))
        tokens = block.window_size**2
        name = key.removesuffix("_bias_table")
        state_dict[f"{name}_index"] = torch.empty(tokens, tokens, device=META)
        if block.shift:
            layer = key.split(".blocks.")[0]
            windows = (side_of(layer, config) // block.window_size) ** 2
            mask = torch.empty(windows, tokens, tokens, device=META)
            state_dict[f"{key.removesuffix('.attn.relative_position_bias_table')}.attn_mask"] = mask
    return state_dict


def side_of(layer: str, config: SwinUNetConfig) -> int:
    """Return the nominal side of the map at a Swin layer such as `input_blocks.4.1`."""
    if layer.startswith("middle_block"):
        return config.image_size // 2 ** (len(config.channel_mult) - 1)
    if layer.startswith("input_blocks"):
        sides = []
        for level, count in enumerate(config.num_res_blocks):
            sides += [config.image_size // 2**level] * (count + 1)
        return [config.image_size, *sides][int(layer.split(".")[1])]
    sides = []
    for level in reversed(range(len(config.num_res_blocks))):
        sides += [config.image_size // 2**level] * (config.num_res_blocks[level] + 1)
    return sides[int(layer.split(".")[1])]


@pytest.mark.parametrize("config", UNET_CONFIGS.values(), ids=UNET_CONFIGS)
def test_a_unet_is_detected_from_its_own_state_dict(config):
    network = build(config)
    detected = detect_swin_unet(in_files(network), PATH, image_size=config.image_size)
    assert detected == config


NOISE_CONFIGS = {
    "noise beside the image": replace(TINY_UNET, noise_channels=1),
    "noise beside an image of twice the size": replace(
        TINY_UNET, condition_stages=1, noise_channels=1
    ),
}


@pytest.mark.parametrize("config", NOISE_CONFIGS.values(), ids=NOISE_CONFIGS)
def test_channels_of_noise_are_counted_where_the_record_names_them(config):
    weights = in_files(build(config))
    detected = detect_swin_unet(weights, PATH, image_size=config.image_size, noise_channels=1)
    assert detected == config


@pytest.mark.parametrize("stages", [0, 1, 2])
@pytest.mark.parametrize("mask", [False, True])
def test_a_network_without_noise_is_not_taken_for_one_with_it(stages: int, mask: bool):
    """But for a mask at the latent's size, whose shapes are those of noise."""
    config = replace(TINY_UNET, condition_stages=stages, cond_mask=mask)
    if (stages, mask) == (0, True):
        noisy = replace(TINY_UNET, noise_channels=1)
        assert detect_swin_unet(in_files(build(config)), PATH, noise_channels=1) == replace(
            noisy, image_size=64
        )
        return
    with pytest.raises(UnsupportedCheckpointError, match=r"none of them of noise.*another preset"):
        detect_swin_unet(in_files(build(config)), PATH, noise_channels=1)


def test_noise_beside_an_image_of_twice_the_size_is_told_without_a_record():
    weights = in_files(build(NOISE_CONFIGS["noise beside an image of twice the size"]))
    with pytest.raises(UnsupportedCheckpointError, match=r"36 channels.*Choose a preset of RSD"):
        detect_swin_unet(weights, PATH)


@pytest.mark.parametrize("config", UNET_CONFIGS.values(), ids=UNET_CONFIGS)
def test_with_the_references_masks_the_trained_size_is_detected_too(config):
    state_dict = with_reference_buffers(build(config))
    has_masks = any(key.endswith("attn_mask") for key in state_dict)
    # a wrong size to fall back on, unless there is nothing that tells the right one
    detected = detect_swin_unet(state_dict, PATH, image_size=123 if has_masks else 8)
    assert detected == config


@pytest.mark.parametrize("name", UNET_MANIFESTS)
@pytest.mark.parametrize("buffers", [True, False], ids=["with buffers", "without buffers"])
def test_every_released_unet_builds_from_its_shapes_alone(name, buffers):
    state_dict = manifest_state_dict(name)
    weights = swin_unet_weights(state_dict)
    assert len(state_dict) - len(weights) == 24
    parameters = golden_manifest(f"resshift/manifests/{name}")["num_parameters"]
    assert sum(tensor.numel() for tensor in weights.values()) == parameters
    source = state_dict if buffers else without_buffers(state_dict)
    network = build(detect_swin_unet(source, PATH))
    check_weights(network, Checkpoint(PATH, source), weights)
    assert network.config == {
        "config_realsr_realesrgan256_x2": replace(FACE, latent_channels=3, condition_stages=1),
        "resshift_faceir_s4": FACE,
        "resshift_inpainting_face_s4": replace(
            FACE, latent_channels=3, condition_stages=2, cond_mask=True
        ),
        "resshift_inpainting_imagenet_s4": replace(
            FACE, latent_channels=3, condition_stages=2, cond_mask=True
        ),
    }.get(name, SwinUNetConfig(latent_channels=3))


@pytest.mark.parametrize("name", UNET_MANIFESTS)
def test_the_released_masks_have_the_shapes_that_the_reference_gives_them(name):
    state_dict = manifest_state_dict(name)
    made = with_reference_buffers(build(detect_swin_unet(state_dict, PATH)))
    assert {k: v.shape for k, v in made.items()} == {k: v.shape for k, v in state_dict.items()}


def without_buffers(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state_dict.items() if not key.endswith(BUFFERS)}


def manifest_state_dict(name: str) -> dict[str, Tensor]:
    manifest = golden_manifest(f"resshift/manifests/{name}")
    return {key: torch.empty(shape, device=META) for key, shape, _ in manifest["keys"]}


VQ_CONFIGS = {
    "tiny": TINY_VQ,
    "f8, blocks per level": VQConfig(8, 48, 8, 32, (1, 1, 2, 2), (1, 2, 3, 4)),
    "f2": VQConfig(4, 16, 6, 64, (1, 2), (2, 1)),
    "f1": VQConfig(4, 16, 4, 32, (1,), (1,)),
}


@pytest.mark.parametrize("config", VQ_CONFIGS.values(), ids=VQ_CONFIGS)
def test_an_autoencoder_is_detected_from_its_own_state_dict(config):
    with META:
        network = VQAutoencoder(config, operations=OPERATIONS)
    assert detect_vq(network.state_dict(), PATH) == config


@pytest.mark.parametrize("name", VQ_MANIFESTS)
def test_every_released_autoencoder_builds_from_its_shapes_alone(name):
    state_dict = manifest_state_dict(name)
    config = detect_vq(state_dict, PATH)
    with META:
        network = VQAutoencoder(config, operations=OPERATIONS)
    check_weights(network, Checkpoint(PATH, state_dict), state_dict)
    parameters = golden_manifest(f"resshift/manifests/{name}")["num_parameters"]
    assert sum(tensor.numel() for tensor in state_dict.values()) == parameters
    f4 = VQConfig(3, 8192, 3, 128, (1, 2, 4), (2, 2, 2))
    f8 = VQConfig(8, 4096, 8, 64, (1, 2, 4, 8), (1, 2, 3, 4))
    assert config == (f8 if "f8" in name else f4)


def keys(*names: str) -> dict[str, Tensor]:
    return {name: torch.zeros(1) for name in names}


OTHER_FILES = {
    "Stable Diffusion": (
        keys(
            "input_blocks.0.0.weight",
            "time_embed.0.weight",
            "out.2.weight",
            "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
        ),
        "a diffusion model of another kind",
    ),
    "ControlNet": (
        keys("control_model.zero_convs.0.0.weight", "control_model.input_hint_block.0.weight"),
        "Load ControlNet Model",
    ),
    "LAControlNet": (keys("control_model.input_blocks.0.0.weight"), "Load LAControlNet"),
    "LoRA": (keys("lora_unet_mid.lora_down.weight"), "Load LoRA"),
    "VQ": (keys("quantize.embedding.weight", "encoder.conv_in.weight"), "Load ResShift VAE"),
    "SwinIR": (
        keys("layers.0.residual_group.blocks.0.attn.proj.weight", "conv_first.weight"),
        "Load Restoration Network",
    ),
}


@pytest.mark.parametrize(("state_dict", "remedy"), OTHER_FILES.values(), ids=OTHER_FILES)
def test_other_files_are_no_resshift_model_and_say_where_they_belong(state_dict, remedy):
    with pytest.raises(UnsupportedCheckpointError, match="'net.pth' is not a ResShift.*" + remedy):
        detect_swin_unet(state_dict, PATH)


@pytest.mark.parametrize(
    ("state_dict", "remedy"),
    [
        (OTHER_FILES["LoRA"][0], "Load LoRA"),
        (keys("encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"), "Load VAE"),
        (keys("middle_block.1.blocks.0.attn.relative_position_bias_table"), "Load ResShift Model"),
    ],
    ids=["LoRA", "KL autoencoder", "ResShift UNet"],
)
def test_other_files_are_no_vq_autoencoder_and_say_where_they_belong(state_dict, remedy):
    with pytest.raises(UnsupportedCheckpointError, match="'net.pth' is not a VQ.*" + remedy):
        detect_vq(state_dict, PATH)


def check_unet(weights: dict[str, Tensor]) -> None:
    network = build(detect_swin_unet(weights, PATH))
    check_weights(network, Checkpoint(PATH, weights), swin_unet_weights(weights))


def check_vq(weights: dict[str, Tensor]) -> None:
    with META:
        network = VQAutoencoder(detect_vq(weights, PATH), operations=OPERATIONS)
    check_weights(network, Checkpoint(PATH, weights), weights)


@pytest.mark.parametrize("name", ["resshift_realsrx4_s4_v3", "resshift_inpainting_face_s4"])
def test_a_released_file_with_any_single_key_missing_is_refused_and_never_fails_otherwise(name):
    whole = without_buffers(manifest_state_dict(name))
    for missing in list(whole)[::41] + list(whole)[:6] + list(whole)[-6:]:
        weights = {key: tensor for key, tensor in whole.items() if key != missing}
        with pytest.raises(UnsupportedCheckpointError, match=r"'net\.pth'"):
            check_unet(weights)


@pytest.mark.parametrize("config", [STARTED_UNET, DENSELY_STARTED_UNET], ids=["compact", "dense"])
def test_a_file_with_any_single_key_of_its_start_missing_is_refused(config):
    whole = in_files(build(config))
    of_start = [key for key in whole if key.startswith("start.")]
    assert of_start
    for missing in of_start:
        weights = {key: tensor for key, tensor in whole.items() if key != missing}
        with pytest.raises(UnsupportedCheckpointError, match=r"'net\.pth' (has|lacks)"):
            check_unet(weights)


OTHER_STARTS = {
    "twice": (DENSELY_STARTED_UNET, ("conv_up2.",), {}, r"without start\.conv_up2\.weight; .*by 4"),
    "eight times": (DENSELY_STARTED_UNET, (), {"conv_up3.weight": (8, 8, 3, 3)}, "with a conv_up3"),
    "folded": (
        DENSELY_STARTED_UNET,
        ("conv_first.weight",),
        {"conv_first.weight": (8, 12, 3, 3)},
        "for a folded image",
    ),
    "no blocks": (DENSELY_STARTED_UNET, ("body.",), {}, r"without start\.body\.0\.rdb1"),
    "no first convolution": (STARTED_UNET, ("body.0.",), {}, "neither an RRDBNet nor a compact"),
    "unknown": (TINY_UNET, (), {"up.weight": (8, 3, 3, 3)}, "neither an RRDBNet nor a compact"),
}


@pytest.mark.parametrize(
    ("config", "without", "added", "found"), OTHER_STARTS.values(), ids=OTHER_STARTS
)
def test_a_start_of_another_kind_is_refused_by_what_it_is(config, without, added, found):
    weights = {f"start.{key}": torch.empty(shape, device=META) for key, shape in added.items()}
    for key, tensor in in_files(build(config)).items():
        if not key.startswith(tuple(f"start.{part}" for part in without)):
            weights[key] = tensor
    with pytest.raises(UnsupportedCheckpointError, match=rf"for its start.*{found}|{found}.*start"):
        detect_swin_unet(weights, PATH)


@pytest.mark.parametrize("name", VQ_MANIFESTS[:1])
def test_a_released_autoencoder_with_any_single_key_missing_is_refused(name):
    whole = manifest_state_dict(name)
    for missing in list(whole)[::17] + list(whole)[:6] + list(whole)[-6:]:
        weights = {key: tensor for key, tensor in whole.items() if key != missing}
        with pytest.raises(UnsupportedCheckpointError, match=r"'net\.pth'"):
            check_vq(weights)


@pytest.mark.parametrize("part", ["middle_block.", "input_blocks.1."])
def test_a_part_of_a_split_model_is_told_from_another_model(part):
    weights = random_unet_weights()
    shard = {key: value for key, value in weights.items() if key.startswith(part)}
    remedy = r"holds a part of a ResShift model alone: it lacks .*Join the parts .* or download it"
    with pytest.raises(UnsupportedCheckpointError, match=remedy):
        detect_swin_unet(shard, PATH)


def test_a_part_of_an_autoencoder_is_told_too():
    shard = {"quantize.embedding.weight": torch.zeros(4, 3)}
    with pytest.raises(UnsupportedCheckpointError, match="a part of a VQ autoencoder alone"):
        detect_vq(shard, PATH)
