"""DiffBIR's control branch in graphs of ComfyUI's own nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

if TYPE_CHECKING:
    from pack.tests.support.running import InProcessComfy

pytestmark = pytest.mark.comfy

CHECKPOINT = "v2-1_512-ema-pruned.safetensors"
PICTURE = "diffbir_control.png"


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def prompt(base: Any, way: str, *, control_net_name: str = "v2.pth") -> dict[str, Any]:
    """Return a graph of two steps on a picture of 64 px.

    Args:
        base: ComfyUI's base folder, which the picture is written to.
        way: The node that attaches the control.
        control_net_name: What the control is loaded from.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(base / "input" / PICTURE)
    control = {"positive": ["3", 0], "negative": ["4", 0], "control_net": ["2", 0]}
    control |= {"vae": ["1", 2], "image": ["5", 0], "start_percent": 0.0, "end_percent": 1.0}
    graph = {
        "1": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "2": node("LAControlNetLoader", control_net_name=control_net_name),
        "3": node("CLIPTextEncode", clip=["1", 1], text=""),
        "4": node("CLIPTextEncode", clip=["1", 1], text="low quality, blurry"),
        "5": node("LoadImage", image=PICTURE),
        "6": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "8": node("VAEDecode", samples=["7", 0], vae=["1", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="control"),
    }
    if way == "Apply ControlNet":
        graph["10"] = node("ControlNetApplyAdvanced", **control, strength=1.0)
    else:
        own = {"noise_aug": 0, "zero_snr": False, "seed": 0, "batch_noise": "same for all"}
        graph["10"] = node("DiffBIRConditioning", **control, strength=1.0, start="noise", **own)
    latent = ["6", 0] if way == "Apply ControlNet" else ["10", 2]
    graph["7"] = node(
        "KSampler",
        model=["1", 0],
        positive=["10", 0],
        negative=["10", 1],
        latent_image=latent,
        seed=231,
        steps=2,
        cfg=4.0,
        sampler_name="ddpm",
        scheduler="normal",
        denoise=1.0,
    )
    return graph


def pixels_of(comfy: InProcessComfy, graph: dict[str, Any]) -> np.ndarray:
    run = comfy.run(graph)
    assert run.success, run.error
    name = run.outputs["9"]["images"][0]["filename"]
    return np.asarray(Image.open(comfy.base / "output" / name)).astype(int)


def test_a_graph_of_stock_nodes_makes_what_our_conditioning_makes(comfy: InProcessComfy):
    stock = pixels_of(comfy, prompt(comfy.base, "Apply ControlNet"))
    ours = pixels_of(comfy, prompt(comfy.base, "DiffBIR Conditioning"))
    assert stock.shape == (64, 64, 3)
    assert np.abs(stock - ours).max() <= 1
    without = prompt(comfy.base, "DiffBIR Conditioning")
    without["10"]["inputs"]["strength"] = 0.0
    assert np.abs(pixels_of(comfy, without) - ours).max() > 4


def test_a_full_v1_checkpoint_is_listed_and_gives_its_control(comfy: InProcessComfy):
    control = torch.load(comfy.base / "models" / "controlnet" / "v2.pth", weights_only=True)
    full = {f"control_model.{key}": tensor for key, tensor in control.items()}
    full |= {"cond_stage_model.model.ln_final.weight": torch.ones(4)}
    path = comfy.base / "models" / "checkpoints" / "general_full_v1.ckpt"
    torch.save({"state_dict": full}, path)
    choices = comfy.node("LAControlNetLoader").INPUT_TYPES()["required"]["control_net_name"]
    names = choices[1]["options"] if isinstance(choices[0], str) else choices[0]
    assert {"v2.pth", path.name, CHECKPOINT} <= set(names)
    assert len(names) == len(set(names))

    (alone,) = comfy.call("LAControlNetLoader", "v2.pth")
    (found,) = comfy.call("LAControlNetLoader", path.name)
    expected = alone.control_model.state_dict()
    assert all(
        torch.equal(tensor, expected[key])
        for key, tensor in found.control_model.state_dict().items()
    )


def test_of_two_files_with_one_name_the_control_nets_is_loaded(comfy: InProcessComfy):
    stranger = comfy.base / "models" / "checkpoints" / "v1_face.pth"
    torch.save({"anything": torch.ones(1)}, stranger)
    comfy.call("LAControlNetLoader", "v1_face.pth")
    stranger.unlink()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (CHECKPOINT, r"^Load LAControlNet \(DiffBIR\): .*a full checkpoint; load it with Load"),
        ("gone.pth", r"^Load LAControlNet \(DiffBIR\): .*gone\.pth"),
    ],
)
def test_the_loader_says_what_to_do(comfy: InProcessComfy, name: str, message: str):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        comfy.call("LAControlNetLoader", name)


def test_another_control_net_is_refused_by_the_node(comfy: InProcessComfy):
    image = torch.zeros(1, 64, 64, 3)
    with pytest.raises(ValueError, match=r"^DiffBIR Conditioning: .*Load LAControlNet"):
        comfy.call(
            "DiffBIRConditioning",
            *([], [], None, None, image, 1.0, "noise", 0, 0.0, 1.0, False, 0, "same for all"),
        )
