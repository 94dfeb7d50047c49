from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import comfy.controlnet
import comfy.memory_management
import comfy.model_management
import comfy.ops
import comfy.supported_models
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pack.model_loaders.checkpoint import Checkpoint, UnsupportedCheckpointError, check_weights
from pack.model_loaders.la_control_net import (
    build_control_network,
    detect_control,
    is_la_control_net,
    load_la_control_net,
    split_first_convolution,
    text_width,
)
from pack.tests.support.diffbir import (
    HEAD_CHANNELS,
    NETWORKS_CASE,
    control_weights,
    save_control,
    tiny_control_net,
    tiny_model,
    unet_weights,
)
from pack.tests.support.golden import assert_close, golden_case, golden_manifest
from pack.tests.support.tiny import random_unet_weights

pytestmark = pytest.mark.comfy


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return golden_case(NETWORKS_CASE)[1]


@pytest.fixture(scope="module")
def control_net(tmp_path_factory):
    with torch.inference_mode():
        return tiny_control_net(tmp_path_factory.mktemp("control"))


def residuals(control_net, golden: dict[str, Tensor], strength: float = 1.0) -> list[Tensor]:
    """Return the 13 control tensors as ComfyUI's sampler gets them for the golden inputs."""
    control = control_net.copy()
    control.latent_format = None
    control.set_cond_hint(golden["hint"], strength)
    # What a MODEL would say: the golden latent is scaled already, its timesteps are given.
    control.model_sampling_current = SimpleNamespace(
        timestep=lambda sigma: golden["timesteps"].float(), calculate_input=lambda sigma, x: x
    )
    comfy.model_management.load_models_gpu(control.get_models())
    made = control.get_control(
        golden["x"], torch.ones(2), {"c_crossattn": golden["context"]}, 1, {}
    )
    assert made["input"] == []
    return [*made["output"], *made["middle"]]


@pytest.mark.parametrize("strength", [1.0, 0.8])
def test_the_control_tensors_are_the_references(control_net, golden, strength):
    made = residuals(control_net, golden, strength)
    assert len(made) == 13
    for k, tensor in enumerate(made):
        assert_close(tensor, strength * golden[f"control_{k:02}"], 2e-5)


@pytest.mark.parametrize(
    ("strength", "expected"), [(1.0, "eps"), (0.8, "eps_strength_0_8"), (None, "eps_no_control")]
)
def test_the_unet_with_its_control_is_the_references(control_net, golden, strength, expected):
    model = tiny_model()
    comfy.model_management.load_models_gpu([model])
    control = None
    if strength is not None:
        made = residuals(control_net, golden, strength)
        control = {"input": [], "output": made[:-1], "middle": made[-1:]}
    out = model.model.diffusion_model(
        golden["x"],
        golden["timesteps"].float(),
        context=golden["context"],
        control=control,
        transformer_options={},
    )
    assert_close(out, golden[expected], 2e-5)


def test_the_first_convolution_is_split_and_nothing_else_changed():
    released = control_weights()
    split = split_first_convolution(released)
    joint = torch.cat([split["input_blocks.0.0.weight"], split["input_hint_block.0.weight"]], 1)
    assert torch.equal(joint, released["input_blocks.0.0.weight"])
    assert not split["input_hint_block.0.bias"].any()
    assert set(split) - set(released) == {"input_hint_block.0.weight", "input_hint_block.0.bias"}
    for key in set(released) - {"input_blocks.0.0.weight"}:
        assert split[key] is released[key]


def test_the_released_keys_fit_a_network_of_the_released_size():
    keys = golden_manifest("diffbir/manifests/controlnet")
    released = {key: torch.empty(shape, device="meta") for key, shape, _ in keys}
    checkpoint = Checkpoint(Path("v2.pth"), released)
    weights = split_first_convolution(released)
    config = detect_control(checkpoint, weights)
    network = build_control_network(
        config.unet_config,
        dtype=torch.float32,
        device=torch.device("meta"),
        operations=comfy.ops.disable_weight_init,
    )
    check_weights(network, checkpoint, weights)
    network.load_state_dict(weights, strict=True, assign=True)
    assert len(released) == 324
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters == 363_153_280 + 320  # and the hint block's own bias
    heads = {layer.heads for name, layer in network.named_modules() if name.endswith("attn2")}
    assert heads == {5, 10, 20}


