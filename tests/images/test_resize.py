from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from pack.images.resize import enlarge_bicubic, resize_bicubic
from pack.tests.support.golden import assert_close, golden_case


def test_enlarging_is_the_references():
    for name in ("d1_sample_sf4_s15", "d2_sample_sf4_s4_rect"):
        _, golden = golden_case(f"resshift/{name}")
        assert_close(enlarge_bicubic(golden["lq"], 4), golden["lq_upsampled"], 1e-6)


def test_enlarging_once_is_the_image_itself():
    x = torch.rand(1, 3, 4, 5)
    assert enlarge_bicubic(x, 1) is x


def test_overshoot_is_kept():
    x = torch.zeros(1, 1, 1, 8)
    x[..., 4:] = 1
    enlarged = enlarge_bicubic(x, 2)
    assert enlarged.min() < 0
    assert enlarged.max() > 1


def test_resizing_is_antialiased_as_in_pillow():
    x = torch.rand(1, 1, 40, 60, generator=torch.Generator().manual_seed(0))
    for width, height in ((17, 11), (90, 55)):
        resized = Image.fromarray(x[0, 0].numpy()).resize((width, height), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.array(resized))[None, None]
        # both round their weights to float32, in different places
        assert_close(resize_bicubic(x, height, width), expected, 5e-6)


def test_a_picture_of_the_right_size_is_not_resized():
    x = torch.rand(1, 3, 4, 5)
    assert resize_bicubic(x, 4, 5) is x
