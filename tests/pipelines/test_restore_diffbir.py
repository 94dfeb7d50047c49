"""What DiffBIR's one node does with prompts and tiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pack.pipelines import restore_diffbir
from pack.pipelines import tiles as pipeline_tiles
from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.restore_diffbir import encode_text, restore_with_diffbir
from pack.pipelines.tiles import Grid, TileSettings
from pack.samplers.tiles import gaussian_weights, merge_tiles
from pack.tests.support.diffbir import tiny_clip
from pack.tests.support.golden import assert_close
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def clip():
    with torch.inference_mode():
        return tiny_clip()


def stock_tokens(clip, text: str) -> list[list[tuple]]:
    (pieces,) = clip.tokenize(text).values()
    return pieces


def encoded_tokens(clip, text: str, *options: Any) -> list[list[tuple]]:
    """Return the tokens that a text is encoded from."""
    seen = []

    class Watched:
        tokenize = staticmethod(clip.tokenize)

        def encode_from_tokens_scheduled(self, tokens):
            seen.append(tokens)
            return clip.encode_from_tokens_scheduled(tokens)

    encode_text(Watched(), text, *options)
    ((pieces,),) = (tokens.values() for tokens in seen)
    return pieces


def words(pieces: list[list[tuple]]) -> list[int]:
    return [token for piece in pieces for token, _ in piece if token not in (49406, 49407, 0)]


def test_a_plain_prompt_is_encoded_as_comfyui_does(clip):
    text = "a photo of a cat, high resolution"
    assert encoded_tokens(clip, text) == stock_tokens(clip, text)
    assert torch.equal(
        encode_text(clip, text)[0][0],
        clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0],
    )


@pytest.mark.parametrize("text", ["a (red:1.5) house", "a ((very)) old house (1904)", "a \\ b (c"])
def test_brackets_and_backslashes_of_a_caption_are_text(clip, text):
    pieces = encoded_tokens(clip, text)
    assert {weight for piece in pieces for _, weight in piece} == {1.0}
    spelled = stock_tokens(clip, text.replace("(", r"\(").replace(")", r"\)"))
    assert pieces == spelled


def test_a_long_prompt_counts_whole_or_as_the_reference_cuts_it(clip):
    text = ", ".join(f"an old house number {k}" for k in range(40))
    whole = encoded_tokens(clip, text)
    assert len(whole) > 1
    (cut,) = encoded_tokens(clip, text, "77 tokens (official)")
    assert len(cut) == 77
    assert (cut[0], cut[-1]) == ((49406, 1.0), (49407, 1.0))
    assert words([cut]) == words(whole)[:75]
    assert encode_text(clip, text, "77 tokens (official)")[0][0].shape[1] == 77


@pytest.mark.parametrize("text", ["", "short!", "a photo of a cat"])
def test_a_short_prompt_is_the_same_either_way(clip, text):
    assert encoded_tokens(clip, text, "77 tokens (official)") == encoded_tokens(clip, text)


def test_official_tiles_of_the_vae_are_weighted_by_diffbirs_bell():
    grid = Grid((8, 12), 8, 4, "gaussian")
    tiles = [torch.full((1, 1, 8, 8), float(k)) for k in range(2)]
    expected = merge_tiles(tiles, [(0, 0), (0, 4)], 8, 12, gaussian_weights(8, 8))
    assert torch.equal(grid.merge(iter(tiles)), expected)
    assert not torch.equal(grid.merge(iter(tiles)), Grid((8, 12), 8, 4).merge(iter(tiles)))


@pytest.mark.parametrize(
    ("tiling", "size", "padded"),
    [
        ("per step", (72, 136), (128, 192)),
        ("official", (72, 136), (72, 136)),
        ("official", (60, 136), (64, 192)),  # cut along one side alone: whole along the other
    ],
)
def test_official_tiles_pad_to_8_pixels_where_both_sides_are_cut(
    weights, monkeypatch, tiling, size, padded
):
    latents, blends = [], []
    sample = restore_diffbir.sample_diffbir
    patch = pipeline_tiles.patch_tiles

    def noted(model, positive, negative, latent, **options):
        latents.append(latent["samples"].shape[-2:])
        return sample(model, positive, negative, latent, **options)

    def noted_patch(model, tile, overlap, blend, choice):
        blends.append(blend)
        return patch(model, tile, overlap, blend, choice)

    monkeypatch.setattr(restore_diffbir, "sample_diffbir", noted)
    monkeypatch.setattr(pipeline_tiles, "patch_tiles", noted_patch)
    restored = restore_with_diffbir(
        weights,
        picture(*(side // 4 for side in size)),
        preset=DIFFBIR_PRESETS["v2"],
        seed=1,
        steps=2,
        rules="none",
        tiles=TileSettings(tiling, 64, 32),
    )
    assert latents == [tuple(side // 8 for side in padded)]
    assert blends == ["gaussian" if tiling == "official" else "linear"]
    assert restored.shape[1:3] == size


def test_pictures_that_are_no_larger_than_a_tile_are_the_same_either_way(weights):
    made = [
        restore_with_diffbir(
            weights,
            picture(16, 16),
            preset=DIFFBIR_PRESETS["v2"],
            seed=1,
            steps=2,
            rules="none",
            tiles=TileSettings(tiling, 512, 256),
        )
        for tiling in ("per step", "official", "off")
    ]
    assert_close(made[1], made[0], 1e-6)
    assert_close(made[2], made[0], 1e-6)
