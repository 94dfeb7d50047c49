"""HYPIR's LoRA: which modules it has, and that all of them are taken or the file is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pack.model_loaders.checkpoint import UnsupportedCheckpointError
from pack.model_loaders.hypir import hypir_modules, load_hypir_patches
from pack.tests.support.golden import golden_case, golden_manifest
from pack.tests.support.hypir import (
    MANIFEST,
    MODULE_COUNT,
    STEP_CASE,
    lora_weights,
    save_lora,
    unet_weights,
)
from pack.tests.support.mutation import Intruder
from pack.tests.support.released_diffbir import FULL_UNET, unet_shapes

pytestmark = pytest.mark.comfy

CONFIG = golden_case(STEP_CASE)[0]["unet_config"]


def shapes() -> dict[str, tuple[int, ...]]:
    return {key: tuple(weight.shape) for key, weight in unet_weights().items()}


def load(path: Path) -> dict:
    return load_hypir_patches(path, CONFIG, shapes())


def test_the_released_file_has_257_modules_of_259_million_parameters():
    manifest = golden_manifest(MANIFEST)
    sizes = [torch.Size(shape).numel() for _, shape, _ in manifest["keys"]]
    assert len(sizes) == 2 * MODULE_COUNT
    assert sum(sizes) == manifest["num_parameters"] == 259_474_432


def test_comfyuis_table_names_every_module_of_the_released_file_and_its_weight():
    factors = {key: shape for key, shape, _ in golden_manifest(MANIFEST)["keys"]}
    weights = {key: list(shape) for key, shape in unet_shapes(FULL_UNET).items()}
    modules = hypir_modules(CONFIG, weights)
    assert len(modules) == MODULE_COUNT
    assert {f"{name}.lora_{part}.default.weight" for name in modules for part in "AB"} == set(
        factors
    )
    for name, key in modules.items():
        down = factors[f"{name}.lora_A.default.weight"]
        up = factors[f"{name}.lora_B.default.weight"]
        assert weights[key] == [up[0], *down[1:]], name


@pytest.mark.parametrize(
    "spelled",
    [
        lambda key: key,
        lambda key: key.replace(".default", ""),
        lambda key: f"base_model.model.{key}",
        lambda key: f"unet.{key}",
    ],
)
def test_every_module_becomes_a_patch_of_its_own_weight(tmp_path, spelled):
    patches = load(save_lora(tmp_path, {spelled(k): t for k, t in lora_weights().items()}))
    assert len(patches) == MODULE_COUNT
    assert all(key.removeprefix("diffusion_model.") in unet_weights() for key in patches)
    up, down, alpha, *_ = patches["diffusion_model.out.2.weight"].weights
    assert torch.equal(up, lora_weights()["conv_out.lora_B.default.weight"])
    assert torch.equal(down, lora_weights()["conv_out.lora_A.default.weight"])
    assert alpha is None  # alpha equals the rank, so the product counts as it is


def test_a_safetensors_copy_loads_too_and_the_licence_is_logged(tmp_path, caplog):
    path = tmp_path / "HYPIR_sd2.safetensors"
    save_file(lora_weights(), path)
    with caplog.at_level(logging.INFO):
        assert len(load(path)) == MODULE_COUNT
    assert (
        "HYPIR, 257 modules (SupPixel's licence of HYPIR: non-commercial use only)" in caplog.text
    )


def without(part: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in lora_weights().items() if part not in key}


REFUSED = {
    "half of it": (
        without(".attn1."),
        r"lacks 64 of the 257 modules .* \(for example down_blocks\.0.*attn1\.to_",
    ),
    "one factor missing": (
        without("mid_block.attentions.0.proj_in.lora_B"),
        r"lacks 1 of the 257 modules .* \(for example mid_block\.attentions\.0\.proj_in\)",
    ),
    "a module too many": (
        {**lora_weights(), "conv_in.lora_A.default.weight": torch.zeros(8, 4, 3, 3)},
        r"changes 1 parts of the model .* conv_in",
    ),
    "something else beside": (
        {**lora_weights(), "conv_in.weight": torch.zeros(8, 4, 3, 3)},
        r"changes 1 parts of the model .* conv_in\.weight",
    ),
    "another rank in one factor": (
        {**lora_weights(), "conv_out.lora_A.default.weight": torch.zeros(7, 32, 3, 3)},
        r"has 1 modules of other shapes .* Stable Diffusion 2\.1 base .*conv_out",
    ),
    "another LoRA": (
        {"lora_unet_mid.lora_down.weight": torch.ones(2, 2)},
        "is not the LoRA of HYPIR; it looks like a LoRA; load it with Load LoRA",
    ),
    "a UNet": (unet_weights(), "is not the LoRA of HYPIR; it looks like"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_all_of_the_lora_is_refused(tmp_path, case: str):
    weights, message = REFUSED[case]
    with pytest.raises(UnsupportedCheckpointError, match=message):
        load(save_lora(tmp_path, weights))


def test_the_lora_of_another_base_is_refused(tmp_path):
    others = {key: (*shape[:1], *(2 * n for n in shape[1:])) for key, shape in shapes().items()}
    with pytest.raises(UnsupportedCheckpointError, match="has 257 modules of other shapes"):
        load_hypir_patches(save_lora(tmp_path), CONFIG, others)


def test_code_in_the_file_is_not_run(tmp_path):
    trap = tmp_path / "made_by_code"
    save_lora(tmp_path, {**lora_weights(), "options": Intruder(trap)})  # pyright: ignore
    with pytest.raises(ValueError, match="holds more than weights"):
        load(tmp_path / "HYPIR_sd2.pth")
    assert not trap.exists()
