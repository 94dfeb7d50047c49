"""Training of all weights, its checkpoints, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import pytest
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_model_merging import save_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from pack.model_loaders.resshift import bundled_vae, load_resshift
from pack.pipelines.pairs import prepare_pairs
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.pipelines.training import TrainingSettings, pair_of_turn, rate_share, train_model
from pack.pipelines.validation import watch_training
from pack.tests.support.tiny import (
    DENSELY_STARTED_UNET,
    FOLDED_RECORD,
    FOLDED_UNET,
    STARTED_UNET,
    random_unet_weights,
    save_unet,
)

pytestmark = pytest.mark.comfy

SIDE = 8  # of a low-quality picture
SETTINGS = TrainingSettings(6, 1e-3, 0, "fp32")


def damaged(clean: Tensor) -> Tensor:
    """Return pictures at a quarter of their size, in blocks of 2x2 and with a colour cast."""
    planes = clean.movedim(-1, 1)
    blocks = F.avg_pool2d(planes, 8).repeat_interleave(2, -1).repeat_interleave(2, -2)
    return (blocks * torch.tensor([0.9, 0.6, 0.8])[:, None, None]).movedim(1, -1).contiguous()


def pictures(count: int, seed: int) -> Tensor:
    """Return pictures of soft shapes, which even blocks leave to be seen."""
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    planes = F.interpolate(coarse, size=4 * SIDE, mode="bicubic", align_corners=True)
    return planes.clamp(0, 1).movedim(1, -1).contiguous()


@pytest.fixture(scope="module")
def base_file(tmp_path_factory) -> Path:
    """A tiny model that gives back what it starts from, as a network does that was never trained."""
    weights = random_unet_weights(replace(FOLDED_UNET, cond_start=True))
    for key in ("out.2.weight", "out.2.bias"):
        weights[key] = torch.zeros_like(weights[key])
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    save_file(weights, path, metadata={"resshift_config": FOLDED_RECORD.to_json()})
    return path


@pytest.fixture(scope="module")
def base(base_file: Path) -> Any:
    with torch.inference_mode():
        return load_resshift(base_file, dtype="fp32")


def pairs_of(model: Any, count: int = 3) -> tuple[dict[str, Any], list]:
    clean = pictures(count, 0)
    return prepare_pairs(model, bundled_vae(), clean, damaged(clean))


def trained(model: Any, folder: Path, settings: TrainingSettings = SETTINGS, **options: Any) -> Any:
    """Train in inference mode, as ComfyUI runs a node."""
    with torch.inference_mode():
        pairs = pairs_of(model)
        return train_model(
            model, *pairs, settings, checkpoint=folder / "own.safetensors", **options
        )


def weights_of(model: Any) -> dict[str, Tensor]:
    """Return a MODEL's weights with its patches."""
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    return {key: value.cpu().clone() for key, value in model.model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Stopping:
    """Interrupts a training after some calls of the network.

    Args:
        model: The MODEL; a clone of it stops.
        calls: How many are let through.
    """

    def __init__(self, model: Any, calls: int):
        self.left = calls
        self.model = model.clone()
        self.model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", self.count)

    def count(self, executor: Any, *rest: Any, **given: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            comfy.model_management.interrupt_current_processing()
        return executor(*rest, **given)


def test_the_rate_rises_and_falls_and_never_is_0():
    shares = [rate_share(step, 100) for step in range(100)]
    assert shares[0] == pytest.approx(0.2)
    assert max(shares) == shares[4] > 0.99
    assert shares[4:] == sorted(shares[4:], reverse=True)
    assert 0.02 < shares[-1] < 0.03
    assert rate_share(0, 1) == 1


def test_every_pair_is_shown_once_before_any_comes_again():
    shown = [pair_of_turn(turn, 5, seed=3) for turn in range(10)]
    assert sorted(shown[:5]) == sorted(shown[5:]) == list(range(5))
    assert shown[:5] != shown[5:]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "steps"), [("fp32", 60), ("bf16", 60)])
def test_a_damage_that_the_base_does_not_know_is_learnt(base, tmp_path, dtype, steps):
    with torch.inference_mode():
        clean = pictures(6, 0)
        pairs = prepare_pairs(base, bundled_vae(), clean, damaged(clean))
        settings = TrainingSettings(steps, 5e-3, 0, dtype)
        made, loss, done = train_model(
            base, *pairs, settings, checkpoint=tmp_path / "own.safetensors"
        )
        held_back = pictures(2, 9)
        errors = []
        for model in (base, made):
            restored = restore_with_resshift(model, bundled_vae(), damaged(held_back), seed=0)
            errors.append((restored - held_back).abs().mean().item())
    third = steps // 3
    assert done == len(loss["loss"]) == steps
    assert sum(loss["loss"][-third:]) < 0.7 * sum(loss["loss"][:third])
    assert errors[1] < 0.6 * errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("has_units", [False, True])
