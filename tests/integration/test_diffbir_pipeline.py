"""DiffBIR's one node against the separate nodes, in a real ComfyUI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from pack.tests.support.running import InProcessComfy

pytestmark = pytest.mark.comfy

DIFFERENT = "different per image"
NEGATIVE = "low quality, blurry, low-resolution, noisy, unsharp, weird textures"


@pytest.fixture(scope="module")
def networks(comfy: InProcessComfy) -> dict[str, Any]:
    with torch.inference_mode():
        loader = comfy.node("CheckpointLoaderSimple")()
        model, clip, vae = loader.load_checkpoint("v2-1_512-ema-pruned.safetensors")
    (control_net,) = comfy.call("LAControlNetLoader", "v2.pth")
    (upscale_model,) = comfy.call("SwinIRLoader", "BSRNet.pth")
    return {
        "model": model,
        "clip": clip,
        "vae": vae,
        "control_net": control_net,
        "upscale_model": upscale_model,
    }


def image(batch: int = 1, channels: int = 3, side: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(batch, side, side + 8, channels, generator=generator)


def restore(comfy: InProcessComfy, networks: dict[str, Any], picture: Tensor, **changes) -> Tensor:
    settings: dict[str, Any] = {
        "image": picture,
        "preset": "v2",
        "seed": 5,
        "scale": 4.0,
        "prompt": "",
        "negative_prompt": "",
        "steps": 2,
        "cfg": 4.0,
        "fidelity": 0.0,
        "guidance_scale": 0.5,
        "color_fix": "none",
        "sampler": "official",
        "scheduler": "official",
        "strength": 0.8,
        "start": "noise",
        "noise_aug": 0,
        "rules": "auto",
        "batch_noise": DIFFERENT,
        "tiling": "per step",
        "tile": 1024,
        "tile_overlap": 256,
        **changes,
    }
    (restored,) = comfy.call("DiffBIRRestoreImage", **networks, **settings)
    return restored


def test_one_node_is_the_separate_nodes_in_a_row(comfy: InProcessComfy, networks):
    picture = image()
    cleaned, width, height = comfy.call(
        "DiffBIRRemoveDegradation",
        networks["upscale_model"],
        picture,
        4.0,
        "auto",
        0,
        256,
        "official 8-bit",
        False,
    )
    encode = comfy.node("CLIPTextEncode")()
    with torch.inference_mode():
        texts = [encode.encode(networks["clip"], text)[0] for text in ("", NEGATIVE)]
    positive, negative, latent, crop_width, crop_height = comfy.call(
        "DiffBIRConditioning",
        *texts,
        networks["control_net"],
        networks["vae"],
        cleaned,
        0.8,
        "noise",
        0,
        0.0,
        1.0,
        False,
        5,
        DIFFERENT,
    )
    (sampled,) = comfy.call(
        "DiffBIRSampler",
        networks["model"],
        positive,
        negative,
        latent,
        "v2",
        5,
        2,
        4.0,
        0.5,
        0.0,
        "official",
        "official",
        0.0,
        1.0,
        1,
        False,
        DIFFERENT,
    )
    # VAE Decode would limit to [0, 1] before the colours are corrected; the one node does after.
    decoded = _unlimited(networks["vae"], sampled["samples"])
    (expected,) = comfy.call(
        "RestorationFinish", decoded, crop_width, crop_height, "wavelet", width, height, cleaned
    )
    restored = restore(comfy, networks, picture, color_fix="wavelet")
    assert restored.shape == (1, 160, 192, 3)
    assert restored.std() > 0.05
    assert torch.equal(restored, expected)


def _unlimited(vae: Any, samples: Tensor) -> Tensor:
    """Return what the VAE's network makes of a latent, mapped to [0, 1] and not limited."""
    with torch.inference_mode():
        decoded = vae.first_stage_model.decode(samples.to(vae.vae_dtype)).float()
        return decoded.add(1).div(2).movedim(1, -1)


def test_a_batch_with_alpha_is_restored_picture_by_picture(comfy: InProcessComfy, networks):
    pictures = image(batch=2, channels=4)
    restored = restore(comfy, networks, pictures, steps=2, scale=2.0)
    assert restored.shape == (2, 80, 96, 4)
    alone = restore(comfy, networks, pictures[1:], steps=2, scale=2.0, seed=6)
    assert torch.equal(restored[1:], alone)


def test_a_large_picture_is_tiled_in_both_stages(comfy: InProcessComfy, networks):
    tiled = restore(comfy, networks, image(), tile=320, tile_overlap=64, steps=2)
    assert tiled.shape == (1, 160, 192, 3)
    assert torch.isfinite(tiled).all()


def test_a_checkpoint_without_text_encoder_is_told(comfy: InProcessComfy, networks):
    with pytest.raises(ValueError, match="no text encoder at 'clip'"):
        restore(comfy, networks | {"clip": None}, image())
