from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pack.pipelines.finish import finish_restoration
from pack.pipelines.noise import PictureSeeds
from pack.pipelines.resshift_conditioning import prepare_resshift
from pack.pipelines.resshift_sampling import sample_resshift
from pack.pipelines.restore_resshift import PIECE_SEED_STEP, restore_with_resshift
from pack.pipelines.tiles import TileSettings
from pack.tests.support.golden import assert_close
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("color_fix", ["none", "wavelet"])
def test_one_call_is_the_separate_steps_in_a_row(sr, color_fix):
    model, vae = sr
    image = picture(13, 10)
    inputs = prepare_resshift(model, vae, image)
    sampled = sample_resshift(
        model, inputs.positive, inputs.latent, seeds=PictureSeeds(9), steps=3, randomness=0.7
    )
    expected = finish_restoration(
        vae.decode(sampled["samples"]),
        inputs.width,
        inputs.height,
        reference=image,
        color_fix=color_fix,
    )
    restored = restore_with_resshift(
        model, vae, image, seed=9, steps=3, randomness=0.7, color_fix=color_fix
    )
    assert torch.equal(restored, expected)
    assert restored.shape == (1, 52, 40, 3)
    assert 0 <= restored.min() < restored.max() <= 1


@pytest.mark.parametrize("pair", ["sr", "folded"])
def test_every_picture_of_a_batch_is_that_picture_restored_alone_with_seed_plus_k(pair, request):
    model, vae = request.getfixturevalue(pair)
    images = picture(7, 11, batch=3)
    restored = restore_with_resshift(model, vae, images, seed=40)
    for k in range(3):
        alone = restore_with_resshift(model, vae, images[k : k + 1], seed=40 + k)
        assert torch.equal(restored[k : k + 1], alone)
    assert (restored[0] - restored[1]).abs().max() > 0.01


def test_noise_may_be_the_same_for_all(folded):
    images = picture(8, 8).expand(2, -1, -1, -1)
    same = restore_with_resshift(*folded, images, seed=1, batch_noise="same for all")
    different = restore_with_resshift(*folded, images, seed=1)
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], different[0])
    assert not torch.equal(different[0], different[1])


def test_the_same_seed_gives_the_same_picture_whatever_ran_before(sr, folded):
    image = picture(8, 8)
    first = restore_with_resshift(*sr, image, seed=7)
    torch.manual_seed(1)
    restore_with_resshift(*folded, picture(9, 17, batch=2), seed=7)
    other = restore_with_resshift(*sr, image, seed=8)
    assert torch.equal(restore_with_resshift(*sr, image, seed=7), first)
    assert not torch.equal(other, first)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (3, 20)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_any_size_and_kind_come_back_enlarged(folded, size, channels):
    image = picture(*size, channels)
    restored = restore_with_resshift(*folded, image, seed=0, steps=1)
    has_alpha = channels in (2, 4)
    assert restored.shape == (1, 4 * size[0], 4 * size[1], 3 + has_alpha)
    assert torch.isfinite(restored).all()
    if has_alpha:
        alpha = F.interpolate(
            image[..., -1:].movedim(-1, 1), scale_factor=4, mode="bicubic", antialias=True
        )
        assert_close(restored[..., 3], alpha[:, 0].clamp(0, 1), 1e-5)
    color = image[..., :1].expand(-1, -1, -1, 3) if channels < 3 else image[..., :3]
    opaque = restore_with_resshift(*folded, color, seed=0, steps=1)
    assert torch.equal(restored[..., :3], opaque)


def test_holes_are_filled_and_the_rest_is_the_picture_itself(inpaint):
    image, mask = picture(40, 50), torch.zeros(1, 40, 50)
    mask[:, 10:20, 15:35] = 1
    mask[:, 20, :] = 0.5
    restored = restore_with_resshift(*inpaint, image, mask, seed=0)
    assert restored.shape == image.shape
    assert torch.equal(restored[mask == 0], image[mask == 0])
    assert (restored[mask == 1] - image[mask == 1]).abs().max() > 0.05
    inside = restore_with_resshift(*inpaint, image, torch.ones(1, 40, 50), seed=0)
    assert inside.shape == image.shape


