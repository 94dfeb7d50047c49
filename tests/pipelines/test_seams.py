"""No seams where tiles meet: gradients across their borders are those of the untiled picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pack.model_loaders.resshift import bundled_vae, load_bundled_model
from pack.pipelines.diffbir_conditioning import prepare_diffbir
from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.diffbir_sampling import sample_diffbir
from pack.pipelines.finish import finish_restoration
from pack.pipelines.noise import PictureSeeds
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.pipelines.stage_one import remove_degradation
from pack.pipelines.tiles import TiledVAE, TileSettings, patch_tiles
from pack.samplers.tiles import sliding_windows
from pack.tests.support.diffbir import text, tiny_vae
from pack.tests.support.golden import assert_close
from pack.tests.support.restoration import descriptor, golden_swinir, realesrgan_weights

pytestmark = pytest.mark.comfy

INPUTS = Path(__file__).resolve().parents[2] / "workflows" / "inputs"
HEIGHT, WIDTH = 64, 100
TILE, OVERLAP = 192, 64  # output pixels
# Gradient across borders over that elsewhere, tiled against untiled.
ALLOWED = 1.15


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


def photo() -> Tensor:
    with Image.open(INPUTS / "restoration_coffee.jpg") as opened:
        pixels = np.asarray(opened.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels)[None, :HEIGHT, :WIDTH]


def ramp() -> Tensor:
    columns = torch.linspace(0.2, 0.8, WIDTH).view(1, 1, WIDTH, 1)
    return columns.expand(1, HEIGHT, WIDTH, 3).contiguous()


def noise() -> Tensor:
    return torch.rand(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1))


PICTURES = {"photo": photo, "ramp": ramp, "noise": noise}


def border_share(image: Tensor, borders: list[int]) -> float:
    """Return the mean gradient across columns where tiles end over that of all other columns."""
    gradient = (image[:, :, 1:] - image[:, :, :-1]).abs().mean(dim=(0, 1, 3))
    at_border = torch.zeros(len(gradient), dtype=torch.bool)
    at_border[[border - 1 for border in borders]] = True
    return (gradient[at_border].mean() / (gradient[~at_border].mean() + 1e-4)).item()


def borders_of(length: int, tile: int, stride: int) -> list[int]:
    """Return where tiles begin or end within an axis."""
    starts = sliding_windows(length, tile, stride)
    edges = set(starts) | {start + tile for start in starts}
    return sorted(edge for edge in edges if 0 < edge < length)


@pytest.mark.parametrize("name", PICTURES)
def test_resshift_in_tiles_shows_no_borders(name):
    model, vae = load_bundled_model(), bundled_vae()
    image = PICTURES[name]()
    whole = restore_with_resshift(model, vae, image, seed=1, tiles=TileSettings("off"))
    tiled = restore_with_resshift(
        model, vae, image, seed=1, tiles=TileSettings("per step", TILE, OVERLAP)
    )
    borders = borders_of(4 * WIDTH, TILE, TILE - OVERLAP)
    assert len(borders) >= 4
    assert not torch.equal(tiled, whole)
    assert border_share(tiled, borders) < ALLOWED * max(1.0, border_share(whole, borders))


def test_hard_cuts_would_be_seen():
    """The measure tells: pieces put side by side without blending exceed what is allowed."""
    model, vae = load_bundled_model(), bundled_vae()
    image = ramp()
    pieces = [
        restore_with_resshift(model, vae, image[:, :, left : left + 50], seed=left)
        for left in (0, 50)
    ]
    pieces[1] = pieces[1] + 0.02
    assert border_share(torch.cat(pieces, dim=2), [200]) > ALLOWED


@pytest.mark.parametrize("name", PICTURES)
def test_stage_one_in_tiles_shows_no_borders(name):
    network = descriptor(golden_swinir())
    image = PICTURES[name]().repeat_interleave(4, 1).repeat_interleave(4, 2)
    whole = remove_degradation(network, image, scale=1.0).image
    tiled = remove_degradation(network, image, scale=1.0, tile=128, tile_overlap=64).image
    stretch = whole.shape[2] / image.shape[2]
    borders = [round(edge * stretch) for edge in borders_of(image.shape[2], 128, 64)]
    assert border_share(tiled, borders) < ALLOWED * max(1.0, border_share(whole, borders))


@pytest.mark.parametrize("name", PICTURES)
def test_diffusion_of_diffbir_in_tiles_shows_no_borders(weights, name):
    """Of the latent, which no VAE and no limit to [0, 1] has gone over yet."""
    image = F.interpolate(PICTURES[name]().movedim(-1, 1), size=(192, 512)).movedim(1, -1)
    inputs = prepare_diffbir(text(1), text(2), weights.control_net, weights.vae, image)

    def sampled(model) -> Tensor:
        return sample_diffbir(
            model,
            inputs.positive,
            inputs.negative,
            inputs.latent,
            preset=DIFFBIR_PRESETS["v2"],
            seeds=PictureSeeds(3),
            steps=4,
            cfg=2.0,
        )["samples"].movedim(1, -1)

    whole, tiled = sampled(weights.model), sampled(patch_tiles(weights.model, 128, 64))
    assert not torch.equal(tiled, whole)
    borders = borders_of(64, 16, 8)
    assert len(borders) >= 6
    assert border_share(tiled, borders) < ALLOWED * max(1.0, border_share(whole, borders))


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("kind", ["VQ f4", "SD"])
def test_vaes_in_tiles_show_no_borders(request, kind, name):
    vae = request.getfixturevalue("sr")[1] if kind == "VQ f4" else tiny_vae()
    image = F.interpolate(PICTURES[name]().movedim(-1, 1), size=(192, 448)).movedim(1, -1)
    tiled_vae = TiledVAE(vae, TileSettings("per step", 192, 96))
    borders, ratio = borders_of(448, 192, 96), vae.spacial_compression_decode()
    assert len(borders) >= 4

    latent = vae.encode(image)
    tiled_latent = tiled_vae.encode(image)
    assert not torch.equal(tiled_latent, latent)
    in_latent = [border // ratio for border in borders]
    shares = [border_share(x.movedim(1, -1), in_latent) for x in (tiled_latent, latent)]
    assert shares[0] < ALLOWED * max(1.0, shares[1])

    tiled, whole = tiled_vae.decode(latent), vae.decode(latent)
    assert not torch.equal(tiled, whole)
    assert border_share(tiled, borders) < ALLOWED * max(1.0, border_share(whole, borders))


@pytest.mark.parametrize("tiling", ["per step", "official chop"])
def test_colours_are_fixed_once_after_stitching(folded, tiling):
    """The mean and spread that `adain` gives are those of the whole picture, not of its pieces."""
    image, tiles = photo(), TileSettings(tiling, TILE, OVERLAP)
    fixed = restore_with_resshift(*folded, image, seed=1, color_fix="adain", tiles=tiles)
    plain = restore_with_resshift(*folded, image, seed=1, tiles=tiles)
    expected = finish_restoration(plain, 0, 0, reference=image, color_fix="adain")
    assert not torch.equal(fixed, plain)
    assert_close(fixed, expected, 1e-5)


@pytest.mark.slow
def test_a_published_network_in_tiles_is_near_the_whole():
    network = descriptor(realesrgan_weights())
    whole = remove_degradation(network, photo(), rules="none").image
    tiled = remove_degradation(network, photo(), rules="none", tile=48, tile_overlap=24).image
    assert (tiled - whole).abs().mean() < 0.01
    borders = [4 * edge for edge in borders_of(WIDTH, 48, 24)]
    assert border_share(tiled, borders) < ALLOWED * max(1.0, border_share(whole, borders))
