from __future__ import annotations

import comfy.ops
import pytest
import spandrel
import torch
from torch import Tensor

from pack.model_loaders.networks import rrdb
from pack.model_loaders.networks.rrdb import RRDBConfig, RRDBNet
from pack.tests.support.golden import assert_close

pytestmark = pytest.mark.comfy

TINY = RRDBConfig(features=8, growth=4, blocks=1)


def random_network(config: RRDBConfig = TINY, dtype: torch.dtype = torch.float32) -> RRDBNet:
    """Return a network whose weights keep the size of what they are given."""
    generator = torch.Generator().manual_seed(3)
    network = RRDBNet(config, dtype=dtype, operations=comfy.ops.manual_cast).eval()
    for parameter in network.parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim == 4 else 0.1
        parameter.data = spread * torch.randn(parameter.shape, generator=generator).to(dtype)
    return network.requires_grad_(False)


def random_image(height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(2, 3, height, width, generator=generator, dtype=dtype)


# spandrel's has a growth of 32 whatever the file says.
@pytest.mark.parametrize("config", [RRDBConfig(16, 32, 1), RRDBConfig(24, 32, 2)])
def test_the_published_structure_gives_the_same_picture(config):
    network = random_network(config)
    published = spandrel.ModelLoader().load_from_state_dict(dict(network.state_dict()))
    assert published.architecture.id == "ESRGAN"
    image = random_image(11, 14)
    with torch.inference_mode():
        made = network(image)
        assert made.shape == (2, 3, 44, 56)
        assert_close(made, published.model.eval()(image), 1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (33, 20)])
@pytest.mark.parametrize("at_once", [1, 45, 200])
def test_what_is_enlarged_in_bands_equals_the_whole(monkeypatch, size, at_once):
    network, image = random_network(), random_image(*size)
    with torch.inference_mode():
        whole = network(image)
        assert whole.shape == (2, 3, 4 * size[0], 4 * size[1])
        monkeypatch.setattr(rrdb, "ENLARGED_AT_ONCE", at_once)
        assert_close(network(image), whole, 1e-5)


@pytest.mark.parametrize("config", [TINY, RRDBConfig(4, 2, 2)])
def test_a_pixel_sees_as_far_as_the_margin_says_and_no_farther(config):
    side = 2 * config.margin + 3
    middle = side // 2
    image = random_image(side, side, torch.float64).requires_grad_()
    made = random_network(config, torch.float64)(image)
    made[..., 4 * middle : 4 * middle + 4, 4 * middle : 4 * middle + 4].sum().backward()
    assert image.grad is not None
    seen = image.grad.abs().amax(dim=(0, 1)) > 0
    for along in (0, 1):
        places = seen.any(dim=along).nonzero()
        assert (places.min(), places.max()) == (middle - config.margin, middle + config.margin)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_follow_the_dtype_of_the_picture(dtype):
    network, image = random_network(), random_image(9, 8)
    with torch.inference_mode():
        made = network(image.to(dtype))
        assert made.dtype == dtype
        assert_close(made.float(), network(image), 0.05)
