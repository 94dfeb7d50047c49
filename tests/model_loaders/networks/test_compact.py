from __future__ import annotations

import comfy.ops
import pytest
import spandrel
import torch

from pack.model_loaders.networks.compact import CompactConfig, CompactNet
from pack.tests.support.golden import assert_close

pytestmark = pytest.mark.comfy


@pytest.mark.parametrize("config", [CompactConfig(16, 3, 4), CompactConfig(24, 2, 2)])
def test_the_published_structure_gives_the_same_picture(config):
    generator = torch.Generator().manual_seed(3)
    network = CompactNet(config, operations=comfy.ops.disable_weight_init).eval()
    for parameter in network.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    published = spandrel.ModelLoader().load_from_state_dict(network.state_dict()).model.eval()
    image = torch.rand(2, 3, 11, 14, generator=generator)
    with torch.inference_mode():
        made = network(image)
        assert made.shape == (2, 3, 11 * config.scale, 14 * config.scale)
        assert_close(made, published(image), 1e-5)


def test_a_pixel_sees_as_far_as_the_margin_says_and_no_farther():
    generator = torch.Generator().manual_seed(3)
    config = CompactConfig(8, 3, 2)
    network = CompactNet(config, dtype=torch.float64, operations=comfy.ops.disable_weight_init)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double()
    side = 2 * config.margin + 3
    middle = side // 2
    image = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    network(image)[..., 2 * middle : 2 * middle + 2, 2 * middle : 2 * middle + 2].sum().backward()
    assert image.grad is not None
    seen = image.grad.abs().amax(dim=(0, 1)) > 0
    for along in (0, 1):
        places = seen.any(dim=along).nonzero()
        assert (places.min(), places.max()) == (middle - config.margin, middle + config.margin)


def test_slopes_follow_the_dtype_of_the_picture():
    network = CompactNet(CompactConfig(8, 2, 4), operations=comfy.ops.manual_cast).eval()
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.1)
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 8, 8).bfloat16()).dtype == torch.bfloat16