@pytest.mark.parametrize("masks", [1, 2])
def test_masks_serve_all_pictures_or_each_its_own(inpaint, masks):
    images, mask = picture(32, 32, batch=2), torch.zeros(masks, 32, 32)
    for k in range(masks):
        mask[k, 8 * k : 8 * k + 8, 8:24] = 1
    restored = restore_with_resshift(*inpaint, images, mask, seed=5)
    for k in range(2):
        own = mask[k % masks]
        alone = restore_with_resshift(*inpaint, images[k : k + 1], own, seed=5 + k)
        assert torch.equal(restored[k : k + 1], alone)


@pytest.mark.parametrize("color_fix", ["wavelet", "adain", "luminance"])
def test_colours_are_those_of_the_image(folded, color_fix):
    image = picture(16, 16) * 0.2 + torch.tensor([0.6, 0.4, 0.2])
    plain = restore_with_resshift(*folded, image, seed=0)
    fixed = restore_with_resshift(*folded, image, seed=0, color_fix=color_fix)

    def distance(restored: torch.Tensor) -> float:
        means = [each.mean(dim=(1, 2)) for each in (restored, image)]
        chroma = [mean - mean.mean() for mean in means]
        return (chroma[0] - chroma[1]).abs().max().item()

    assert distance(fixed) < distance(plain)
    assert distance(fixed) < 0.05


@pytest.mark.parametrize(
    ("image", "mask", "remedy"),
    [
        (torch.full((1, 8, 8, 3), float("nan")), None, "run that model in float32"),
        (torch.zeros(0, 8, 8, 3), None, "'image' is empty"),
        (torch.zeros(1, 8, 8, 5), None, "1 to 4 channels"),
        (torch.zeros(1, 8, 8, 3), torch.ones(1, 8, 8), "takes no mask. Disconnect it"),
    ],
)
def test_images_that_are_none_are_refused(sr, image, mask, remedy):
    with pytest.raises(ValueError, match=remedy):
        restore_with_resshift(*sr, image, mask, seed=0)


@pytest.mark.parametrize(
    ("mask", "remedy"),
    [
        (None, "connect a mask"),
        (torch.zeros(3, 8, 8), "3 masks for 2 images; give one, or one for each"),
        (torch.zeros(1, 64, 64), r"with a picture without transparency\. Paint a mask"),
        (torch.ones(1, 64, 64), "'mask' is 64x64 and the image 8x8"),
        (torch.zeros(1, 8, 9), "resize the mask"),
    ],
)
def test_masks_that_do_not_fit_are_refused(inpaint, mask, remedy):
    with pytest.raises(ValueError, match=remedy):
        restore_with_resshift(*inpaint, torch.zeros(2, 8, 8, 3), mask, seed=0)


def test_the_vae_of_another_model_is_refused(sr, folded):
    with pytest.raises(ValueError, match="with 'Load ResShift VAE'"):
        restore_with_resshift(sr[0], folded[1], picture(8, 8), seed=0)


def test_a_model_of_another_kind_is_refused(sr):
    class Other:
        model = torch.nn.Identity()

    with pytest.raises(ValueError, match=r"is a Identity, not a ResShift model. Load one with"):
        restore_with_resshift(Other, sr[1], picture(8, 8), seed=0)


def test_steps_below_zero_are_refused(sr):
    with pytest.raises(ValueError, match=r"0 \(all 4 of the model\) or more"):
        restore_with_resshift(*sr, picture(8, 8), seed=0, steps=-1)


