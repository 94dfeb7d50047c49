from __future__ import annotations

import torch

from pack.model_loaders.networks.pixel_latent import PixelLatent


def test_folding_is_undone_exactly():
    image = torch.rand(2, 3, 12, 20)
    network = PixelLatent(4)
    latent = network.encode(image)
    assert latent.shape == (2, 48, 3, 5)
    assert torch.equal(network.decode(latent), image)


def test_a_latent_pixel_holds_the_block_of_its_place_colour_by_colour():
    image = torch.rand(1, 3, 8, 8)
    latent = PixelLatent(4).encode(image)
    assert torch.equal(latent[0, :, 1, 0], image[0, :, 4:8, 0:4].flatten())


def test_it_has_no_weights():
    assert not PixelLatent(4).state_dict()
