"""Whole restorations on an emulated card: no mixed devices, no copies or looks at every step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import comfy.model_management
import pytest
import torch
from comfy_extras.nodes_model_merging import ModelMergeSimple
from safetensors.torch import load_file
from torch import Tensor

from pack.model_loaders.resshift import bundled_vae, load_resshift
from pack.pipelines import tiles
from pack.pipelines.diffbir_conditioning import prepare_diffbir
from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.diffbir_sampling import sample_diffbir
from pack.pipelines.finish import correct_color, finish_restoration
from pack.pipelines.flicker import measure_flicker
from pack.pipelines.latent_guidance import LatentGuidance, patch_latent_guidance
from pack.pipelines.noise import PictureSeeds
from pack.pipelines.pairs import prepare_pairs
from pack.pipelines.resshift_conditioning import prepare_resshift
from pack.pipelines.resshift_sampling import sample_resshift
from pack.pipelines.restore_diffbir import restore_with_diffbir
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.pipelines.tiles import patch_tiles
from pack.pipelines.training import TrainingSettings, train_model
from pack.tests.support import second_device
from pack.tests.support.diffbir import (
    projection_vae,
    text,
    tiny_control_net,
    tiny_model,
    tiny_vae,
    tiny_weights,
)
from pack.tests.support.golden import assert_close
from pack.tests.support.objects import folded_pair, inpaint_pair, tiny_pair
from pack.tests.support.second_device import (
    GIB,
    MODES,
    card,
    comfyui_on,
    counted,
    library,
    weights_in_fp8,
)
from pack.tests.support.tiny import FOLDED_RECORD, STARTED_UNET, picture, save_unet

SKIPPED = second_device.reason_to_skip()
pytestmark = [pytest.mark.comfy, pytest.mark.skipif(SKIPPED is not None, reason=str(SKIPPED))]
if SKIPPED is None:
    library()  # torch counts devices at the first gradient of a process, of whichever test


def resshift(folder) -> Tensor:
    return restore_with_resshift(*tiny_pair(folder), picture(10, 13), seed=1)


def bundled(folder) -> Tensor:
    return restore_with_resshift(*folded_pair(folder), picture(10, 13, 4), seed=1)


def inpainting(folder) -> Tensor:
    mask = torch.zeros(1, 40, 40)
    mask[:, 10:20, 10:20] = 1
    return restore_with_resshift(*inpaint_pair(folder), picture(40, 40), mask=mask, seed=1)


def tiled(folder) -> Tensor:
    model, vae = tiny_pair(folder)
    inputs = prepare_resshift(model, vae, picture(16, 24))
    latent = sample_resshift(
        patch_tiles(model, 32, 8), inputs.positive, inputs.latent, seeds=PictureSeeds(1)
    )
    return vae.decode(latent["samples"])


def diffbir(folder) -> Tensor:
    options = {"preset": DIFFBIR_PRESETS["v2"], "steps": 2, "cfg": 4.0, "rules": "none"}
    return restore_with_diffbir(tiny_weights(folder), picture(64, 80), seed=1, **options)


def guided(folder, space: str, **options: Any) -> Tensor:
    model, vae = tiny_model(), tiny_vae()
    image = picture(64, 64)
    inputs = prepare_diffbir(text(1), text(2), tiny_control_net(folder), vae, image)
    guidance = LatentGuidance(0.3, fidelity=0.1, space=space, **options)
    latent = sample_diffbir(
        patch_latent_guidance(model, image, guidance, vae=vae),
        inputs.positive,
        inputs.negative,
        inputs.latent,
        preset=DIFFBIR_PRESETS["v2"],
        seeds=PictureSeeds(0),
        steps=2,
    )
    return latent["samples"]


def merged(folder) -> Tensor:
    """Restore with three quarters of one model and a quarter of another, all keys of them."""
    folders = [folder / str(seed) for seed in (1, 2)]
    models = []
    for seed, own in enumerate(folders, start=1):
        own.mkdir()
        models.append(load_resshift(save_unet(own, STARTED_UNET, FOLDED_RECORD, seed=seed)))
    (model,) = ModelMergeSimple().merge(*models, ratio=0.75)
    return restore_with_resshift(model, bundled_vae(), picture(10, 13), seed=1)


RUNS: dict[str, Callable[..., Tensor]] = {
    "resshift": resshift,
    "bundled": bundled,
    "inpainting": inpainting,
    "tiled": tiled,
    "merged": merged,
    "diffbir": diffbir,
    "guided in latents": lambda folder: guided(folder, "latent"),
    "guided in pixels": lambda folder: guided(folder, "rgb", weighting="edges"),
}
# Rounding; a wrong gradient of the decoder moves these results by 3e-3.
NEAR = 1e-4
# Half types move a result; random weights are rough. Two unrelated results differ by 1.4.
NEAR_IN_HALF = 0.5


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory) -> Callable[[str, torch.dtype | None], Tensor]:
    """What a run gives on the CPU with the same weights, each made once."""

    @cache
    def run(name: str, fp8: torch.dtype | None) -> Tensor:
        with weights_in_fp8(fp8), torch.inference_mode():
            return RUNS[name](tmp_path_factory.mktemp("cpu"))

    return run


@pytest.mark.parametrize("mode_name", list(MODES))
@pytest.mark.parametrize("name", list(RUNS))
def test_a_restoration_on_a_card_is_that_of_the_cpu(tmp_path, mode_name, on_the_cpu, name):
    mode = MODES[mode_name]
    expected = on_the_cpu(name, mode.fp8)
    with comfyui_on(mode), torch.inference_mode():
        made = RUNS[name](tmp_path).float().cpu()
    distance = ((made - expected).std() / expected.std()).item()
    exact = mode.half is None and not mode.fp16_intermediates
    if name == "merged" and mode.fp8 and (mode.dynamic or mode.free < 16 * GIB):
        exact = False  # ComfyUI rounds a merge to fp8 only where it loads it whole
    assert distance < (NEAR if exact else NEAR_IN_HALF), distance


def test_a_step_of_tiles_copies_nothing_to_the_card_but_noise(tmp_path):
    with comfyui_on(MODES["normal"]), torch.inference_mode():
        model, vae = tiny_pair(tmp_path, sampling_steps=8, steps=8)
        inputs = prepare_resshift(model, vae, picture(16, 48))
        for ready in (model, patch_tiles(model, 64, 16)):
            copies = []
            for steps in (3, 3, 6):  # the first loads the networks
                with counted() as found:
                    sample_resshift(
                        ready, inputs.positive, inputs.latent, seeds=PictureSeeds(0), steps=steps
                    )
                copies.append(found["tensors to the device"])
            assert copies[2] - copies[1] == 3


@pytest.mark.parametrize("mode_name", ["normal", "--gpu-only"])
@pytest.mark.parametrize("other_first", [False, True])
def test_inputs_may_lie_on_two_devices(tmp_path, mode_name, other_first):
    """Pictures of other nodes are where they left them: on the card with --gpu-only, or not."""
    with comfyui_on(MODES[mode_name]) as card, torch.inference_mode():
        here, there = (card, torch.device("cpu")) if other_first else (torch.device("cpu"), card)
        image, other = picture(40, 40).to(here), picture(40, 40, seed=1).to(there)
        mask = torch.zeros(1, 40, 40, device=there)
        mask[:, 10:20, 10:20] = 1
        made = restore_with_resshift(*inpaint_pair(tmp_path), image, mask=mask, seed=1)
        assert made.shape == (1, 40, 40, 3)
        finished = finish_restoration(
            image, 40, 40, reference=other, color_fix="wavelet", original=other, mask=mask
        )
        corrected = correct_color(image, other, "adain")
        assert finished.shape == corrected.shape == (1, 40, 40, 3)
        model, vae = tiny_model(), projection_vae()
        guided_model = patch_latent_guidance(
            model, picture(64, 64).to(there), LatentGuidance(0.1, fidelity=0.5), vae=vae
        )
        control = tiny_control_net(tmp_path)
        inputs = prepare_diffbir(text(1), text(2), control, vae, picture(64, 64).to(here))
        latent = sample_diffbir(
            guided_model,
            inputs.positive,
            inputs.negative,
            {**inputs.latent, "noise_mask": torch.ones(1, 64, 64, device=there)},
            preset=DIFFBIR_PRESETS["v2"],
            seeds=PictureSeeds(0),
            steps=2,
        )
        assert torch.isfinite(latent["samples"].cpu()).all()


def test_a_control_on_another_device_gets_the_windows_part_too(tmp_path):
    """Where ComfyUI splits a step over devices, it takes the control's copy on each."""
    device = card()
    control, before = tiny_control_net(tmp_path), tiny_control_net(tmp_path)
    hint = torch.randn(1, 4, 8, 24)
    for each in (control, before):
        each.cond_hint = hint
        each.multigpu_clones[device] = each.copy()
    control.previous_controlnet = before
    window = tiles.Window(0, 8, 8, 16)
    cut = tiles._window_control(control, [window], 1).get_instance_for_device(device)
    for each in (cut, cut.previous_controlnet):
        assert each.cond_hint.device == device
        assert torch.equal(each.cond_hint.cpu(), hint[..., 8:])