def wrapped(form: str, folder: Path) -> Path:
    """Return a file with the golden control net in one of the forms that people share."""
    weights = control_weights()
    if form == "bare pickle":
        return save_control(folder, "control.pth")
    if form == "state_dict":
        content = {"state_dict": {f"module.{key}": value for key, value in weights.items()}}
    elif form == "full v1 checkpoint":
        content = {f"control_model.{key}": value for key, value in weights.items()}
        content |= {f"model.diffusion_model.{key}": value for key, value in unet_weights().items()}
        content |= {"cond_stage_model.model.ln_final.weight": torch.ones(4)}
        content |= {"preprocess_model.conv_first.1.weight": torch.ones(4)}
        content |= {"betas": torch.ones(4)}
        content = {"state_dict": content, "global_step": 5}
    else:
        path = folder / "control.safetensors"
        save_file({f"control_model.{key}": value for key, value in weights.items()}, path)
        return path
    path = folder / "control.ckpt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "form", ["bare pickle", "state_dict", "full v1 checkpoint", "prefixed safetensors"]
)
def test_every_form_of_file_gives_the_same_network(tmp_path, control_net, form):
    loaded = load_la_control_net(wrapped(form, tmp_path), head_channels=HEAD_CHANNELS)
    expected = control_net.control_model.state_dict()
    found = loaded.control_model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_it_is_comfyuis_control_net_for_sd_latents(control_net, caplog, tmp_path):
    with caplog.at_level(logging.INFO):
        loaded = tiny_control_net(tmp_path)
    assert isinstance(loaded, comfy.controlnet.ControlNet)
    assert loaded.compression_ratio == 1
    assert loaded.latent_format.scale_factor == 0.18215
    assert loaded.extra_conds == []
    assert text_width(loaded) == 64
    assert "'tiny_control.safetensors': LAControlNet" in caplog.text


def test_only_a_control_net_with_a_latent_hint_counts_as_one(control_net):
    assert is_la_control_net(control_net)
    assert is_la_control_net(control_net.copy())
    config = comfy.supported_models.SD20(
        {"adm_in_channels": None, **detect_control_config(), "context_dim": 64}
    ).unet_config
    config |= {"num_head_channels": HEAD_CHANNELS}
    config.pop("out_channels")
    picture_hint = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3, device=torch.device("meta"), operations=comfy.ops.manual_cast
    )
    assert not is_la_control_net(comfy.controlnet.ControlNet(picture_hint))
    assert not is_la_control_net(comfy.controlnet.T2IAdapter(None, 3, 8, "bicubic"))
    assert not is_la_control_net(None)


def detect_control_config() -> dict:
    weights = split_first_convolution(control_weights())
    checkpoint = Checkpoint(Path("a.pth"), weights)
    return detect_control(checkpoint, weights, HEAD_CHANNELS).unet_config


# What rounding of the weights costs, as a share of the control's spread.
STORED = {
    torch.float32: 0.0,
    torch.float16: 0.002,
    torch.bfloat16: 0.02,
    torch.float8_e4m3fn: 0.2,
    torch.float8_e5m2: 0.4,
}


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_weights_may_be_stored_in_any_precision(tmp_path, control_net, golden, dtype):
    path = tmp_path / "stored.safetensors"
    save_file({key: value.to(dtype) for key, value in control_weights().items()}, path)
    loaded = load_la_control_net(path, head_channels=HEAD_CHANNELS)
    if dtype.itemsize == 1:
        assert loaded.control_model.dtype == dtype
    exact, rounded = residuals(control_net, golden), residuals(loaded, golden)
    costs = [((a - b).norm() / a.norm()).item() for a, b in zip(exact, rounded, strict=True)]
    assert max(costs) <= STORED[dtype], costs
    assert max(costs) > 0 or dtype == torch.float32


