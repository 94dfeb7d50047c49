from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from torch import Tensor

from pack.images.padding import reflect_pad_to
from pack.model_loaders.networks.swin_unet import SwinUNet, SwinUNetConfig
from pack.tests.support.golden import assert_close, golden_case
from pack.tests.support.tiny import (
    BUFFERS,
    INPAINT_UNET,
    OPERATIONS,
    TINY_UNET,
    build_unet,
    golden_unet,
    random_unet_weights,
    shapes_in_files,
)

pytestmark = pytest.mark.comfy

CASES = [
    "b1_unet_condlq",
    "b2_unet_condlq_mask",
    "b3_unet_lq8x",
    "b4_unet_lq4x_mask",
    "b5_unet_attn_subset_mlp2",
]
# Of values up to 3: sums of float32 in another order, which each kind of processor has its own of.
TOLERANCE = 2e-5


def golden_call(network: SwinUNet, golden: dict[str, Tensor], variant: str) -> Tensor:
    ratio = network.config.condition_ratio
    mask = golden.get(f"{variant}.mask")
    return network(
        golden[f"{variant}.x"],
        golden[f"{variant}.t"],
        lq=F.pixel_unshuffle(golden[f"{variant}.lq"], ratio),
        mask=None if mask is None else F.pixel_unshuffle(mask.float(), ratio),
    )