def test_a_processor_without_units_for_bfloat16_trains_in_float32(
    base, tmp_path, monkeypatch, has_units
):
    units = {"avx512_bf16": has_units}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    exact, asked = (
        weights_of(trained(base, tmp_path, replace(SETTINGS, dtype=dtype))[0])
        for dtype in ("fp32", "bf16")
    )
    assert equal(exact, asked) is not has_units


def test_the_model_that_was_given_stays_as_it_was(base, tmp_path):
    before = weights_of(base)
    made, _, _ = trained(base, tmp_path)
    assert equal(weights_of(base), before)
    assert not equal(weights_of(made), before)
    assert comfy.model_management.in_training is False


def test_one_seed_makes_one_model_whatever_ran_before(base, tmp_path):
    first = trained(base, tmp_path)
    state = torch.get_rng_state()
    second = trained(base, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    third = trained(base, tmp_path, replace(SETTINGS, seed=1))
    assert equal(weights_of(first[0]), weights_of(second[0]))
    assert first[1] == second[1]
    assert not equal(weights_of(first[0]), weights_of(third[0]))


def test_a_saved_model_is_the_trained_one_bit_for_bit(base, tmp_path):
    made, _, _ = trained(base, tmp_path)
    with torch.inference_mode():
        save_checkpoint(made, filename_prefix="saved", output_dir=str(tmp_path))
        (path,) = tmp_path.glob("saved*.safetensors")
        loaded = load_resshift(path, dtype="fp32")
    assert loaded.model.record == FOLDED_RECORD
    assert equal(weights_of(loaded), weights_of(made))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_training_that_goes_on_is_the_one_that_never_stopped(base, tmp_path, accumulation):
    settings = replace(SETTINGS, pictures_per_step=accumulation, checkpoint_every=4)
    whole, loss, _ = trained(base, tmp_path, settings)
    stopping = Stopping(base, calls=5 * accumulation)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        trained(stopping.model, tmp_path / "stopped", settings)
    (checkpoint,) = (tmp_path / "stopped").iterdir()
    made, own_loss, done = trained(base, tmp_path / "goes on", settings, resume=checkpoint)
    assert len(load_file(checkpoint)["resshift_training.losses"]) in (4, 5)
    assert done == 6
    assert own_loss == loss
    assert equal(weights_of(made), weights_of(whole))


def test_a_checkpoint_names_its_tensors_as_released_files_do(base, base_file, tmp_path):
    trained(base, tmp_path, replace(SETTINGS, steps=1, checkpoint_every=1))
    written = load_file(tmp_path / "own.safetensors").keys()
    for name in load_file(base_file):
        assert f"model.diffusion_model.{name}" in written
        assert f"resshift_training.mean.diffusion_model.{name}" in written


def test_an_interrupt_keeps_what_was_reached(base, tmp_path):
    stopping = Stopping(base, calls=3)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        trained(stopping.model, tmp_path)
    assert comfy.model_management.in_training is False
    checkpoint = tmp_path / "own.safetensors"
    assert len(load_file(checkpoint)["resshift_training.losses"]) == 2
    with torch.inference_mode():
        reached = load_resshift(checkpoint, dtype="fp32")  # it is a model file as well
    assert reached.model.record == FOLDED_RECORD
    assert not equal(weights_of(reached), weights_of(base))


def test_an_interrupt_before_the_first_step_leaves_nothing(base, tmp_path):
    pairs = pairs_of(base)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train_model(base, *pairs, SETTINGS, checkpoint=tmp_path / "own.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [STARTED_UNET, DENSELY_STARTED_UNET], ids=["compact", "dense"])
def test_the_network_that_makes_the_start_is_not_trained(tmp_path, config):
    with torch.inference_mode():
        model = load_resshift(save_unet(tmp_path, config, FOLDED_RECORD), dtype="fp32")
    before = weights_of(model)
    made, _, _ = trained(model, tmp_path, replace(SETTINGS, steps=1, checkpoint_every=1))
    after = weights_of(made)
    same = {key for key in before if torch.equal(before[key], after[key])}
    of_start = {key for key in before if key.startswith("diffusion_model.start.")}
    assert of_start
    assert {key for key in same if key.startswith("diffusion_model.")} == of_start
    saved = load_file(tmp_path / "own.safetensors")
    assert all(torch.equal(saved[f"model.{key}"], before[key]) for key in of_start)


def test_patches_of_the_model_are_trained_on(base, tmp_path):
    patched = base.clone()
    key = "diffusion_model.out.2.bias"
    patched.add_patches({key: ("diff", (torch.full((48,), 0.25),))})
    settings = replace(SETTINGS, steps=1, learning_rate=1e-7)
    made, _, _ = trained(patched, tmp_path, settings)
    assert weights_of(made)[key].mean().item() == pytest.approx(0.25, abs=1e-5)


def test_a_trained_model_is_where_another_training_begins(base, tmp_path):
    first, _, _ = trained(base, tmp_path)
    barely = replace(SETTINGS, steps=1, learning_rate=1e-9)
    second, _, _ = trained(first, tmp_path, barely)
    before, after = weights_of(first), weights_of(second)
    for key, weight in before.items():
        torch.testing.assert_close(after[key], weight, rtol=0, atol=1e-8)


def test_a_validation_watches_this_training_too(base, tmp_path):
    with torch.inference_mode():
        clean = pictures(1, 9)
        watched, validation = watch_training(base, bundled_vae(), clean, damaged(clean), 3, 0)
        made, loss, _ = trained(watched, tmp_path)
        restored = restore_with_resshift(made, bundled_vae(), damaged(clean), seed=0)
        torch.testing.assert_close(validation.restored(6), restored, rtol=0, atol=1e-3)
    assert list(validation.latents) == [0, 3, 6]
    assert loss == trained(base, tmp_path)[1]


def test_a_validation_of_a_resumed_training_counts_from_its_checkpoint(base, tmp_path):
    trained(base, tmp_path, replace(SETTINGS, steps=4, checkpoint_every=4))
    (checkpoint,) = tmp_path.iterdir()
    with torch.inference_mode():
        clean = pictures(1, 9)
        watched, validation = watch_training(base, bundled_vae(), clean, damaged(clean), 3, 0)
        trained(watched, tmp_path / "on", replace(SETTINGS, steps=8), resume=checkpoint)
    assert list(validation.latents) == [4, 6, 8]


def test_a_training_that_fails_says_what_to_change(base, tmp_path):
    with pytest.raises(ValueError, match="Lower 'learning_rate', or set 'training_dtype'"):
        trained(base, tmp_path, replace(SETTINGS, steps=30, learning_rate=1e36))
    assert comfy.model_management.in_training is False


def test_pairs_that_do_not_fit_are_refused(base, tmp_path):
    with torch.inference_mode():
        latents, positive = pairs_of(base)
        path = tmp_path / "own.safetensors"
        for wrong, says in (
            ((latents, positive[:2]), "'latents' holds 3 pictures and 'positive' 2 entries"),
            ((latents, [[positive[0][0], {}]] * 3), "not one degraded picture in each"),
            (
                ({"samples": latents["samples"][..., :4]}, positive),
                "'latents' are 4x8 of 48 channels and those of 'positive' 8x8 of 48 channels",
            ),
        ):
            with pytest.raises(ValueError, match=says):
                train_model(base, *wrong, SETTINGS, checkpoint=path)


def test_checkpoints_that_do_not_fit_are_refused(base, base_file, tmp_path):
    trained(base, tmp_path, replace(SETTINGS, steps=2, checkpoint_every=2))
    (checkpoint,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match="the checkpoint has 2 steps and 'steps' is 2; set"):
        trained(base, tmp_path, replace(SETTINGS, steps=2), resume=checkpoint)
    with pytest.raises(ValueError, match=r"'base\.safetensors' is no checkpoint of a training"):
        trained(base, tmp_path, resume=base_file)
    with torch.inference_mode():
        other = load_resshift(save_unet(tmp_path, FOLDED_UNET, FOLDED_RECORD), dtype="fp32")
    with pytest.raises(ValueError, match="is of another model than the one connected"):
        trained(other, tmp_path, resume=checkpoint)


def test_a_checkpoint_that_cannot_be_written_is_explained(base, tmp_path):
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(ValueError, match=r"cannot be written .* Free space in ComfyUI's"):
        trained(base, tmp_path / "taken", replace(SETTINGS, steps=1, checkpoint_every=1))
