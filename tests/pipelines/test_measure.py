from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import piq
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pack.images.metrics import psnr
from pack.images.niqe import niqe
from pack.pipelines.measure import PERCEPTUAL_SCORES, load_perceptual, measure_images

pytestmark = pytest.mark.comfy


def pair(batch: int = 2, height: int = 32, width: int = 44) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    reference = torch.rand(batch, height, width, 3, generator=generator)
    noise = torch.randn(reference.shape, generator=generator)
    return (reference + 0.1 * noise).clamp(0, 1), reference


def mean_of(function, image: torch.Tensor, reference: torch.Tensor) -> float:
    pictures = zip(image.double().numpy(), reference.double().numpy(), strict=True)
    return float(np.mean([function(y, x) for x, y in pictures]))


def ssim_of(reference: np.ndarray, image: np.ndarray, data_range: float = 1) -> float:
    _, similarity = structural_similarity(
        reference,
        image,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=data_range,
        channel_axis=2 if image.ndim == 3 else None,
        full=True,
    )
    return similarity[5:-5, 5:-5].mean()


@pytest.mark.parametrize("border", [0, 4])
def test_the_means_of_a_batch_are_those_of_scikit_image_and_piq(border):
    image, reference = pair()
    measured = measure_images(image, reference, border)
    inside = slice(border, -border or None)
    image, reference = image[:, inside, inside], reference[:, inside, inside]
    weights = np.array([0.299, 0.587, 0.114])
    assert measured.psnr_rgb == pytest.approx(
        mean_of(lambda y, x: peak_signal_noise_ratio(y, x, data_range=1), image, reference)
    )
    assert measured.psnr_y == pytest.approx(
        mean_of(
            lambda y, x: peak_signal_noise_ratio(y @ weights, x @ weights, data_range=1),
            image,
            reference,
        )
    )
    assert measured.ssim_rgb == pytest.approx(mean_of(ssim_of, image, reference), abs=1e-6)
    assert measured.ssim_y == pytest.approx(
        mean_of(lambda y, x: ssim_of(y @ weights, x @ weights), image, reference), abs=1e-6
    )
    planes = (t.movedim(-1, 1) for t in (image, reference))
    assert measured.gmsd == pytest.approx(piq.gmsd(*planes).item(), abs=1e-5)


def test_the_limited_range_is_the_luma_of_matlab():
    image, reference = pair()
    measured = measure_images(image, reference, luma="limited range")
    expected_psnr = mean_of(
        lambda y, x: peak_signal_noise_ratio(
            rgb2ycbcr(y)[..., 0], rgb2ycbcr(x)[..., 0], data_range=255
        ),
        image,
        reference,
    )
    expected_ssim = mean_of(
        lambda y, x: ssim_of(rgb2ycbcr(y)[..., 0], rgb2ycbcr(x)[..., 0], 255), image, reference
    )
    assert measured.psnr_y == pytest.approx(expected_psnr, abs=1e-4)
    assert measured.ssim_y == pytest.approx(expected_ssim, abs=1e-5)
    full = measure_images(image, reference)
    assert measured.psnr_y - full.psnr_y == pytest.approx(20 * math.log10(255 / 219))
    assert (measured.psnr_rgb, measured.gmsd) == (full.psnr_rgb, full.gmsd)


def test_the_report_has_a_row_for_each_picture_and_their_mean():
    image, reference = pair(3, 100, 196)
    rows = measure_images(image, reference).report.splitlines()[2:6]
    figures = [[float(cell) for cell in row.split("|")[2:-1]] for row in rows]
    for number in range(3):
        alone = measure_images(image[number : number + 1], reference[number : number + 1])
        assert rows[number].split("|")[1].strip() == str(number + 1)
        wanted = [alone.psnr_y, alone.ssim_y, alone.psnr_rgb, alone.ssim_rgb, alone.gmsd]
        wanted.append(alone.niqe)
        assert figures[number] == pytest.approx(wanted, abs=0.006, nan_ok=True)
        assert "mean" not in alone.report
    assert rows[3].split("|")[1].strip() == "mean"
    assert len({len(row) for row in rows}) == 1
    wanted = np.mean(figures[:3], axis=0).tolist()
    assert figures[3] == pytest.approx(wanted, abs=0.011, nan_ok=True)


