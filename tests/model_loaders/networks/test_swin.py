from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pack.model_loaders.networks.swin import SwinLayer, relative_position_index, shift_mask
from pack.tests.support.golden import assert_close, golden_case, golden_weights
from pack.tests.support.tiny import OPERATIONS, in_network, shapes_in_files

pytestmark = pytest.mark.comfy

DESCRIPTION, GOLDEN = golden_case("resshift/b0_swin_layer")


def build_layer(image_size: int, seed: int) -> SwinLayer:
    config = DESCRIPTION["config"]
    layer = SwinLayer(
        config["in_chans"],
        config["embed_dim"],
        config["num_heads"],
        config["window_size"],
        config["depth"],
        image_size,
        config["mlp_ratio"],
        config["patch_norm"],
        operations=OPERATIONS,
    )
    layer.load_state_dict(in_network(golden_weights(shapes_in_files(layer), seed)))
    return layer.requires_grad_(False)


@pytest.mark.parametrize(
    ("variant", "image_size", "seed"),
    [("native", 16, 11), ("nonnative", 16, 11), ("clamp", 4, 12)],
)
def test_a_swin_layer_is_the_references(variant, image_size, seed):
    layer = build_layer(image_size, seed)
    assert_close(layer(GOLDEN[f"{variant}.x"], {}), GOLDEN[f"{variant}.y"], 1e-5)


def test_a_swin_layer_keeps_the_layout_of_its_input():
    layer = build_layer(16, 11)
    for layout in (torch.contiguous_format, torch.channels_last):
        result = layer(GOLDEN["native.x"].contiguous(memory_format=layout), {})
        assert result.is_contiguous(memory_format=layout)
        assert_close(result, GOLDEN["native.y"], 1e-5)


def test_the_layer_has_the_references_keys_but_for_buffers():
    expected = [key for key, _ in DESCRIPTION["keys"] if "attn_mask" not in key]
    expected = [key for key in expected if "position_index" not in key]
    assert sorted(key for key, _ in shapes_in_files(build_layer(16, 11))) == sorted(expected)


def test_the_position_index_is_the_references():
    assert torch.equal(relative_position_index(8), GOLDEN["relative_position_index"])
    assert torch.equal(relative_position_index(4), GOLDEN["clamp.relative_position_index"])


@pytest.mark.parametrize(
    ("variant", "rows", "columns"),
    [("native.mask_blocked", 2, 2), ("attn_mask_buffer", 2, 2), ("nonnative.mask_blocked", 3, 5)],
)
def test_the_shift_mask_is_the_references_quirk(variant, rows, columns):
    expected = torch.zeros(rows, columns, 64, 64)
    expected[-1] = -100.0 * GOLDEN[variant].view(rows, columns, 64, 64)[-1]
    assert (GOLDEN[variant].view(rows, columns, 64, 64)[:-1] == 0).all()
    assert torch.equal(shift_mask(8, 4).expand(columns, 64, 64), expected[-1])


def test_blocks_shift_only_where_the_level_is_larger_than_the_window():
    assert [block.shift for block in build_layer(16, 11).blocks] == [0, 4]
    small = build_layer(4, 12)
    assert [(block.shift, block.window_size) for block in small.blocks] == [(0, 4), (0, 4)]


def test_only_the_last_window_row_is_masked():
    attention = build_layer(16, 11).blocks[1].attn
    windows = torch.randn(1, 3, 5, 64, 64, generator=torch.Generator().manual_seed(0))
    masked = attention(windows, {})
    attention.mask.zero_()
    unmasked = attention(windows, {})
    assert torch.equal(masked[:, :-1], unmasked[:, :-1])
    change = (masked - unmasked)[:, -1].abs().amax(dim=(0, 2, 3))
    assert (change > 0.01).all()


def test_patches_of_the_attention_reach_every_window():
    calls = []

    def record(attention, *args, **kwargs) -> Tensor:
        calls.append(tuple(args[0].shape))
        return attention(*args, **kwargs)

    layer = build_layer(16, 11)
    options = {"optimized_attention_override": record}
    assert_close(layer(GOLDEN["native.x"], options), GOLDEN["native.y"], 1e-5)
    assert calls == [(8, 64, 64), (4, 64, 64), (4, 64, 64)]
