"""DiffBIR's first stage as a user runs it, in a real ComfyUI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from pack.tests.support.running import InProcessComfy

pytestmark = pytest.mark.comfy


def prompt(loader: str, **changes: Any) -> dict[str, Any]:
    return {
        "1": {"class_type": loader, "inputs": {"model_name": "stage_one_test.pth"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "restoration_coffee.jpg"}},
        "3": {
            "class_type": "DiffBIRRemoveDegradation",
            "inputs": {
                "upscale_model": ["1", 0],
                "image": ["2", 0],
                "scale": 4.0,
                "rules": "auto",
                "tile": 0,
                "tile_overlap": 256,
                "resize": "official 8-bit",
                "clamp": False,
                **changes,
            },
        },
        "4": {
            "class_type": "RestorationFinish",
            "inputs": {
                "image": ["3", 0],
                "width": 0,
                "height": 0,
                "color_fix": "none",
                "output_width": ["3", 1],
                "output_height": ["3", 2],
            },
        },
        "5": {
            "class_type": "SaveImage",
            "inputs": {"images": ["4", 0], "filename_prefix": "stage_one"},
        },
    }


@pytest.fixture(scope="module")
def stage_one(comfy: InProcessComfy) -> InProcessComfy:
    from pack.tests.support.restoration import tiny_esrgan

    torch.save(tiny_esrgan(), comfy.base / "models" / "upscale_models" / "stage_one_test.pth")
    return comfy


@pytest.mark.parametrize("loader", ["SwinIRLoader", "UpscaleModelLoader"])
@pytest.mark.parametrize("tile", [0, 64])
def test_a_graph_cleans_a_photograph_with_either_loader(
    stage_one: InProcessComfy, loader: str, tile: int
):
    from PIL import Image

    run = stage_one.run(prompt(loader, tile=tile, tile_overlap=tile // 2))
    assert run.success, run.error
    (saved,) = run.outputs["5"]["images"]
    with (
        Image.open(stage_one.base / "output" / saved["filename"]) as made,
        Image.open(stage_one.base / "input" / "restoration_coffee.jpg") as given,
    ):
        assert made.size == tuple(4 * side for side in given.size)


def test_the_stock_upscale_node_takes_the_network_after_stage_one(stage_one: InProcessComfy):
    graph = prompt("SwinIRLoader")
    graph["6"] = {
        "class_type": "ImageUpscaleWithModel",
        "inputs": {"upscale_model": ["1", 0], "image": ["2", 0]},
    }
    graph["5"]["inputs"]["images"] = ["6", 0]
    graph["7"] = {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
    run = stage_one.run(graph)
    assert run.success, run.error
    assert len(run.outputs["5"]["images"]) == len(run.outputs["7"]["images"]) == 1


def test_wrong_use_of_stage_one_names_the_node(stage_one: InProcessComfy):
    run = stage_one.run(prompt("SwinIRLoader", tile=64, tile_overlap=64))
    assert not run.success
    assert "Remove Degradation (DiffBIR Stage 1): 'tile_overlap' is 64" in run.error
    torch.save(
        {"lora_unet_a.lora_down.weight": torch.zeros(2, 2)},
        stage_one.base / "models" / "upscale_models" / "a_lora.pth",
    )
    graph = prompt("SwinIRLoader")
    graph["1"]["inputs"]["model_name"] = "a_lora.pth"
    run = stage_one.run(graph)
    assert not run.success
    assert "Load Restoration Network (SwinIR, BSRNet, SCUNet): 'a_lora.pth'" in run.error
