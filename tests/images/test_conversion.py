from __future__ import annotations

import numpy as np
import pytest
import torch

from pack.images.conversion import (
    image_to_planes,
    is_stand_in,
    mask_to_plane,
    planes_to_image,
    ready_to_truncate,
)


def test_rgb_becomes_planes_and_comes_back():
    image = torch.rand(2, 5, 7, 3)
    planes, alpha = image_to_planes(image)
    assert planes.shape == (2, 3, 5, 7)
    assert alpha is None
    assert torch.equal(planes_to_image(planes), image)
    assert planes_to_image(planes).is_contiguous()


def test_alpha_is_split_off_and_put_back():
    image = torch.rand(2, 5, 7, 4)
    planes, alpha = image_to_planes(image)
    assert torch.equal(alpha, image[..., 3:].movedim(-1, 1))
    assert torch.equal(planes_to_image(planes, alpha), image)


@pytest.mark.parametrize("channels", [1, 2])
def test_grey_is_repeated_to_three_channels(channels):
    image = torch.rand(1, 4, 6, channels)
    planes, alpha = image_to_planes(image)
    assert torch.equal(planes, image[..., 0].expand(3, -1, -1, -1).movedim(0, 1))
    assert (alpha is None) == (channels == 1)


def test_half_precision_images_become_float32():
    planes, _ = image_to_planes(torch.rand(1, 2, 2, 3).half())
    assert planes.dtype == torch.float32


@pytest.mark.parametrize(
    ("image", "remedy"),
    [
        (torch.zeros(4, 4, 3), "give it pictures of shape .*batch"),
        (torch.zeros(1, 4, 4, 5), "1 to 4 channels"),
        (torch.zeros(1, 0, 4, 3), "'image' is empty"),
        (torch.zeros(0, 4, 4, 3), "'image' is empty"),
        (torch.full((1, 2, 2, 3), float("nan")), "run that model in float32"),
        (torch.full((1, 2, 2, 3), float("inf")), "run that model in float32"),
    ],
)
def test_what_is_no_picture_is_refused(image, remedy):
    with pytest.raises(ValueError, match=remedy):
        image_to_planes(image)


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (1, 1, 4, 6)])
def test_one_mask_of_any_form_serves_the_batch(shape):
    mask = 0.1 + 0.8 * torch.rand(shape)
    plane = mask_to_plane(mask, 3, 4, 6)
    assert plane.shape == (3, 1, 4, 6)
    assert all(torch.equal(one[0], mask.reshape(4, 6)) for one in plane)


def test_a_mask_for_each_picture_stays_with_its_picture_and_within_the_range():
    mask = torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1).expand(3, 2, 2)
    plane = mask_to_plane(mask, 3, 2, 2)
    assert plane[:, 0, 0, 0].tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("mask", "remedy"),
    [
        (torch.zeros(1, 4, 5), "resize the mask to the size of the image"),
        (torch.zeros(2, 4, 6), "2 masks for 3 images; give one, or one for each"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, remedy):
    with pytest.raises(ValueError, match=remedy):
        mask_to_plane(mask, 3, 4, 6)


def test_white_and_black_that_were_read_a_level_off_are_holes_and_known_pixels():
    mask = torch.tensor([0.0, 1 / 255, 0.02, 0.98, 254.008 / 255, 1.0]).view(1, 1, 6)
    plane = mask_to_plane(mask, 1, 1, 6).flatten()
    assert plane.tolist() == pytest.approx([0, 0, 0.02, 0.98, 1, 1])
    assert plane[[0, 1, 4, 5]].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_mask_that_comes_with_a_picture_without_transparency_is_told_apart(batch):
    mask = torch.zeros(batch, 64, 64)
    assert is_stand_in(mask, 80, 96)
    assert not is_stand_in(mask, 64, 64)
    assert not is_stand_in(torch.zeros(batch, 64, 65), 80, 96)
    mask[-1, 5, 5] = 1
    assert not is_stand_in(mask, 80, 96)


def test_truncating_to_8_bits_takes_the_nearest_level_and_little_moves():
    image = torch.rand(1, 200, 200, 3, generator=torch.Generator().manual_seed(2))
    image[0, 0, :, 0] = torch.arange(200) / 255
    image[0, 1, :56, 0] = torch.arange(200, 256) / 255
    ready = ready_to_truncate(image)
    saved = np.clip(255.0 * ready.numpy(), 0, 255).astype(np.uint8)  # as ComfyUI's Save Image
    nearest = (image * 255).round().numpy().astype(np.uint8)
    assert (saved == nearest).all()
    assert ((ready * 255).round().numpy() == nearest).all()
    assert ((ready - image) >= 0).all()
    assert (ready - image).max() <= 0.5001 / 255
    assert torch.equal(ready_to_truncate(ready), ready)
