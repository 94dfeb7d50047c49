"""Memory that does not grow with the number of pictures, or with the square of their size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import comfy.ops
import pytest
import torch
from torch import Tensor

from pack.model_loaders.networks.vq import VQAutoencoder, VQConfig
from pack.pipelines import restore_diffbir
from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.finish import correct_color, finish_restoration
from pack.pipelines.restore_diffbir import restore_with_diffbir
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.pipelines.stage_one import remove_degradation
from pack.tests.support.alone import call_alone, grown
from pack.tests.support.diffbir import tiny_weights
from pack.tests.support.objects import folded_pair
from pack.tests.support.restoration import descriptor, tiny_esrgan
from pack.tests.support.tiny import picture, random_vq_weights

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.skipif(
        not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a call"
    ),
]

MIB = 1 << 20
FEW, MANY = 2, 18


def working_memory(restore: Callable[[Tensor], Tensor], image: Tensor) -> int:
    """Return the bytes that a restoration held at its peak besides its input and its result."""
    made = torch.empty(0)

    def call() -> None:
        nonlocal made
        made = restore(image)

    peak = grown(call)
    return peak - made.nbytes


def working_memories(
    restore: Callable[[Tensor], Tensor], side: int, channels: int = 3
) -> list[int]:
    """Return the working memory of few and of many pictures, after a first call that warms up."""
    restore(picture(side, side, channels))
    return [working_memory(restore, picture(side, side, channels, n)) for n in (FEW, MANY)]


def assert_bounded(memories: list[int], picture_bytes: int) -> None:
    """Fail where even half of the further pictures were held; allocators keep a few."""
    few, many = memories
    assert many - few < (MANY - FEW) // 2 * picture_bytes, (
        f"{few / MIB:.1f} and {many / MIB:.1f} MiB"
    )


def finishing() -> list[list[int]]:
    reference = picture(256, 256)
    finish = working_memories(
        lambda image: finish_restoration(
            image, 500, 500, reference=reference, color_fix="wavelet", output_width=512
        ),
        512,
    )
    color = working_memories(lambda image: correct_color(image, image, "adain"), 512)
    return [finish, color]


def test_long_batches_are_finished_in_the_memory_of_a_picture():
    for memories in call_alone(finishing):
        assert_bounded(memories, 512 * 512 * 3 * 4)


def stage_one() -> list[int]:
    network = descriptor(tiny_esrgan())
    return working_memories(lambda image: remove_degradation(network, image).image, 128)


def test_long_batches_go_through_stage_one_in_the_memory_of_a_picture():
    assert_bounded(call_alone(stage_one), 512 * 512 * 3 * 4)


def whole_resshift(folder: str) -> list[int]:
    model, vae = folded_pair(Path(folder))
    return working_memories(
        lambda image: restore_with_resshift(
            model, vae, image, seed=1, steps=1, color_fix="wavelet", frames_at_once=2
        ),
        64,
        channels=4,
    )


def test_resshift_restores_long_batches_in_the_memory_of_a_sub_batch(tmp_path):
    assert_bounded(call_alone(whole_resshift, folder=str(tmp_path)), 256 * 256 * 4 * 4)


def whole_diffbir(folder: str) -> list[int]:
    # The results of stage 1 are larger than the finished pictures, 16 times.
    restore_diffbir.HELD_BYTES = 2 * 512 * 512 * 3 * 4
    weights = tiny_weights(Path(folder))
    return working_memories(
        lambda image: restore_with_diffbir(
            weights,
            image,
            preset=DIFFBIR_PRESETS["v2"],
            seed=1,
            scale=1.0,
            steps=2,
            cfg=1.0,
            rules="none",
        ),
        64,
    )


def test_diffbir_restores_long_batches_in_the_memory_of_what_is_held(tmp_path):
    assert_bounded(call_alone(whole_diffbir, folder=str(tmp_path)), 256 * 256 * 3 * 4)


def vq_decoding(ratio: int, side: int) -> int:
    levels = ratio.bit_length()
    config = VQConfig(4, 8192, 4, 32, (1,) * levels, (1,) * levels)
    network = VQAutoencoder(config, operations=comfy.ops.disable_weight_init).eval()
    network.load_state_dict(random_vq_weights(config))
    latent = torch.randn(1, 4, side // ratio, side // ratio)
    return grown(lambda: network.decode(latent))


def test_a_vq_decodes_2048_pixels_in_bounded_memory():
    """The f8 layout at the least width: 65,536 positions attend to each other and seek a code."""
    maps = call_alone(vq_decoding, ratio=8, side=2048) / (32 * 2048 * 2048 * 4)
    # Maps of the first level; measured 3.0. All scores at once would be 32 more, all distances 4.
    assert maps < 4.5


def stage_one_of_4096(tile: int) -> int:
    network = descriptor(tiny_esrgan())
    image = torch.rand(1, 1024, 1024, 3)
    return grown(lambda: remove_degradation(network, image, tile=tile, tile_overlap=tile // 4))


def test_stage_one_makes_4096_pixels_in_bounded_memory():
    pictures = call_alone(stage_one_of_4096, tile=256) / (3 * 4096 * 4096 * 4)
    # Copies of the result; measured 2.3, and 10.8 for the whole picture at once.
    assert pictures < 4