def test_weights_come_in_also_where_comfyuis_layers_wait_for_them(
    tmp_path, monkeypatch, control_net, golden
):
    path = save_control(tmp_path)
    with monkeypatch.context() as dynamic:
        dynamic.setattr(comfy.memory_management, "aimdo_enabled", True)
        dynamic.setattr(comfy.model_management, "WINDOWS", True)  # 0.16.3 waits only there
        loaded = load_la_control_net(path, head_channels=HEAD_CHANNELS)
        torch.save(without("attn1.to_k"), tmp_path / "short.pth")
        with pytest.raises(UnsupportedCheckpointError, match="lacks"):
            load_la_control_net(tmp_path / "short.pth", head_channels=HEAD_CHANNELS)
    for made, expected in zip(
        residuals(loaded, golden), residuals(control_net, golden), strict=True
    ):
        assert torch.equal(made, expected)


def test_offloaded_weights_give_the_same_control(control_net, golden):
    expected = residuals(control_net, golden)
    comfy.model_management.unload_all_models()
    patcher = control_net.control_model_wrapped
    patcher.load(torch.device("cpu"), lowvram_model_memory=1000)
    made = residuals(control_net, golden)
    assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))


def without(*parts: str) -> dict[str, Tensor]:
    return {
        key: value
        for key, value in control_weights().items()
        if not any(part in key for part in parts)
    }


ORDINARY = {
    **control_weights(),
    "input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3),
    "input_hint_block.0.weight": torch.zeros(16, 3, 3, 3),
}
CONVOLUTIONAL = {
    key: value[..., None, None] if key.endswith(("proj_in.weight", "proj_out.weight")) else value
    for key, value in control_weights().items()
}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (ORDINARY, r"an ordinary ControlNet.*Load ControlNet Model"),
        (ORDINARY | {"input_hint_block.0.weight": torch.zeros(1)}, "an ordinary ControlNet"),
        ({**control_weights(), "input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}, "8 channels"),
        ({**control_weights(), "input_blocks.0.0.weight": torch.zeros(32)}, "8 channels"),
        (without("input_blocks.0.0.weight"), r"8 channels.*missing"),
        (CONVOLUTIONAL, "not built like the UNet of SD 2.1"),
        (without("middle_block.1.transformer_blocks"), "not built like the UNet"),
        (without("input_blocks.4.1.transformer_blocks"), "tensors that this network does not"),
        (without("middle_block.1.proj_in"), "tensors that this network does not"),
        (without("input_blocks.1.0.out_layers.3.weight"), "download it again"),
        (without("attn2.to_k"), "download it again"),
        (without("zero_convs.7"), r"lacks 2 of the \d+ tensors"),
        ({**control_weights(), "extra.weight": torch.zeros(1)}, "has 1 tensors that"),
        (
            {**control_weights(), "zero_convs.3.0.weight": torch.zeros(32, 16, 1, 1)},
            r"other shapes.*zero_convs\.3",
        ),
        (
            {f"model.diffusion_model.{k}": v for k, v in unet_weights().items()}
            | {"cond_stage_model.model.ln_final.weight": torch.ones(1)},
            r"is not a LAControlNet; it looks like a full checkpoint; load it with Load Checkpoint",
        ),
        (random_unet_weights(), "is not a LAControlNet; it looks like a ResShift model; load"),
        ({"lora_unet_down_blocks_0.lora_up.weight": torch.ones(1)}, "a LoRA; load it with Load"),
        ({"controlnet_cond_embedding.conv_in.weight": torch.ones(1)}, "a ControlNet"),
        ({"decoder.up.0.block.0.conv1.weight": torch.ones(1)}, "an autoencoder"),
        ({"anything": torch.ones(1)}, "not known here"),
    ],
)
def test_other_files_are_refused_with_what_they_are(tmp_path, weights, message):
    path = tmp_path / "other.pth"
    torch.save(weights, path)
    with pytest.raises(UnsupportedCheckpointError, match=message) as error:
        load_la_control_net(path, head_channels=HEAD_CHANNELS)
    assert "'other.pth'" in str(error.value)


def test_heads_of_another_width_than_the_networks_are_refused(tmp_path):
    with pytest.raises(UnsupportedCheckpointError, match="not built like the UNet of SD 2"):
        load_la_control_net(save_control(tmp_path))


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="choose another file"):
        load_la_control_net(tmp_path / "gone.pth")