def test_the_report_names_its_conventions():
    report = measure_images(*pair(), border=3, luma="limited range").report
    assert "BT.601 luma, limited range" in report
    assert "Border left out: 3" in report


def test_equal_pictures_are_infinitely_good():
    _, reference = pair()
    measured = measure_images(reference, reference)
    assert measured.psnr_y == measured.psnr_rgb == math.inf
    assert measured.ssim_y == pytest.approx(1)
    assert measured.ssim_rgb == pytest.approx(1)
    assert measured.gmsd == pytest.approx(0, abs=1e-12)
    assert " inf |" in measured.report


def test_one_reference_serves_a_batch_and_alpha_does_not_count():
    image, reference = pair()
    several = measure_images(image, reference[:1])
    spread = measure_images(image, reference[:1].expand(2, -1, -1, -1))
    with_alpha = torch.cat([image, torch.rand(2, 32, 44, 1)], dim=-1)
    assert several.report == spread.report == measure_images(with_alpha, reference[:1]).report


def test_values_outside_the_range_are_limited_as_saving_would():
    image, reference = pair()
    wild = (image - 0.5) * 3 + 0.5
    limited = measure_images(wild.clamp(0, 1), reference)
    assert measure_images(wild, reference).report == limited.report


def test_niqe_looks_at_the_images_alone_and_needs_two_blocks():
    image, reference = pair(2, 100, 196)
    expected = niqe(image.movedim(-1, 1)).mean().item()
    assert measure_images(image, reference).niqe == pytest.approx(expected)
    assert measure_images(image, image).niqe == pytest.approx(expected)
    small = measure_images(image, reference, border=4)
    assert math.isnan(small.niqe)
    assert " nan |" in small.report


def test_pyiqas_niqe_stands_beside_the_packs_own(monkeypatch):
    monkeypatch.setattr(
        "pack.pipelines.measure.load_perceptual", lambda _: (lambda x, _: x.mean(), True)
    )
    header = measure_images(*pair(), perceptual="NIQE, no reference").report.splitlines()[0]
    assert [cell.strip() for cell in header.split("|")[-3:-1]] == ["NIQE", "NIQE (pyiqa)"]


def test_the_smallest_picture_is_that_of_the_window():
    assert 0 < measure_images(*pair(1, 15, 15), border=2).ssim_y < 1


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"reference": torch.zeros(2, 16, 16, 3)}, "resize one to the size of the other"),
        (
            {"reference": pair(3)[1]},
            "'reference' has 3 pictures for 2 images; give one, or one for each",
        ),
        ({"border": 11}, "SSIM needs 11x11 pixels inside, so take a smaller border"),
        ({"border": 1000}, "SSIM needs 11x11 pixels inside"),
        ({"image": torch.full((2, 32, 44, 3), float("inf"))}, "run that model in float32"),
        ({"perceptual": "beauty"}, "unknown score 'beauty'; choose one of none, LPIPS"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, remedy):
    image, reference = pair()
    with pytest.raises(ValueError, match=remedy):
        measure_images(**{"image": image, "reference": reference, **arguments})


@pytest.mark.skipif(find_spec("pyiqa") is not None, reason="pyiqa is installed")
@pytest.mark.parametrize("name", PERCEPTUAL_SCORES)
def test_without_pyiqa_a_perceptual_score_says_how_to_get_it(name):
    with pytest.raises(ValueError, match=r"'pip install pyiqa'.*or choose 'none'"):
        measure_images(*pair(), perceptual=name)


@pytest.mark.skipif(find_spec("pyiqa") is None, reason="pyiqa is not installed")
def test_a_score_of_pyiqa_is_called_as_it_wants(monkeypatch):
    """PSNR stands in, for it has no weights to download."""
    monkeypatch.setitem(PERCEPTUAL_SCORES, "PSNR", "psnr")
    image, reference = (t.movedim(-1, 1) for t in pair(1))
    score, is_lower_better = load_perceptual("PSNR")
    assert not is_lower_better
    assert float(score(image, reference)) == pytest.approx(psnr(image, reference).item(), abs=1e-3)
