"""No seams where tiles meet: gradients across their borders are those of the untiled picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pack.model_loaders.resshift import bundled_vae, load_bundled_model
from pack.pipelines.restore import restore_with_resshift
from pack.pipelines.stage_one import remove_degradation
from pack.pipelines.tiles import TileSettings
from pack.samplers.tiles import sliding_windows
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


@pytest.mark.slow
def test_a_published_network_in_tiles_is_near_the_whole():
    network = descriptor(realesrgan_weights())
    whole = remove_degradation(network, photo(), rules="none").image
    tiled = remove_degradation(network, photo(), rules="none", tile=48, tile_overlap=24).image
    assert (tiled - whole).abs().mean() < 0.01
    borders = [4 * edge for edge in borders_of(WIDTH, 48, 24)]
    assert border_share(tiled, borders) < ALLOWED * max(1.0, border_share(whole, borders))