@pytest.mark.parametrize("on_card", [False, True])
def test_flicker_is_measured_on_the_card_wherever_the_frames_lie(on_card):
    frames, before = picture(48, 64, batch=3), picture(24, 32, batch=3, seed=1)
    with torch.inference_mode():
        expected = measure_flicker(frames, before)
    with comfyui_on(MODES["normal"]) as card, torch.inference_mode():
        device = card if on_card else torch.device("cpu")
        measured = measure_flicker(frames.to(device), before)
    assert measured.warping_error == pytest.approx(expected.warping_error, rel=1e-3)
    assert measured.trusted == pytest.approx(expected.trusted, abs=1e-3)


def test_a_vae_that_was_moved_to_the_card_runs_and_counts_there(tmp_path, monkeypatch):
    """As ComfyUI's Select VAE Device moves it: a copy of the object, with another device in it."""
    from comfy_extras.nodes_multigpu import SelectVAEDeviceNode  # not in the lowest version

    with comfyui_on(MODES["--cpu-vae"]) as card, torch.inference_mode():
        _, vae = tiny_pair(tmp_path)
        image = picture(64, 64)
        latent = vae.encode(image)
        (moved,) = SelectVAEDeviceNode.execute(vae, "gpu:0").result
        (back,) = SelectVAEDeviceNode.execute(moved, "default").result
        assert [each.device.type for each in (vae, moved, back)] == ["cpu", card.type, "cpu"]
        assert_close(moved.encode(image).cpu(), latent, 1e-5)
        assert_close(moved.decode(latent).cpu(), vae.decode(latent).cpu(), 1e-5)
        # The scores of the attention count where no kernel is fused, which it always is on the CPU.
        monkeypatch.setattr(comfy.model_management, "pytorch_attention_enabled_vae", lambda: False)
        for used in ("memory_used_encode", "memory_used_decode"):
            here, there, again = (
                getattr(each, used)((1, 3, 512, 512), torch.float32) for each in (vae, moved, back)
            )
            assert here == again < there


