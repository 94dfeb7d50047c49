from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pack.images.color import fix_color
from pack.images.conversion import ready_to_truncate
from pack.pipelines.finish import correct_color, enlarge_alpha, finish_restoration


def image(height: int = 12, width: int = 16, channels: int = 3, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 100 + width + channels)
    return torch.rand(batch, height, width, channels, generator=generator)


def test_the_padding_is_cropped_from_the_right_and_the_bottom():
    decoded = image()
    assert torch.equal(finish_restoration(decoded, 13, 9), decoded[:, :9, :13])


def test_zero_keeps_a_side():
    decoded = image()
    assert torch.equal(finish_restoration(decoded, 0, 0), decoded)
    assert torch.equal(finish_restoration(decoded, 13, 0), decoded[:, :, :13])


def test_values_are_brought_into_the_range():
    finished = finish_restoration(image() * 4 - 2, 0, 0)
    assert finished.min() == 0
    assert finished.max() == 1


@pytest.mark.parametrize("method", ["wavelet", "adain", "luminance"])
def test_colours_are_those_of_the_reference_at_the_size_of_the_picture(method):
    decoded, reference = image(), image(3, 4)
    finished = finish_restoration(decoded, 13, 9, reference=reference, color_fix=method)
    resized = F.interpolate(
        reference.movedim(-1, 1), size=(9, 13), mode="bicubic", align_corners=False, antialias=True
    )
    expected = fix_color(decoded[:, :9, :13].movedim(-1, 1), resized, method).clamp(0, 1)
    assert torch.equal(finished, expected.movedim(1, -1))


def test_known_pixels_are_put_back_and_soft_edges_blend():
    decoded, original = image(12, 16), image(9, 13)
    mask = torch.linspace(0, 1, 13).expand(1, 9, 13)
    finished = finish_restoration(decoded, 13, 9, original=original, mask=mask)
    weight = mask[..., None]
    expected = decoded[:, :9, :13] * weight + original * (1 - weight)
    torch.testing.assert_close(finished, expected)
    assert torch.equal(finished[:, :, 0], original[:, :, 0])
    assert torch.equal(finished[:, :, -1], decoded[:, :9, 12])


def test_one_original_and_mask_serve_a_batch():
    decoded, original = image(batch=3), image()
    mask = torch.zeros(12, 16)
    assert torch.equal(
        finish_restoration(decoded, 0, 0, original=original, mask=mask),
        original.expand(3, -1, -1, -1),
    )


@pytest.mark.parametrize(
    ("asked", "size"),
    [((32, 24), (24, 32)), ((8, 0), (6, 8)), ((0, 24), (24, 32)), ((5, 30), (30, 5))],
)
def test_an_output_size_resizes_at_the_end_and_one_side_follows_the_other(asked, size):
    finished = finish_restoration(image(), 0, 0, output_width=asked[0], output_height=asked[1])
    assert finished.shape == (1, *size, 3)
    assert 0 <= finished.min() <= finished.max() <= 1


def test_a_side_that_follows_is_at_least_a_pixel():
    assert finish_restoration(image(1, 40), 0, 0, output_width=4).shape == (1, 1, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"width": 17, "height": 9}, "width and height of the conditioning node"),
        ({"width": 9, "height": 13}, "width and height of the conditioning node"),
        ({"color_fix": "wavelet"}, "needs a picture at 'reference'.*or choose 'none'"),
        ({"original": image()}, "connect both or neither"),
        ({"mask": torch.zeros(12, 16)}, "connect both or neither"),
        ({"original": image(3, 4), "mask": torch.zeros(12, 16)}, "they must be of one size"),
        ({"original": image(), "mask": torch.zeros(3, 4)}, "resize the mask"),
        (
            {"original": image(batch=2), "mask": torch.zeros(12, 16)},
            "'original' has 2 pictures for 1 images",
        ),
        (
            {"reference": image(batch=2), "color_fix": "adain"},
            "'reference' has 2 pictures for 1 images; give one, or one for each",
        ),
        ({"image": torch.full((1, 4, 4, 3), float("nan"))}, "run that model in float32"),
        ({"image": torch.zeros(0, 4, 4, 3)}, "'image' is empty"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, remedy):
    with pytest.raises(ValueError, match=remedy):
        finish_restoration(**{"image": image(), "width": 0, "height": 0, **arguments})


def test_colours_are_corrected_beside_the_alpha():
    decoded, reference = image(channels=4), image()
    fixed = correct_color(decoded, reference, "adain")
    assert torch.equal(fixed[..., 3], decoded[..., 3])
    planes = fix_color(decoded[..., :3].movedim(-1, 1), reference.movedim(-1, 1), "adain")
    assert torch.equal(fixed[..., :3], planes.clamp(0, 1).movedim(1, -1))


def test_one_reference_serves_a_batch_and_another_size_is_refused():
    batch = image(batch=2)
    fixed = correct_color(batch, image(), "luminance")
    assert torch.equal(fixed[1:], correct_color(batch[1:], image(), "luminance"))
    with pytest.raises(ValueError, match="resize the reference"):
        correct_color(batch, image(3, 4), "wavelet")


def test_alpha_is_enlarged_within_its_range():
    alpha = torch.zeros(1, 1, 2, 4)
    alpha[..., 2:] = 1
    enlarged = enlarge_alpha(alpha, 8, 16)
    assert enlarged.shape == (1, 1, 8, 16)
    assert enlarged.min() == 0
    assert enlarged.max() == 1


def spread(finished: torch.Tensor) -> float:
    """Return how far the channels of a picture are apart at most."""
    return (finished.amax(-1) - finished.amin(-1)).max().item()


@pytest.mark.parametrize("method", ["none", "wavelet", "adain", "luminance"])
def test_a_black_and_white_picture_stays_so_whatever_the_colour_fix(method):
    decoded, source = image(batch=2), image(3, 4, batch=2)
    source[0] = source[0, ..., :1]
    finished = finish_restoration(
        decoded, 0, 0, reference=source, color_fix=method, grey_like=source
    )
    assert spread(finished[0]) == 0
    assert spread(finished[1]) > 0.1
    tinted = finish_restoration(decoded, 0, 0, reference=source, color_fix=method)
    assert (spread(tinted[0]) > 0.1) == (method != "luminance")


@pytest.mark.parametrize("method", ["wavelet", "adain", "luminance"])
def test_colours_of_a_black_and_white_reference_are_none(method):
    corrected = correct_color(image(), image()[..., :1].expand(-1, -1, -1, 3), method)
    assert spread(corrected) == 0


def test_the_empty_mask_of_a_picture_without_transparency_is_refused():
    with pytest.raises(ValueError, match="Connect the mask of what was restored"):
        finish_restoration(image(), 0, 0, original=image(), mask=torch.zeros(1, 64, 64))


def test_a_picture_for_saving_is_the_same_but_for_what_truncating_would_drop():
    decoded = image()
    finished = finish_restoration(decoded, 0, 0, for_saving=True)
    assert torch.equal(finished, ready_to_truncate(decoded))
    assert ((finished * 255).floor() == (decoded * 255).round()).all()
