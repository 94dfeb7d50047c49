"""Networks that run from a list of their layers."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from pack.model_loaders.networks.layer_list import KINDS, Layer, LayerListNetwork


def test_layers_run_in_order_on_the_maps_they_name():
    layers = [
        Layer("conv", (0,), 5, ("w", "b"), {"stride": 1, "groups": 1, "same": True, "relu": True}),
        Layer("add", (0, 5), 9, (), {"relu": False}),
        Layer("rows", (9,), 2),
    ]
    weights = {"w": torch.randn(3, 3, 3, 3), "b": torch.randn(3)}
    network = LayerListNetwork(layers, [2, 5], weights)
    x = torch.randn(2, 3, 4, 5)
    rows, first = network(x)
    expected = F.relu(F.conv2d(x, weights["w"], weights["b"], padding=1))
    assert torch.allclose(first, expected)
    assert torch.allclose(rows, (x + expected).flatten(2).transpose(1, 2))
    assert not any(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize(("side", "stride", "before"), [(8, 2, 0), (7, 2, 1), (8, 1, 1)])
def test_padding_puts_the_odd_pixel_on_the_right(side: int, stride: int, before: int):
    x = torch.arange(float(side)).expand(1, 1, side, side)
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1, 0] = 1  # shows the pixel to the left
    made = KINDS["conv"](x, kernel, None, stride=stride, groups=1, same=True, relu=False)
    assert made.shape[-1] == -(-side // stride)
    assert made[0, 0, 1, 1] == stride - before


def test_doubling_keeps_each_pixel_and_adds_the_mean_of_it_and_the_next():
    doubled = KINDS["double"](torch.tensor([[[[0.0, 4.0, 6.0]]]]))
    assert doubled[0, 0, 0].tolist() == [0, 2, 4, 5, 6, 6]


def test_depth_becomes_space_block_by_block():
    x = torch.arange(8.0).reshape(1, 8, 1, 1)  # two channels of a block of 2x2
    made = KINDS["depth_to_space"](x, block=2)
    assert made[0, 0].tolist() == [[0, 2], [4, 6]]
    assert made[0, 1].tolist() == [[1, 3], [5, 7]]


@pytest.mark.comfy
def test_the_bundled_networks_use_every_weight_and_known_layers():
    from pack.model_loaders.face_landmarker import BUNDLED_FACES_PATH, load_face_landmarker

    with safe_open(BUNDLED_FACES_PATH, "pt") as opened:
        header, keys = opened.metadata(), set(opened.keys())
    used = set()
    for name in ("detector", "mesh"):
        for layer in json.loads(header[name])["layers"]:
            assert layer["kind"] in KINDS
            used |= {f"{name}.{weight}" for weight in layer["weights"]}
    assert keys - used == {key for key in keys if key.startswith("topology.")}
    assert "Apache License 2.0" in header["credit"]
    with torch.inference_mode():
        landmarker = load_face_landmarker()
        numbers, scores = landmarker.detector.model(torch.zeros(1, 3, 192, 192))
        points, presence, _ = landmarker.mesh.model(torch.zeros(1, 3, 256, 256))
    assert (numbers.shape, scores.shape) == ((1, 2304, 16), (1, 2304, 1))
    assert points.numel() == 3 * 478
    assert presence.sigmoid() < 0.5  # no face in a black picture