def random_call(config: SwinUNetConfig, height: int, width: int) -> dict[str, Tensor]:
    """Return inputs of a network whose condition is still an image, not yet folded."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    ratio = config.condition_ratio
    sides = (height * ratio, width * ratio)
    return {
        "x": torch.randn(2, config.latent_channels, height, width, generator=generator),
        "y_shift": torch.randn(2, config.latent_channels, height, width, generator=generator),
        "lq": torch.rand(2, 3, *sides, generator=generator) * 2 - 1,
        "mask": torch.randn(2, 1, *sides, generator=generator).sign(),
    }


def call(network: SwinUNet, inputs: dict[str, Tensor]) -> Tensor:
    ratio = network.config.condition_ratio
    mask = F.pixel_unshuffle(inputs["mask"], ratio) if network.config.cond_mask else None
    lq = F.pixel_unshuffle(inputs["lq"], ratio)
    index = torch.tensor([0, 3])
    return network(inputs["x"], index, lq=lq, mask=mask, y_shift=inputs["y_shift"])


@pytest.mark.parametrize("case", CASES)
def test_the_network_is_the_references_at_its_size_and_at_others(case):
    description, golden = golden_case(f"resshift/{case}")
    network = golden_unet(f"resshift/{case}")
    for variant in ("native", "nonnative"):
        assert_close(golden_call(network, golden, variant), golden[f"{variant}.y"], TOLERANCE)
    expected = [(key, shape) for key, shape in description["keys"] if not key.endswith(BUFFERS)]
    assert sorted(shapes_in_files(network)) == sorted((key, shape) for key, shape in expected)


def test_every_block_gives_what_the_references_gives():
    _, golden = golden_case("resshift/b1_unet_condlq")
    network = golden_unet("resshift/b1_unet_condlq")
    seen: dict[str, Tensor] = {}
    for name in (key.removeprefix("probe.") for key in golden if key.startswith("probe.")):
        network.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.__setitem__(name, output)
        )
    golden_call(network, golden, "native")
    assert len(seen) == 19
    for name, output in seen.items():
        assert_close(output[:1], golden[f"probe.{name}"], 3e-5)  # values reach 13 inside


@pytest.mark.parametrize(("height", "width"), [(16, 24), (13, 8)])
def test_maps_follow_weights_that_lie_channels_last_and_come_out_the_same(height, width):
    network = build_unet(TINY_UNET, random_unet_weights())
    inputs = random_call(TINY_UNET, height, width)
    layouts = []

    def record(module, args, output) -> None:
        layouts.append(output.is_contiguous(memory_format=torch.channels_last))

    for module in (network.input_blocks[0], network.middle_block, network.output_blocks[-1]):
        module.register_forward_hook(record)
    plain = call(network, inputs)
    turned = call(network.to(memory_format=torch.channels_last), inputs)
    assert layouts == [False] * 3 + [True] * 3
    assert_close(turned, plain, 2e-5)  # values reach 5


def test_the_timestep_embedding_is_the_references():
    _, golden = golden_case("resshift/b0_swin_layer")
    for width in (32, 33):
        assert_close(timestep_embedding(golden["temb.t"], width), golden[f"temb.dim{width}"], 2e-6)
    _, golden = golden_case("resshift/b1_unet_condlq")
    network = golden_unet("resshift/b1_unet_condlq")
    embedding = network.time_embed(timestep_embedding(golden["native.t"], 32))
    assert_close(embedding, golden["native.emb"], 1e-6)


@pytest.mark.parametrize("config", [TINY_UNET, INPAINT_UNET], ids=["x4", "inpainting"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (5, 8), (8, 13), (9, 17)])
def test_sizes_that_do_not_fit_are_those_of_the_padded_call(config, height, width):
    network = build_unet(config, random_unet_weights(config))
    inputs = random_call(config, height, width)
    output = call(network, inputs)
    assert output.shape == inputs["x"].shape
    assert torch.isfinite(output).all()

    multiple, ratio = config.size_multiple, config.condition_ratio
    padded_height, padded_width = (
        -(-height // multiple) * multiple,
        -(-width // multiple) * multiple,
    )
    padded = {
        name: reflect_pad_to(value, padded_height, padded_width)
        if name in ("x", "y_shift")
        else reflect_pad_to(value, padded_height * ratio, padded_width * ratio)
        for name, value in inputs.items()
    }
    assert torch.equal(output, call(network, padded)[..., :height, :width])


def test_sizes_that_fit_are_not_padded(monkeypatch):
    network = build_unet(TINY_UNET, random_unet_weights())
    widths = []
    network.input_blocks[0][0].register_forward_hook(
        lambda module, args, output: widths.append(tuple(args[0].shape[2:]))
    )
    for height, width in ((8, 8), (8, 24), (16, 8), (9, 8)):
        call(network, random_call(TINY_UNET, height, width))
    assert widths == [(8, 8), (8, 24), (16, 8), (16, 8)]


def test_the_multiple_is_a_window_on_the_smallest_level_but_no_more_than_the_trained_size():
    released = SwinUNetConfig(latent_channels=3)
    assert released.size_multiple == 64
    assert replace(released, image_size=32).size_multiple == 32
    assert TINY_UNET.size_multiple == 8
    assert INPAINT_UNET.condition_ratio == 4


def test_the_shift_of_y_is_added_to_the_state():
    network = build_unet(TINY_UNET, random_unet_weights())
    inputs = random_call(TINY_UNET, 8, 8)
    summed = network(inputs["x"] + inputs["y_shift"], torch.tensor([0, 3]), lq=inputs["lq"])
    assert torch.equal(call(network, inputs), summed)


def test_the_network_sees_state_timestep_image_and_mask():
    network = build_unet(INPAINT_UNET, random_unet_weights(INPAINT_UNET))
    inputs = random_call(INPAINT_UNET, 8, 8)
    output = call(network, inputs)
    for name in ("x", "lq", "mask"):
        changed = call(network, {**inputs, name: -inputs[name]})
        assert (changed - output).abs().max() > 0.01, name
    assert (
        output[:1] - call(network, {k: v.flip(0) for k, v in inputs.items()})[1:]
    ).abs().max() > 0.01


def test_pictures_of_a_batch_do_not_touch_each_other():
    network = build_unet(TINY_UNET, random_unet_weights())
    inputs = random_call(TINY_UNET, 8, 8)
    changed = {name: torch.cat([value[:1], value[1:] * 0.5]) for name, value in inputs.items()}
    assert_close(call(network, changed)[:1], call(network, inputs)[:1], 2e-6)


def test_the_released_network_has_118_million_parameters():
    network = SwinUNet(
        SwinUNetConfig(latent_channels=3), device=torch.device("meta"), operations=OPERATIONS
    )
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(118.6e6, rel=5e-4)
