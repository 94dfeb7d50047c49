from __future__ import annotations

import numpy as np
import piq
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from pack.images.metrics import channel_ssim, gmsd, psnr, ssim


def pair(batch: int = 3, height: int = 45, width: int = 61) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(batch, 3, height, width, generator=generator)
    noise = torch.randn(batch, 3, height, width, generator=generator)
    strength = torch.linspace(0.02, 0.4, batch).view(-1, 1, 1, 1)
    return (reference + strength * noise).clamp(0, 1), reference


def test_psnr_is_that_of_scikit_image():
    image, reference = pair()
    expected = [
        peak_signal_noise_ratio(y.double().numpy(), x.double().numpy(), data_range=1)
        for x, y in zip(image, reference, strict=True)
    ]
    assert psnr(image, reference).tolist() == pytest.approx(expected, rel=1e-12)


def test_equal_pictures_have_infinite_psnr_and_ssim_one():
    _, reference = pair()
    assert torch.isinf(psnr(reference, reference)).all()
    torch.testing.assert_close(
        ssim(reference, reference), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_ssim_is_that_of_scikit_image_on_luma_without_the_border():
    image, reference = pair()
    weights = np.array([0.299, 0.587, 0.114])

    def expected(x: Tensor, y: Tensor) -> float:
        lumas = [np.tensordot(weights, t.double().numpy(), axes=1) for t in (x, y)]
        _, similarity = structural_similarity(
            *lumas,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            full=True,
        )
        return similarity[5:-5, 5:-5].mean()

    wanted = [expected(x, y) for x, y in zip(image, reference, strict=True)]
    assert ssim(image, reference).tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("height", "width"), [(44, 60), (8, 4), (45, 61), (5, 7)])
def test_gmsd_is_that_of_piq(height, width):
    image, reference = pair(3, height, width)
    expected = piq.gmsd(image, reference, reduction="none").tolist()
    assert gmsd(image, reference).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("height", "width"), [(45, 60), (44, 61)])
def test_an_odd_side_is_halved_with_black_beside_it(height, width):
    image, reference = pair(2, height, width)
    even = [F.pad(x, (0, width % 2, 0, height % 2)) for x in (image, reference)]
    assert torch.equal(gmsd(image, reference), gmsd(*even))
    expected = piq.gmsd(*even, reduction="none").tolist()
    assert gmsd(image, reference).tolist() == pytest.approx(expected, abs=1e-5)


def test_equal_pictures_have_a_gmsd_of_zero_at_any_size():
    for height, width in ((45, 61), (4, 5)):
        _, reference = pair(2, height, width)
        assert gmsd(reference, reference).tolist() == pytest.approx([0, 0], abs=1e-12)


def test_more_noise_is_worse():
    image, reference = pair()
    assert (gmsd(image, reference).diff() > 0).all()
    assert (psnr(image, reference).diff() < 0).all()
    assert (ssim(image, reference).diff() < 0).all()


def test_a_picture_of_the_windows_size_has_an_ssim():
    image, reference = pair(1, 11, 11)
    assert 0 < ssim(image, reference).item() < 1


def test_ssim_of_channels_is_the_mean_of_scikit_images_over_the_channels():
    image, reference = pair()
    wanted = []
    for x, y in zip(image, reference, strict=True):
        _, similarity = structural_similarity(
            x.double().numpy(),
            y.double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=0,
            full=True,
        )
        wanted.append(similarity[:, 5:-5, 5:-5].mean())
    assert channel_ssim(image, reference).tolist() == pytest.approx(wanted, abs=1e-6)


def test_ssim_of_channels_of_a_grey_picture_is_that_of_its_luma():
    image, reference = (t[:, :1].expand(-1, 3, -1, -1) for t in pair())
    torch.testing.assert_close(channel_ssim(image, reference), ssim(image, reference))
