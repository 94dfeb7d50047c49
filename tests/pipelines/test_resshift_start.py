"""What a ResShift chain starts around: a network of its own, or a given picture."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch

from pack.images.resize import enlarge_bicubic
from pack.pipelines import resshift_start
from pack.pipelines.resshift_conditioning import prepare_resshift
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.pipelines.tiles import TileSettings
from pack.tests.support.golden import assert_close
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


@pytest.fixture(params=["started", "densely_started"])
def own_start(request):
    """A MODEL with a network of each kind to start from, and its VAE."""
    return request.getfixturevalue(request.param)


def test_the_chain_starts_around_the_picture_of_the_network_in_the_file(own_start):
    model, vae = own_start
    image = picture(8, 16)
    inputs = prepare_resshift(model, vae, image)
    made = model.model.diffusion_model.start(image.movedim(-1, 1)).clamp(0, 1)
    expected = vae.encode(made.movedim(1, -1))
    assert_close(inputs.latent["samples"], expected, 1e-5)
    bicubic = vae.encode(enlarge_bicubic(image.movedim(-1, 1), 4).movedim(1, -1))
    assert (expected - bicubic).abs().max() > 0.05


def test_pieces_of_a_large_picture_equal_the_whole(own_start, monkeypatch):
    planes = picture(40, 90).movedim(-1, 1)
    whole = resshift_start.start_picture(own_start[0], planes)
    monkeypatch.setattr(resshift_start, "CORE_PX", 16)
    # Rounding: pieces of other sizes are summed in another order.
    assert_close(resshift_start.start_picture(own_start[0], planes), whole, 1e-5)


def test_memory_is_asked_for_what_a_piece_needs_not_for_the_whole_picture(own_start, monkeypatch):
    model = own_start[0]
    config = model.model.network_config.start
    asked = []
    load = comfy.model_management.load_models_gpu

    def watch(models, memory_required):
        asked.append(memory_required)
        load(models, memory_required=memory_required)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", watch)
    monkeypatch.setattr(resshift_start, "CORE_PX", 16)
    resshift_start.start_picture(model, picture(20, 150).movedim(-1, 1))
    size = model.model.get_dtype_inference().itemsize
    assert asked == [size * config.values_held(20, 16 + 2 * config.margin)]


def test_pictures_of_a_batch_start_as_they_do_alone(own_start):
    model = own_start[0]
    planes = torch.cat([picture(8, 8, seed=k) for k in (1, 2)]).movedim(-1, 1)
    both = resshift_start.start_picture(model, planes)
    for k in (0, 1):
        assert_close(resshift_start.start_picture(model, planes[k : k + 1])[0], both[k], 1e-6)


@pytest.mark.parametrize("kind", ["sr", "folded", "started", "densely_started"])
def test_a_given_picture_takes_the_start_s_place(kind, request):
    model, vae = request.getfixturevalue(kind)
    image, given = picture(7, 9), picture(28, 36, seed=5)
    inputs = prepare_resshift(model, vae, image, start_image=given)
    own = prepare_resshift(model, vae, image)
    assert inputs.latent["samples"].shape == own.latent["samples"].shape
    assert (inputs.latent["samples"] - own.latent["samples"]).abs().max() > 0.01
    decoded = vae.decode(inputs.latent["samples"])[:, :28, :36]
    if kind != "sr":  # the folded pixels lose nothing
        assert_close(decoded, given, 1e-5)


def test_the_network_sees_the_given_start(own_start):
    model, vae = own_start
    image = picture(8, 8)
    plain = restore_with_resshift(model, vae, image, seed=1)
    other = restore_with_resshift(model, vae, image, seed=1, start_image=picture(32, 32, seed=9))
    assert (plain - other).abs().max() > 0.01


@pytest.mark.parametrize("tiling", ["per step", "official chop"])
def test_a_given_start_is_cut_with_its_picture(folded, tiling):
    model, vae = folded
    image = picture(24, 40)
    enlarged = enlarge_bicubic(image.movedim(-1, 1), 4).movedim(1, -1).clamp(0, 1)
    tiles = TileSettings(tiling, 64, 16)
    expected = restore_with_resshift(model, vae, image, seed=3, tiles=tiles)
    found = restore_with_resshift(model, vae, image, seed=3, tiles=tiles, start_image=enlarged)
    # Enlarged in pieces and as a whole differ where pieces end, nowhere else.
    assert (found - expected).abs().mean() < 0.01
    shifted = restore_with_resshift(
        model, vae, image, seed=3, tiles=tiles, start_image=enlarged.roll(24, 2)
    )
    assert (shifted - expected).abs().mean() > 0.05


def test_a_start_of_another_size_or_number_is_refused(sr):
    model, vae = sr
    with pytest.raises(ValueError, match=r"'start_image' is 30x28 and must have .* 36x28"):
        prepare_resshift(model, vae, picture(7, 9), start_image=picture(28, 30))
    two = torch.cat([picture(28, 36)] * 2)
    with pytest.raises(ValueError, match="2 pictures for 1 images"):
        prepare_resshift(model, vae, picture(7, 9), start_image=two)
