"""Long batches: the same pictures however many share a call, one progress bar, a clean stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.utils
import pytest
import torch
from torch import Tensor, nn

from pack.model_loaders.resshift import bundled_vae, load_resshift
from pack.pipelines import restore_diffbir
from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.restore_diffbir import restore_with_diffbir
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.pipelines.tiles import TileSettings
from pack.tests.support.diffbir import tiny_vae
from pack.tests.support.golden import assert_close
from pack.tests.support.tiny import INPAINT_RECORD, INPAINT_UNET, picture, save_unet

pytestmark = pytest.mark.comfy

FRAMES = 9
# The noise is the same bit by bit; what differs is the rounding of calls on several pictures.
# Measured: at most 2.7e-5, 7 thousandths of an 8-bit step. A quarter of a step is allowed.
NEAR = 0.25 / 255


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


Restore = Callable[..., Tensor]


@pytest.fixture
def restore(request, weights) -> Restore:
    """Return one of the systems, with its tiny networks and the settings of a short run."""
    if request.param == "diffbir":
        return lambda image, **options: restore_with_diffbir(
            weights,
            image,
            **{"preset": DIFFBIR_PRESETS["v2"], "steps": 2, "rules": "none", "seed": 7} | options,
        )
    model, vae = request.getfixturevalue(request.param)
    return lambda image, **options: restore_with_resshift(
        model, vae, image, **{"seed": 7} | options
    )


def network_of(restore: Restore, weights: Any, request: Any, name: str) -> nn.Module:
    model = weights.model if name == "diffbir" else request.getfixturevalue(name)[0]
    return model.model.diffusion_model


EVERY_SYSTEM = pytest.mark.parametrize("restore", ["sr", "folded", "diffbir"], indirect=True)


@pytest.mark.parametrize("restore", ["folded", "diffbir"], indirect=True)
@pytest.mark.parametrize("batch_noise", ["different per image", "same for all"])
def test_every_sub_batch_gives_the_same_pictures(restore, batch_noise):
    images = picture(16, 16, channels=4, batch=FRAMES)
    one_by_one = restore(images, batch_noise=batch_noise)
    assert one_by_one.shape == (FRAMES, 64, 64, 4)
    assert (one_by_one[0] - one_by_one[1]).abs().max() > 0.01
    for frames_at_once in (3, 8):
        together = restore(images, batch_noise=batch_noise, frames_at_once=frames_at_once)
        assert_close(together, one_by_one, NEAR)


@pytest.mark.parametrize("batch_noise", ["different per image", "same for all"])
def test_every_sub_batch_gives_the_same_latents_and_codes(sr, monkeypatch, batch_noise):
    """A latent right between two codes may fall to either, so the pictures are not compared."""
    model, vae = sr
    images = picture(16, 16, batch=FRAMES)
    sampled: list[Tensor] = []
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda latent: sampled.append(latent) or decode(latent))

    def latents(frames_at_once: int) -> Tensor:
        sampled.clear()
        restore_with_resshift(
            model, vae, images, seed=7, batch_noise=batch_noise, frames_at_once=frames_at_once
        )
        return torch.cat(sampled)

    one_by_one = latents(1)
    codes = vae.first_stage_model.quantize.nearest(one_by_one)
    for frames_at_once in (3, 8):
        together = latents(frames_at_once)
        assert_close(together, one_by_one, 1e-4)
        same = vae.first_stage_model.quantize.nearest(together) == codes
        assert same.float().mean() > 0.995


@pytest.mark.parametrize("restore", ["folded", "diffbir"], indirect=True)
def test_the_same_noise_for_all_makes_equal_frames_equal_in_every_sub_batch(restore):
    still = picture(16, 16).expand(4, -1, -1, -1)
    for frames_at_once in (1, 3):
        same = restore(still, batch_noise="same for all", frames_at_once=frames_at_once)
        different = restore(still, frames_at_once=frames_at_once)
        assert_close(same, same[:1].expand(4, -1, -1, -1), NEAR)
        assert (different[3] - different[0]).abs().max() > 0.01


def test_holes_of_every_sub_batch_are_filled_alike(tmp_path):
    # Folded pixels, for no code is chosen there by the last bit of a latent.
    record = replace(INPAINT_RECORD, autoencoder="bundled")
    path = save_unet(tmp_path, replace(INPAINT_UNET, latent_channels=48), record)
    inpaint = load_resshift(path), bundled_vae()
    images, masks = picture(32, 32, batch=5), torch.zeros(5, 32, 32)
    for k in range(5):
        masks[k, 3 * k : 3 * k + 8, 8:24] = 1
    one_by_one = restore_with_resshift(*inpaint, images, masks, seed=3)
    for frames_at_once in (3, 8):
        together = restore_with_resshift(
            *inpaint, images, masks, seed=3, frames_at_once=frames_at_once
        )
        assert_close(together, one_by_one, NEAR)
        assert torch.equal(together[masks == 0], images[masks == 0])


@pytest.mark.parametrize("tiling", ["per step", "official chop"])
def test_sub_batches_are_cut_into_tiles_alike(folded, tiling):
    images = picture(24, 38, batch=4)
    tiles = TileSettings(tiling, 64, 16)
    one_by_one = restore_with_resshift(*folded, images, seed=3, tiles=tiles)
    together = restore_with_resshift(*folded, images, seed=3, tiles=tiles, frames_at_once=3)
    assert_close(together, one_by_one, NEAR)


def test_added_noise_of_the_condition_is_each_frames_own(weights):
    images = picture(16, 16).expand(4, -1, -1, -1)
    options: dict[str, Any] = {
        "preset": DIFFBIR_PRESETS["v2"], "steps": 2, "rules": "none", "noise_aug": 300
    }  # fmt: skip
    one_by_one = restore_with_diffbir(weights, images, seed=3, **options)
    together = restore_with_diffbir(weights, images, seed=3, frames_at_once=3, **options)
    assert_close(together, one_by_one, NEAR)
    alone = restore_with_diffbir(weights, images[:1], seed=6, **options)
    assert torch.equal(one_by_one[3:], alone)


@EVERY_SYSTEM
def test_less_than_one_frame_at_once_is_refused(restore):
    with pytest.raises(ValueError, match="'frames_at_once' is 0; it must be 1 or more"):
        restore(picture(8, 8), frames_at_once=0)


@contextmanager
def before_call(network: nn.Module, act: Callable[[int], None]) -> Iterator[None]:
    """Do something before every call of a network, given the number of calls so far."""
    calls = iter(range(1 << 30))
    hook = network.register_forward_pre_hook(lambda *_: act(next(calls)))
    try:
        yield
    finally:
        hook.remove()


def test_networks_of_diffbir_take_turns_once_for_all_frames_that_are_held(weights, monkeypatch):
    # Stage 1's results of 64 x 64 pixels count as the least of 512 x 512.
    monkeypatch.setattr(restore_diffbir, "HELD_BYTES", 2 * 512 * 512 * 3 * 4)
    turns: list[str] = []

    def turn(name: str) -> Callable[[int], None]:
        return lambda _: None if turns[-1:] == [name] else turns.append(name)

    one, two = weights.upscale_model.model, weights.model.model.diffusion_model
    with before_call(one, turn("stage 1")), before_call(two, turn("stage 2")):
        restore_with_diffbir(
            weights, picture(16, 16, batch=5), preset=DIFFBIR_PRESETS["v2"], seed=1, steps=2,
            rules="none",
        )  # fmt: skip
    assert turns == ["stage 1", "stage 2"] * 3


def test_frames_that_are_held_in_groups_are_the_same_pictures(weights, monkeypatch):
    images = picture(16, 16, batch=5)
    options: dict[str, Any] = {"preset": DIFFBIR_PRESETS["v2"], "steps": 2, "rules": "none"}
    together = restore_with_diffbir(weights, images, seed=1, **options)
    monkeypatch.setattr(restore_diffbir, "HELD_BYTES", 2 * 512 * 512 * 3 * 4)
    assert torch.equal(restore_with_diffbir(weights, images, seed=1, **options), together)


@pytest.mark.parametrize(
    ("restore", "name"), [("sr", "sr"), ("diffbir", "diffbir")], indirect=["restore"]
)
@pytest.mark.parametrize("frames_at_once", [1, 2])
def test_an_interrupt_within_a_frame_stops_and_the_next_run_is_clean(
    restore, name, weights, request, frames_at_once
):
    network = network_of(restore, weights, request, name)
    images = picture(16, 16, batch=3)
    expected = restore(images, frames_at_once=frames_at_once)
    calls = []
    with before_call(network, calls.append):
        restore(images[:frames_at_once], frames_at_once=frames_at_once)
    in_second = len(calls) + 1  # a call within the second frame or pair of frames
    calls.clear()

    def interrupt(number: int) -> None:
        calls.append(number)
        if number == in_second:
            comfy.model_management.interrupt_current_processing()

    with (
        before_call(network, interrupt),
        pytest.raises(comfy.model_management.InterruptProcessingException),
    ):
        restore(images, frames_at_once=frames_at_once)
    assert len(calls) == in_second + 1
    assert torch.equal(restore(images, frames_at_once=frames_at_once), expected)


def test_an_interrupt_between_frames_stops_before_the_next(sr):
    model, vae = sr
    calls = []

    def interrupt(*_: Any) -> None:
        comfy.model_management.interrupt_current_processing()

    # The last layer of the decoder, whose own check is over.
    hook = vae.first_stage_model.decoder.conv_out.register_forward_hook(interrupt)
    try:
        with (
            before_call(model.model.diffusion_model, calls.append),
            pytest.raises(comfy.model_management.InterruptProcessingException),
        ):
            restore_with_resshift(model, vae, picture(8, 8, batch=3), seed=1)
    finally:
        hook.remove()
    assert len(calls) == 4  # the steps of the first frame


@EVERY_SYSTEM
@pytest.mark.parametrize("frames_at_once", [1, 2])
def test_one_progress_bar_runs_over_frames_and_steps(restore, frames_at_once):
    seen: list[tuple[int, int]] = []
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, *_, **__: seen.append((value, total))
    )
    try:
        restore(
            picture(32, 32, batch=3),
            frames_at_once=frames_at_once,
            tiles=TileSettings("per step", 64, 16),
        )
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    # ComfyUI passes on the first and the last, and of the others what comes slowly enough.
    assert len({total for _, total in seen}) == 1
    assert seen == sorted(set(seen))
    assert seen[-1][0] == seen[-1][1]


def test_a_tiled_vae_shows_no_bar_of_its_own(weights):
    seen = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: seen.append(total))
    try:
        restore_with_diffbir(
            replace(weights, vae=tiny_vae()),
            picture(32, 32),
            preset=DIFFBIR_PRESETS["v2"],
            steps=2,
            rules="none",
            seed=1,
            tiles=TileSettings("per step", 64, 16),
        )
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert set(seen) == {3}


@EVERY_SYSTEM
def test_a_black_and_white_frame_stays_so_and_its_neighbour_keeps_its_colours(restore):
    frames = picture(16, 16, batch=2)
    frames[0] = frames[0, ..., 1:2]
    restored = restore(frames)
    spread = (restored.amax(-1) - restored.amin(-1)).flatten(1).amax(1)
    assert spread[0] == 0
    assert spread[1] > 0.01


@EVERY_SYSTEM
def test_what_alpha_hides_does_not_come_through(restore):
    frame = picture(16, 16, channels=4)
    frame[..., 3] = (torch.arange(16) > 5).float()
    dark = frame.clone()
    dark[..., :6, :3] = 0
    bright = frame.clone()
    bright[..., :6, :3] = 1
    assert torch.equal(restore(dark), restore(bright))
