from __future__ import annotations

import logging

import comfy.utils
import pytest
import torch
import torch.nn.functional as F

from pack.images.padding import reflect_pad_to
from pack.images.resize import enlarge_bicubic
from pack.pipelines.resshift_conditioning import prepare_resshift, resshift_model
from pack.tests.support.golden import assert_close
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


def test_the_image_is_padded_enlarged_and_encoded_and_goes_along(sr):
    model, vae = sr
    image = picture(13, 20)
    inputs = prepare_resshift(model, vae, image)
    planes = reflect_pad_to(image.movedim(-1, 1), 16, 24)
    y = vae.first_stage_model.encode(enlarge_bicubic(planes, 4) * 2 - 1)

    assert (inputs.width, inputs.height) == (80, 52)
    assert inputs.latent["samples"].shape == (1, 3, 16, 24)
    assert_close(inputs.latent["samples"], y, 1e-5)
    for conditioning in (inputs.positive, inputs.negative):
        values = conditioning[0][1]
        assert torch.equal(values["concat_latent_image"], inputs.latent["samples"])
        assert torch.equal(values["resshift_lq"], planes * 2 - 1)
        assert "resshift_mask" not in values


def test_sizes_that_fit_are_not_padded(sr):
    inputs = prepare_resshift(*sr, picture(16, 8))
    assert inputs.latent["samples"].shape == (1, 3, 16, 8)
    assert (inputs.width, inputs.height) == (32, 64)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (8, 9)])
def test_pictures_of_any_size_are_taken(sr, folded, size):
    for model, vae in (sr, folded):
        inputs = prepare_resshift(model, vae, picture(*size))
        assert (inputs.height, inputs.width) == (4 * size[0], 4 * size[1])
        assert torch.isfinite(inputs.latent["samples"]).all()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_grey_is_repeated_and_alpha_left_out(sr, channels):
    image = picture(8, 8, channels).clamp(min=0.01)  # nothing is hidden
    color = image[..., :1].expand(-1, -1, -1, 3) if channels < 3 else image[..., :3]
    expected = prepare_resshift(*sr, color)
    assert torch.equal(prepare_resshift(*sr, image).latent["samples"], expected.latent["samples"])


def test_pixels_out_of_range_are_brought_into_it(sr):
    image = picture(8, 8)
    bright = prepare_resshift(*sr, image * 3 - 1)
    expected = prepare_resshift(*sr, (image * 3 - 1).clamp(0, 1))
    assert torch.equal(bright.latent["samples"], expected.latent["samples"])


def test_a_batch_is_prepared_picture_by_picture(sr):
    images = picture(9, 11, batch=3)
    inputs = prepare_resshift(*sr, images)
    for k in range(3):
        alone = prepare_resshift(*sr, images[k : k + 1])
        # Convolutions sum in another order for another batch; latents reach 1.8.
        assert_close(inputs.latent["samples"][k : k + 1], alone.latent["samples"], 5e-5)


def test_the_hole_is_blanked_and_the_mask_padded_with_the_image(inpaint):
    image, mask = picture(40, 50), torch.zeros(1, 40, 50)
    mask[:, 10:25, 20:45] = 1
    inputs = prepare_resshift(*inpaint, image, mask)
    values = inputs.positive[0][1]
    hole = reflect_pad_to(mask[:, None], 64, 64)
    assert torch.equal(values["resshift_mask"], hole * 2 - 1)
    lq = values["resshift_lq"]
    assert (lq[hole.expand_as(lq) == 1] == -1).all()
    known = reflect_pad_to(image.movedim(-1, 1), 64, 64) * 2 - 1
    assert torch.equal(lq[hole.expand_as(lq) == 0], known[hole.expand_as(lq) == 0])
    assert inputs.latent["samples"].shape == (1, 3, 16, 16)
    assert (inputs.width, inputs.height) == (50, 40)


