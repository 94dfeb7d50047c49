"""HYPIR as a whole: sizes, colours, stage 1, tiles, and what it says of wrong inputs."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from pack.images.color import is_grey
from pack.images.conversion import image_to_planes
from pack.images.resize import resize_bicubic
from pack.pipelines import restore_hypir, stage_one
from pack.pipelines.hypir import patch_hypir
from pack.pipelines.restore_hypir import restore_with_hypir
from pack.pipelines.tiles import TileSettings
from pack.tests.support.diffbir import projection_vae, tiny_clip
from pack.tests.support.golden import assert_close
from pack.tests.support.hypir import save_lora, small_sd2
from pack.tests.support.restoration import descriptor, tiny_esrgan
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch):
    monkeypatch.setattr(restore_hypir, "SHORT_EDGE_PX", 64)


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> tuple[Any, Any, Any]:
    with torch.inference_mode():
        path = save_lora(tmp_path_factory.mktemp("hypir"))
        return patch_hypir(small_sd2(), path), tiny_clip(), projection_vae()


def restore(networks, image: Tensor, **settings: Any) -> Tensor:
    return restore_with_hypir(*networks, image, **settings)


def seen_sizes(monkeypatch) -> list[tuple[int, ...]]:
    """Return a list that will hold the sizes of the latents that are sampled."""
    sizes: list[tuple[int, ...]] = []
    sample = restore_hypir.sample_latent

    def noted(model, positive, negative, latent, *rest, **options):
        sizes.append(tuple(latent["samples"].shape))
        return sample(model, positive, negative, latent, *rest, **options)

    monkeypatch.setattr(restore_hypir, "sample_latent", noted)
    return sizes


@pytest.mark.slow
def test_the_network_sees_512_pixels_or_more_and_the_result_has_the_scale(networks, monkeypatch):
    monkeypatch.setattr(restore_hypir, "SHORT_EDGE_PX", stage_one.SHORT_EDGE_PX)
    sizes = seen_sizes(monkeypatch)
    restored = restore(networks, picture(20, 26), scale=3.0)
    assert restored.shape == (1, 60, 78, 3)
    assert sizes == [(1, 4, 64, 88)]  # 512 x 665, padded to multiples of 64
    assert restored.min() >= 0
    assert restored.max() <= 1


def test_without_any_of_the_step_the_picture_is_the_enlargement(networks):
    """The stand-in VAE is exact on what it encodes twice, so the way there and back shows."""
    image = picture(64, 64)
    restored = restore(networks, image, scale=2.0, strength=0.0, color_fix="none")
    again = restore(networks, restored, scale=1.0, strength=0.0, color_fix="none")
    assert (again - restored).abs().mean() < 0.02
    assert not torch.equal(restore(networks, image, scale=2.0, color_fix="none"), restored)


def test_colours_are_those_of_the_enlarged_picture(networks):
    image = picture(64, 64)

    def distance(restored: Tensor) -> float:
        """Return how far the colours of quarters are from the picture's."""
        difference = image_to_planes(restored)[0] - image_to_planes(image)[0]
        return resize_bicubic(difference, 2, 2).abs().mean().item()

    corrected = distance(restore(networks, image, scale=1.0))
    assert corrected < 0.5 * distance(restore(networks, image, scale=1.0, color_fix="none"))


def test_nothing_is_random_and_pictures_of_a_batch_are_as_alone(networks):
    pictures = picture(16, 16, channels=4, batch=2)
    both = restore(networks, pictures, scale=2.0, frames_at_once=2)
    assert both.shape == (2, 32, 32, 4)
    torch.manual_seed(4)
    assert_close(both[1:], restore(networks, pictures[1:], scale=2.0), 1e-4)


def test_a_black_and_white_picture_stays_so_unless_told_otherwise(networks):
    grey = picture(16, 16, channels=1).expand(-1, -1, -1, 3)
    kept = restore(networks, grey, scale=1.0, color_fix="none")
    tinted = restore(networks, grey, scale=1.0, color_fix="none", keep_grey=False)
    assert is_grey(image_to_planes(kept)[0])
    assert not is_grey(image_to_planes(tinted)[0])


@pytest.mark.slow
def test_stage_one_runs_before_where_its_network_is_given(networks, monkeypatch):
    sizes = seen_sizes(monkeypatch)
    network = descriptor(tiny_esrgan())
    cleaned = restore(networks, picture(20, 24), scale=4.0, upscale_model=network)
    assert cleaned.shape == (1, 80, 96, 3)
    assert sizes == [(1, 4, 64, 80)]
    assert not torch.equal(cleaned, restore(networks, picture(20, 24), scale=4.0))


def test_the_vae_and_the_network_are_cut_into_tiles(networks):
    image = picture(120, 180)
    whole = restore(networks, image, scale=1.0, tiles=TileSettings("off"))
    tiled = restore(networks, image, scale=1.0, tiles=TileSettings(tile=64, overlap=32))
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)
    assert_close(tiled, whole, 0.5)


def test_a_tiling_of_others_is_told(networks):
    with pytest.raises(ValueError, match="HYPIR has no 'official'; choose one of per step, off"):
        restore(networks, picture(8, 8), tiles=TileSettings("official"))


def test_a_model_without_the_lora_is_told_in_the_log(networks, caplog):
    with caplog.at_level(logging.WARNING):
        restore(networks, picture(8, 8), scale=1.0)
    assert "did not come through 'Load HYPIR'" not in caplog.text
    with caplog.at_level(logging.WARNING):
        restore((small_sd2(), *networks[1:]), picture(8, 8), scale=1.0)
    assert "did not come through 'Load HYPIR'" in caplog.text
