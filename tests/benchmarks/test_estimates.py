"""What ComfyUI is told that calls need, against how far a process grows.

Every network runs in a process of its own, at the released width where that takes seconds and at a
smaller one where not, but large enough that what libraries keep for themselves does not decide.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import pytest
import spandrel
import torch
from spandrel.architectures.SCUNet import SCUNet

from pack.benchmarks.diffbir import stage_one_network
from pack.benchmarks.weights import RELEASED_UNET, RELEASED_VQ, random_weights
from pack.model_loaders.networks.compact import CompactConfig, CompactNet
from pack.model_loaders.networks.rrdb import RRDBConfig, RRDBNet
from pack.model_loaders.resshift import (
    cpu_has_bf16_units,
    load_bundled_model,
    load_resshift,
    load_vq_vae,
)
from pack.pipelines.stage_one import estimate_memory, remove_degradation
from pack.tests.support.alone import call_alone, grown
from pack.tests.support.tiny import TINY_RECORD, save_unet, save_vq

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a call"
    ),
]

NARROW_UNET = replace(RELEASED_UNET, model_channels=64, swin_embed_dim=64, num_heads=2)
NARROW_VQ = replace(RELEASED_VQ, width=64, num_codes=1024)
WITHIN = 0.25
BF16 = pytest.param(
    "bf16",
    marks=pytest.mark.skipif(
        not cpu_has_bf16_units(), reason="this processor takes minutes for a call in bfloat16"
    ),
)


def unet_call(network: str, size: int, batch: int, dtype: str) -> tuple[int, float]:
    """Return growth and estimate of one call of a UNet."""
    if network == "bundled":
        patcher = load_bundled_model(dtype=dtype)
    else:
        with tempfile.TemporaryDirectory() as folder:
            record = replace(TINY_RECORD, image_size=64)
            patcher = load_resshift(save_unet(Path(folder), NARROW_UNET, record), dtype=dtype)
    comfy.model_management.load_models_gpu([patcher])
    model = patcher.model
    made = {"dtype": model.get_dtype_inference()}
    x = torch.randn(batch, model.network_config.latent_channels, size, size, **made)
    lq = torch.rand(batch, 3, size, size, **made)
    timesteps = torch.zeros(batch, **made)
    y = torch.randn_like(x) if model.network_config.cond_start else None
    grows = grown(lambda: model.diffusion_model(x, timesteps, lq=lq, y=y))
    return grows, model.memory_required(x.shape)


def vae_call(half: str, size: int, dtype: str) -> tuple[int, float]:
    """Return growth and estimate of one encoding or decoding."""
    with tempfile.TemporaryDirectory() as folder:
        vae = load_vq_vae(save_vq(Path(folder), NARROW_VQ), dtype=dtype)
    comfy.model_management.load_models_gpu([vae.patcher])
    if half == "encode":
        image = torch.rand(1, size, size, 3)
        shape = (1, 3, size, size)
        return grown(lambda: vae.encode(image)), vae.memory_used_encode(shape, vae.vae_dtype)
    latent = torch.randn(1, 3, size // 4, size // 4)
    return grown(lambda: vae.decode(latent)), vae.memory_used_decode(latent.shape, vae.vae_dtype)


def stage_one_call(kind: str, size: int) -> tuple[int, float]:
    """Return growth and estimate of one picture through a network of stage 1."""
    if kind == "scunet":
        weights = random_weights(SCUNet(config=[4] * 7, dim=64))
        network = spandrel.ModelLoader().load_from_state_dict(weights).eval()
    else:
        network = stage_one_network(kind)
    assert isinstance(network, spandrel.ImageModelDescriptor)
    image = torch.rand(1, size, size, 3)
    growth = grown(lambda: remove_degradation(network, image, rules="none"))
    return growth, estimate_memory(network, (size, size), 0)


def start_call(kind: str, size: tuple[int, int], layout: str) -> tuple[int, float]:
    """Return growth and estimate of one picture through a network of a start."""
    if kind == "compact":
        network = CompactNet(CompactConfig(convolutions=2), operations=torch.nn)
    else:
        network = RRDBNet(RRDBConfig(features=16, growth=8, blocks=2), operations=torch.nn)
    if layout == "channels last":
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    image = torch.rand(1, 3, *size)
    return grown(lambda: network(image)), 4 * network.config.values_held(*size)


def assert_near(measured: tuple[int, float]) -> None:
    growth, estimate = measured
    assert abs(estimate / growth - 1) <= WITHIN, (
        f"grew by {growth / 2**20:.0f} MiB, estimated {estimate / 2**20:.0f}"
    )


@pytest.mark.parametrize("dtype", ["fp32", BF16])
@pytest.mark.parametrize(
    ("network", "size", "batch"),
    [("released, narrow", 128, 1), ("released, narrow", 64, 4), ("bundled", 192, 1)],
)
def test_the_unets_estimate_is_near_its_peak(network, size, batch, dtype):
    assert_near(call_alone(unet_call, network=network, size=size, batch=batch, dtype=dtype))


@pytest.mark.parametrize(
    ("half", "size", "dtype"),
    [
        ("encode", 256, "fp32"),
        ("decode", 256, "fp32"),
        ("encode", 512, "fp32"),
        pytest.param("decode", 512, *BF16.values, marks=BF16.marks),
        # Decoding it takes a minute of attention, and bench measures it.
        pytest.param("encode", 1024, *BF16.values, marks=BF16.marks),
    ],
)
def test_the_autoencoders_estimate_is_near_its_peak(half, size, dtype):
    assert_near(call_alone(vae_call, half=half, size=size, dtype=dtype))


@pytest.mark.parametrize(("kind", "size"), [("swinir", 384), ("bsrnet", 96), ("scunet", 192)])
def test_the_estimate_of_stage_one_is_near_its_peak(kind, size):
    assert_near(call_alone(stage_one_call, kind=kind, size=size))


@pytest.mark.parametrize("layout", ["plain", "channels last"])
@pytest.mark.parametrize(
    ("kind", "size"),
    [("compact", (320, 320)), ("rrdb", (160, 160)), ("rrdb", (400, 400))],  # the last in bands
)
def test_the_estimate_of_a_start_is_near_its_peak(kind, size, layout):
    growth, estimate = call_alone(start_call, kind=kind, size=size, layout=layout)
    # Other layouts and devices copy maps that channels-last convolutions on a CPU take as they are.
    assert 0.95 < estimate / growth < 1.7, f"grew by {growth}, estimated {estimate}"
