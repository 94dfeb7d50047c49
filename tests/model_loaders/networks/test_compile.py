"""The networks under torch.compile: one graph each, with the results of the network itself."""

from __future__ import annotations

from dataclasses import replace

import comfy.ops
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch import Tensor

from pack.model_loaders.networks.swin_unet import SwinUNet, SwinUNetConfig
from pack.model_loaders.networks.vq import VQAutoencoder
from pack.model_loaders.resshift import load_resshift, load_vq_vae
from pack.pipelines.noise import PictureSeeds
from pack.pipelines.resshift_conditioning import prepare_resshift
from pack.pipelines.resshift_sampling import sample_resshift
from pack.tests.support.tiny import (
    INPAINT_UNET,
    OPERATIONS,
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

# One level, for compiling takes long; it has shifted windows, and norms around its Swin blocks.
ONE_LEVEL_UNET = replace(
    TINY_UNET,
    channel_mult=(1,),
    num_res_blocks=(1,),
    attention_levels=(True,),
    patch_norm=True,
)
FITTING, PADDED = (8, 8), (9, 13)


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    torch._dynamo.reset()
    with torch.inference_mode():
        yield
    torch._dynamo.reset()


def inputs(config: SwinUNetConfig, size: tuple[int, int], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return what ComfyUI hands the network for a latent of this size, batch 2."""
    generator = torch.Generator().manual_seed(0)

    def draw(channels: int) -> Tensor:
        return torch.randn(2, channels, *size, generator=generator).to(dtype)

    folded = config.condition_ratio**2
    made = {"x": draw(config.latent_channels), "lq": draw(3 * folded)}
    made["y_shift"] = draw(config.latent_channels)
    if config.cond_mask:
        made["mask"] = draw(folded).sign()
    return {**made, "timesteps": torch.tensor([1.0, 2.0])}


@pytest.mark.parametrize(
    ("config", "layers", "dtype", "sizes"),
    [
        (ONE_LEVEL_UNET, comfy.ops.disable_weight_init, torch.float32, [FITTING, PADDED]),
        (INPAINT_UNET, comfy.ops.disable_weight_init, torch.float32, [PADDED]),
        (ONE_LEVEL_UNET, comfy.ops.manual_cast, torch.bfloat16, [PADDED]),
    ],
    ids=["x4 at two sizes", "inpainting", "cast weights"],
)
def test_the_unet_compiles_without_a_graph_break(config, layers, dtype, sizes):
    network = SwinUNet(config, operations=layers, dtype=dtype)
    network.load_state_dict(in_network(random_unet_weights(config)))
    network.eval().requires_grad_(False)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for size in sizes:
        given = inputs(config, size, torch.float32)
        expected = network(**given, transformer_options={})
        assert torch.equal(compiled(**given, transformer_options={}), expected)


@pytest.mark.parametrize("half", ["encode", "decode"])
def test_the_autoencoder_compiles_without_a_graph_break(half):
    network = VQAutoencoder(TINY_VQ, operations=OPERATIONS)
    network.load_state_dict(random_vq_weights())
    call = getattr(network.eval().requires_grad_(False), half)
    x = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.compile(call, backend="eager", fullgraph=True)(x), call(x))


def test_comfyuis_compile_node_leaves_a_run_as_it_is(tmp_path):
    model = load_resshift(save_unet(tmp_path, ONE_LEVEL_UNET))
    given = prepare_resshift(model, load_vq_vae(save_vq(tmp_path)), picture(9, 7))
    compiled = model.clone()
    set_torch_compile_wrapper(model=compiled, backend="eager", fullgraph=True)
    results = [
        sample_resshift(each, given.positive, given.latent, seeds=PictureSeeds(3))["samples"]
        for each in (model, compiled, model)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