@pytest.mark.parametrize("mode_name", ["normal", "dynamic memory", "fp8 e4m3fn"])
def test_a_model_that_was_moved_to_the_cpu_restores_there(tmp_path, mode_name, on_the_cpu):
    from comfy_extras.nodes_multigpu import SelectModelDeviceNode  # not in the lowest version

    mode = MODES[mode_name]
    with comfyui_on(mode), torch.inference_mode():
        model, vae = folded_pair(tmp_path)
        (moved,) = SelectModelDeviceNode.execute(model, "cpu").result
        assert moved.load_device.type == "cpu"
        made = restore_with_resshift(moved, vae, picture(10, 13, 4), seed=1)
    assert_close(made.cpu(), on_the_cpu("bundled", mode.fp8), 1e-4)


def trained_weights(folder) -> dict[str, Tensor]:
    model, vae = folded_pair(folder)
    pairs = prepare_pairs(model, vae, picture(32, 32, batch=2), picture(8, 8, batch=2, seed=1))
    settings = TrainingSettings(2, 1e-3, 0, "fp32", checkpoint_every=1)
    made, _, _ = train_model(model, *pairs, settings, checkpoint=folder / "own.safetensors")
    restore_with_resshift(made, vae, picture(8, 8), seed=1)
    return load_file(folder / "own.safetensors")


@pytest.mark.parametrize("mode_name", ["normal", "partly loaded", "dynamic memory", "fp8 e4m3fn"])
def test_a_model_is_trained_on_a_card_as_on_the_cpu(tmp_path, mode_name):
    """The weights learn where they lie, also where ComfyUI moves those of other models about."""
    folders = [tmp_path / name for name in ("cpu", "card")]
    for folder in folders:
        folder.mkdir()
    with weights_in_fp8(MODES[mode_name].fp8), torch.inference_mode():
        expected = trained_weights(folders[0])
    with comfyui_on(MODES[mode_name]), torch.inference_mode():
        made = trained_weights(folders[1])
    for key, weight in expected.items():
        if weight.dtype == torch.float32 and not key.startswith("resshift_training."):
            # Adam moves every weight by the rate, whatever rounding its gradient has.
            distance = (made[key] - weight).abs().mean()
            assert distance < 1e-4, key