@pytest.mark.parametrize("pair", ["sr", "folded"])
@pytest.mark.parametrize("tiling", ["per step", "official chop"])
def test_a_picture_that_is_not_larger_than_a_tile_is_not_cut(pair, tiling, request):
    model, vae = request.getfixturevalue(pair)
    image = picture(10, 14)
    whole = restore_with_resshift(model, vae, image, seed=3, tiles=TileSettings("off"))
    cut = restore_with_resshift(model, vae, image, seed=3, tiles=TileSettings(tiling, 64, 16))
    assert torch.equal(cut, whole)


@pytest.mark.parametrize("pair", ["sr", "folded"])
@pytest.mark.parametrize("tiling", ["per step", "official chop"])
def test_a_large_picture_is_cut_and_comes_back_whole(pair, tiling, request):
    model, vae = request.getfixturevalue(pair)
    image = picture(24, 38, channels=4, batch=2)
    tiles = TileSettings(tiling, 64, 16)
    cut = restore_with_resshift(model, vae, image, seed=3, tiles=tiles)
    whole = restore_with_resshift(model, vae, image, seed=3, tiles=TileSettings("off"))
    assert cut.shape == whole.shape == (2, 96, 152, 4)
    assert not torch.equal(cut, whole)
    assert torch.equal(cut[1:], restore_with_resshift(model, vae, image[1:], seed=4, tiles=tiles))


def test_the_official_pieces_are_restored_alone_and_averaged(sr):
    model, vae = sr
    image = picture(16, 26)
    chopped = restore_with_resshift(
        model, vae, image, seed=5, tiles=TileSettings("official chop", 64)
    )
    first = restore_with_resshift(model, vae, image[:, :, :16], seed=5)
    second = restore_with_resshift(model, vae, image[:, :, 10:], seed=5 + PIECE_SEED_STEP)
    assert torch.equal(chopped[:, :, :40], first[:, :, :40])
    assert torch.equal(chopped[:, :, 64:], second[:, :, 24:])
    assert_close(chopped[:, :, 40:64], (first[:, :, 40:] + second[:, :, :24]) / 2, 1e-6)


def test_pieces_of_a_hole_are_filled_where_they_lie(inpaint):
    model, vae = inpaint
    image, mask = picture(40, 40), torch.zeros(1, 40, 40)
    mask[:, 5:30, 20:38] = 1
    for tiling in ("per step", "official chop"):
        filled = restore_with_resshift(
            model, vae, image, mask, seed=1, tiles=TileSettings(tiling, 32, 8)
        )
        known = mask[0] == 0
        assert torch.equal(filled[0][known], image[0][known])
        assert (filled[0][~known] - image[0][~known]).abs().mean() > 0.01
    with pytest.raises(ValueError, match="resize the mask"):
        restore_with_resshift(
            model, vae, image, mask[:, :20], seed=1, tiles=TileSettings("official chop", 32)
        )


@pytest.mark.parametrize("color_fix", ["none", "wavelet", "adain"])
def test_a_black_and_white_picture_comes_out_so_unless_asked_otherwise(folded, color_fix):
    images = picture(8, 8, batch=2)
    images[0] = images[0, ..., :1]
    kept = restore_with_resshift(*folded, images, seed=1, color_fix=color_fix)
    tinted = restore_with_resshift(*folded, images, seed=1, color_fix=color_fix, keep_grey=False)
    assert torch.equal(kept[1], tinted[1])
    assert (kept[0] - kept[0][..., :1]).abs().max() == 0
    assert (tinted[0] - tinted[0][..., :1]).abs().max() > 0.01


@pytest.mark.parametrize("side", [8, 64])
def test_an_empty_mask_changes_nothing_for_a_model_that_fills_nothing(folded, side):
    image = picture(8, 8)
    masked = restore_with_resshift(*folded, image, torch.zeros(1, side, side), seed=1)
    assert torch.equal(masked, restore_with_resshift(*folded, image, seed=1))