def test_what_the_hole_holds_does_not_matter(inpaint):
    image, mask = picture(32, 32), torch.zeros(32, 32)
    mask[8:16, 4:20] = 1
    other = torch.where(mask[..., None] == 1, 1 - image, image)
    first, second = (prepare_resshift(*inpaint, each, mask) for each in (image, other))
    assert torch.equal(first.latent["samples"], second.latent["samples"])


def test_an_empty_mask_is_worth_a_warning(inpaint, caplog):
    with caplog.at_level(logging.WARNING):
        prepare_resshift(*inpaint, picture(32, 32), torch.zeros(1, 32, 32))
    assert "the mask is empty" in caplog.text


@pytest.mark.parametrize("side", [8, 64])
def test_an_empty_mask_is_none_for_a_model_that_fills_nothing(sr, side):
    inputs = prepare_resshift(*sr, picture(8, 8), torch.zeros(1, side, side))
    assert "resshift_mask" not in inputs.positive[0][1]


NO_NUMBER = torch.full((1, 8, 8, 3), float("nan"))


@pytest.mark.parametrize(
    ("image", "mask", "remedy"),
    [
        (NO_NUMBER, None, "run that model in float32"),
        (torch.zeros(0, 8, 8, 3), None, "'image' is empty"),
        (torch.zeros(1, 8, 0, 3), None, "'image' is empty"),
        (torch.zeros(1, 8, 8, 5), None, "1 to 4 channels"),
        (torch.zeros(8, 8, 3), None, "give it pictures of shape"),
        (torch.zeros(1, 8, 8, 3), torch.ones(1, 8, 8), "takes no mask. Disconnect it"),
    ],
)
def test_images_that_are_none_are_refused(sr, image, mask, remedy):
    with pytest.raises(ValueError, match=remedy):
        prepare_resshift(*sr, image, mask)


@pytest.mark.parametrize(
    ("mask", "remedy"),
    [
        (None, "connect a mask, 1 where pixels are missing"),
        (torch.zeros(1, 64, 64), r"with a picture without transparency\. Paint a mask"),
        (torch.ones(1, 64, 64), "'mask' is 64x64 and the image 8x8"),
        (torch.zeros(1, 8, 9), "resize the mask to the size of the image"),
        (torch.zeros(2, 8, 8), "2 masks for 1 images; give one, or one for each"),
    ],
)
def test_masks_that_do_not_fit_are_refused(inpaint, mask, remedy):
    with pytest.raises(ValueError, match=remedy):
        prepare_resshift(*inpaint, torch.zeros(1, 8, 8, 3), mask)


def test_the_vae_of_another_model_is_refused_by_the_name_of_the_right_one(sr, folded):
    with pytest.raises(ValueError, match=r"Load 'tiny_vq.safetensors' with 'Load ResShift VAE'"):
        prepare_resshift(sr[0], folded[1], picture(8, 8))
    with pytest.raises(ValueError, match=r"needs 48 channels at 1/4\. Load 'bundled'"):
        prepare_resshift(folded[0], sr[1], picture(8, 8))


def test_a_model_of_another_kind_is_refused_by_the_loader_to_use(sr):
    class Other:
        model = comfy.utils  # anything that is no ResShift model

    with pytest.raises(ValueError, match="Load one with 'Load ResShift Model'"):
        resshift_model(Other)
    with pytest.raises(ValueError, match="Load one with 'Load ResShift Model'"):
        prepare_resshift(Other, sr[1], picture(8, 8))


def test_the_conditioning_holds_a_text_embedding_for_nodes_that_expect_one(sr):
    inputs = prepare_resshift(*sr, picture(8, 8))
    assert inputs.positive[0][0].ndim == 3
    assert inputs.positive[0][1] is not inputs.negative[0][1]


def test_the_folded_latent_is_the_enlarged_image_itself(folded):
    image = picture(8, 16)
    inputs = prepare_resshift(*folded, image)
    enlarged = enlarge_bicubic(image.movedim(-1, 1), 4)
    assert_close(F.pixel_shuffle(inputs.latent["samples"], 4), enlarged * 2 - 1, 1e-6)
