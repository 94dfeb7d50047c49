from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pack.model_loaders.checkpoint import UnsupportedCheckpointError
from pack.model_loaders.restoration_network import load_restoration_network, stock_node_uses_patcher
from pack.tests.support.golden import assert_close, golden_case, golden_manifest
from pack.tests.support.restoration import (
    descriptor,
    golden_swinir,
    golden_swinir_input,
    manifest_weights,
    realesrgan_weights,
    tiny_esrgan,
    tiny_scunet,
    write_realesrgan,
)
from pack.tests.support.tiny import random_unet_weights

pytestmark = pytest.mark.comfy


def saved(folder: Path, content: object, name: str = "network.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


@torch.inference_mode()
def test_the_golden_swinir_computes_what_the_official_one_does(tmp_path):
    network = load_restoration_network(saved(tmp_path, golden_swinir()))
    expected = golden_case("diffbir/tiny_swinir")[1]["y_rows"]
    # the same operations in the same order; only the processor's kernels may differ
    assert_close(network.model(golden_swinir_input())[:, :, ::3], expected, 1e-6)


@pytest.mark.parametrize(
    ("name", "architecture", "scale", "parameters"),
    [
        ("swinir", "SwinIR", 1, 15_792_587),
        ("scunet", "SCUNet", 1, 17_946_072),
        ("rrdbnet_bsrnet", "ESRGAN", 4, 16_697_987),
    ],
)
def test_the_keys_of_a_released_file_load(tmp_path, name, architecture, scale, parameters):
    weights = manifest_weights(golden_manifest(f"diffbir/manifests/{name}"))
    network = load_restoration_network(saved(tmp_path, weights))
    assert (network.architecture.id, network.scale) == (architecture, scale)
    assert sum(p.numel() for p in network.model.parameters()) == parameters


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"state_dict": weights},
        lambda weights: {"net_g." + key: value for key, value in weights.items()},
        lambda weights: {"params_ema": weights},
        lambda weights: {"params": weights},
        lambda weights: {"state_dict": {f"module.{k}": v for k, v in weights.items()}, "epoch": 3},
        lambda weights: {
            "state_dict": {
                **{f"preprocess_model.{k}": v for k, v in weights.items()},
                "control_model.zero_convs.0.0.weight": torch.zeros(1),
            }
        },
    ],
    ids=["bare", "state_dict", "net_g", "params_ema", "params", "module", "v1 full"],
)
def test_every_wrapping_of_released_files_is_read(tmp_path, wrap):
    weights = golden_swinir()
    network = load_restoration_network(saved(tmp_path, wrap(weights)))
    loaded, expected = network.model.state_dict(), descriptor(weights).model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


def test_averaged_weights_win_over_the_last_ones(tmp_path):
    last, averaged = tiny_esrgan(), {k: 0.5 * v for k, v in tiny_esrgan().items()}
    path = saved(tmp_path, {"params": last, "params_ema": averaged})
    first = next(load_restoration_network(path).model.parameters())
    assert torch.equal(first, averaged["model.0.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_run_in_float32(tmp_path, dtype):
    save_file({k: v.to(dtype) for k, v in tiny_scunet().items()}, tmp_path / "n.safetensors")
    network = load_restoration_network(tmp_path / "n.safetensors")
    assert network.dtype == torch.float32


def test_a_loaded_network_is_ready_for_this_comfyui(tmp_path):
    network = load_restoration_network(saved(tmp_path, golden_swinir()))
    assert not network.model.training
    assert not any(p.requires_grad for p in network.model.parameters())
    assert hasattr(network, "patcher") == stock_node_uses_patcher()


def test_the_stock_upscale_node_takes_it(tmp_path):
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    network = load_restoration_network(saved(tmp_path, tiny_esrgan()))
    image = torch.rand(1, 20, 24, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (upscaled,) = ImageUpscaleWithModel.execute(network, image).result
        expected = network(image.movedim(-1, 1)).movedim(1, -1)
    assert_close(upscaled, expected, 1e-6)


def test_the_patcher_is_that_of_the_stock_loader(tmp_path):
    """ComfyUI's own loader sets a patcher exactly where its own node needs one."""
    import folder_paths
    from comfy_extras.nodes_upscale_model import UpscaleModelLoader

    saved(tmp_path, tiny_esrgan(), "stock_test.pth")
    folder_paths.add_model_folder_path("upscale_models", str(tmp_path))
    (stock,) = UpscaleModelLoader.execute("stock_test.pth").result
    ours = load_restoration_network(tmp_path / "stock_test.pth")
    assert hasattr(stock, "patcher") == hasattr(ours, "patcher")


REFUSED = {
    "a LoRA": ({"lora_unet_a.lora_down.weight": torch.zeros(2, 2)}, "load it with Load LoRA"),
    "a ResShift model": (random_unet_weights(), "is not a network that spandrel .* knows"),
    "an upscale network of another kind": (
        {"conv_first.weight": torch.zeros(2, 2), "tail.weight": torch.zeros(2)},
        "of a kind that it does not know",
    ),
    "half a SwinIR": (
        {k: v for k, v in golden_swinir().items() if "conv_up" not in k},
        "download it again",
    ),
    "a network of grey images": (
        {
            **tiny_esrgan(),
            "model.0.weight": torch.zeros(8, 1, 3, 3),
        },
        "takes 1 channels and gives 3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_with_what_they_are(tmp_path, case):
    content, remedy = REFUSED[case]
    with pytest.raises(UnsupportedCheckpointError, match=remedy) as caught:
        load_restoration_network(saved(tmp_path, content, "other.pth"))
    assert "'other.pth'" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        load_restoration_network(tmp_path / "gone.pth")


def test_the_published_realesrgan_loads_as_released(tmp_path):
    network = load_restoration_network(write_realesrgan(tmp_path))
    assert (network.architecture.id, network.scale) == ("ESRGAN", 4)
    first = next(network.model.parameters())
    assert torch.equal(first, realesrgan_weights()["conv_first.weight"])
