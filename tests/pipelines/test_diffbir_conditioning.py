from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import comfy.controlnet
import comfy.model_management
import comfy.sample
import pytest
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from torch import Tensor

import nodes
from pack.model_loaders.resshift import bundled_vae
from pack.pipelines.diffbir_conditioning import CONDITION_KEY, DiffBIRInputs, prepare_diffbir
from pack.pipelines.noise import PictureSeeds, draw_noise
from pack.pipelines.tiles import patch_tiles
from pack.samplers.discrete import alphas_cumprod
from pack.tests.support.diffbir import (
    LATENT_SCALE,
    RUNS_CASE,
    golden_texts,
    projection_vae,
    sample_recorded,
    text,
    tiny_control_net,
    tiny_model,
    tiny_vae,
)
from pack.tests.support.golden import assert_close, golden_case
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy


# Sums of another batch or in another order round differently, and CFG enlarges that.
ROUNDING = 5e-4


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model():
    with torch.inference_mode():
        return tiny_model()


@pytest.fixture(scope="module")
def control_net(tmp_path_factory):
    with torch.inference_mode():
        return tiny_control_net(tmp_path_factory.mktemp("control"))


@pytest.fixture(scope="module")
def vae():
    with torch.inference_mode():
        return projection_vae()


@pytest.fixture(scope="module")
def prepare(control_net, vae):
    """Prepare an image with two prompts; what is given replaces what is usual."""

    def prepared(image: Tensor, **changes) -> DiffBIRInputs:
        values = {
            "positive": text(1),
            "negative": text(2),
            "control_net": control_net,
            "vae": vae,
            "image": image,
            **changes,
        }
        return prepare_diffbir(**values)

    return prepared


def apply_stock(positive, negative, control_net, image, strength, vae, start=0.0, end=1.0):
    """Return what ComfyUI's Apply ControlNet makes."""
    node = nodes.ControlNetApplyAdvanced()
    return node.apply_controlnet(
        positive, negative, control_net, image, strength, start, end, vae=vae
    )


def hint_of(conditioning: list) -> Tensor:
    return conditioning[0][1]["control"].cond_hint_original


def sample(model, positive, negative, samples, *, steps=2, seed=3, noise=None) -> Tensor:
    """Return the latent of a short run with CFG, in the network's scale; it reaches 50."""
    if noise is None:
        noise = comfy.sample.prepare_noise(samples, seed)
    sampled = comfy.sample.sample(
        model,
        noise,
        steps,
        4.0,
        "euler",
        "normal",
        positive,
        negative,
        samples,
        disable_pbar=True,
        seed=seed,
    )
    return sampled * LATENT_SCALE


def run(model, inputs: DiffBIRInputs, **options) -> Tensor:
    return sample(model, inputs.positive, inputs.negative, inputs.latent["samples"], **options)


@pytest.mark.parametrize("way", ["DiffBIR Conditioning", "Apply ControlNet"])
def test_a_run_on_comfyuis_objects_is_the_references(model, control_net, vae, way):
    description, golden = golden_case(RUNS_CASE)
    strength = description["strength"]
    positive, negative = golden_texts()
    if way == "Apply ControlNet":
        positive, negative = apply_stock(
            positive, negative, control_net, golden["image"], strength, vae
        )
    else:
        inputs = prepare_diffbir(
            positive, negative, control_net, vae, golden["image"], strength=strength
        )
        positive, negative = inputs.positive, inputs.negative
        assert_close(hint_of(positive), golden["cond_latent"], 1e-6)
        assert inputs.latent["samples"].shape == golden["x_T"].shape
    made = sample_recorded(model, positive, negative, "eps")
    error = description["runs"]["eps"]["measured_error_through_stock_nodes"]
    assert_close(made, golden["eps_result"], error)


def test_the_image_is_padded_with_black_and_encoded_and_goes_along(prepare, vae):
    image = picture(70, 100) * 3 - 1
    inputs = prepare(image)
    padded = F.pad(image.movedim(-1, 1), (0, 28, 0, 58))
    condition = vae.first_stage_model.encode(padded * 2 - 1)
    assert (inputs.width, inputs.height) == (100, 70)
    assert inputs.latent["downscale_ratio_spacial"] == 8
    assert torch.equal(inputs.latent["samples"], torch.zeros(1, 4, 16, 16))
    for conditioning in (inputs.positive, inputs.negative):
        assert_close(conditioning[0][1][CONDITION_KEY], condition, 1e-6)
        assert_close(hint_of(conditioning), condition * LATENT_SCALE, 1e-6)


@pytest.mark.parametrize("size", [(1, 1), (64, 128), (65, 3)])
def test_pictures_of_any_size_are_taken_and_no_hint_is_rescaled(model, prepare, size):
    inputs = prepare(picture(*size))
    height, width = (-(-side // 64) * 8 for side in size)
    assert hint_of(inputs.positive).shape == (1, 4, height, width)
    assert inputs.latent["samples"].shape == (1, 4, height, width)
    assert torch.isfinite(run(model, inputs, steps=1)).all()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_grey_is_repeated_and_alpha_left_out(prepare, channels):
    image = picture(64, 64, channels).clamp(min=0.01)  # nothing is hidden
    color = image[..., :1].expand(-1, -1, -1, 3) if channels < 3 else image[..., :3]
    expected = hint_of(prepare(color).positive)
    assert torch.equal(hint_of(prepare(image).positive), expected)


def test_what_comes_in_stays_as_it_is(prepare, control_net):
    positive, negative = text(1), text(2)
    before = dict(positive[0][1])
    prepare(picture(64, 64), positive=positive, negative=negative, strength=0.5)
    assert positive[0][1] == before
    assert len(positive) == len(negative) == 1
    assert control_net.cond_hint_original is None
    assert control_net.strength == 1.0
    assert control_net.latent_format is not None


def test_a_start_from_the_condition_is_the_latent_without_added_noise(prepare):
    image = picture(64, 64)
    clean = prepare(image)
    noisy = prepare(image, start="condition", noise_aug=150)
    condition = clean.positive[0][1][CONDITION_KEY]
    assert torch.equal(noisy.latent["samples"], condition)
    assert torch.equal(noisy.negative[0][1][CONDITION_KEY], condition)
    assert (hint_of(noisy.positive) - hint_of(clean.positive)).abs().max() > 0.1


@pytest.mark.parametrize("zero_snr", [False, True])
def test_added_noise_is_that_of_the_timestep(prepare, zero_snr):
    images = picture(64, 128, batch=2)
    clean = hint_of(prepare(images).positive)
    kept = alphas_cumprod(zero_snr=zero_snr)[120].item()
    one, other = (
        (hint_of(inputs.positive) - kept**0.5 * clean) / (1 - kept) ** 0.5
        for inputs in (
            prepare(images, noise_aug=120, zero_snr=zero_snr, seeds=PictureSeeds(9)),
            prepare(images[1:], noise_aug=120, zero_snr=zero_snr, seeds=PictureSeeds(10)),
        )
    )
    assert abs(one.mean()) < 0.1
    assert abs(one.std() - 1) < 0.1
    assert_close(one[1], other[0] + kept**0.5 * (clean[0] - clean[1]) / (1 - kept) ** 0.5, 1e-4)


def test_both_prompts_see_the_same_added_noise(prepare):
    inputs = prepare(picture(64, 64), noise_aug=50)
    assert inputs.positive[0][1]["control"] is inputs.negative[0][1]["control"]


def test_added_noise_is_none_that_a_sampler_of_that_seed_draws(prepare):
    image = picture(64, 64)
    clean, noisy = (
        hint_of(prepare(image, noise_aug=k, seeds=PictureSeeds(5)).positive) for k in (0, 999)
    )
    kept = alphas_cumprod()[999].item()
    added = (noisy - kept**0.5 * clean) / (1 - kept) ** 0.5
    generators = PictureSeeds(5, "same for all", [0]).generators(1)
    for _ in range(4):
        drawn = draw_noise(generators, clean)
        assert (added - drawn).abs().max() > 1
    stock = comfy.sample.prepare_noise(clean, 5)
    assert (added - stock).abs().max() > 1


def test_added_noise_may_be_the_same_for_all_pictures(prepare):
    images = picture(64, 64).expand(2, -1, -1, -1)
    same, different = (
        hint_of(prepare(images, noise_aug=200, seeds=PictureSeeds(0, choice)).positive)
        for choice in ("same for all", "different per image")
    )
    assert torch.equal(same[0], same[1])
    assert (different[0] - different[1]).abs().max() > 0.1
    assert torch.equal(same[0], different[0])


def test_nothing_is_encoded_while_sampling(model, control_net, monkeypatch):
    vae = tiny_vae()
    inputs = prepare_diffbir(text(1), text(2), control_net, vae, picture(64, 64))

    def encode(*_):
        raise AssertionError("encoded")

    monkeypatch.setattr(vae.first_stage_model, "encode", encode)
    assert torch.isfinite(run(model, inputs)).all()


def test_it_does_what_apply_controlnet_does(model, control_net):
    vae = tiny_vae()
    image = picture(64, 128)
    inputs = prepare_diffbir(text(1), text(2), control_net, vae, image, strength=0.7)
    positive, negative = apply_stock(text(1), text(2), control_net, image, 0.7, vae)
    stock = sample(model, positive, negative, inputs.latent["samples"])
    assert_close(run(model, inputs), stock, ROUNDING)


def controls_of_steps(model) -> tuple[object, list[float]]:
    """Return a clone of a MODEL and a list of how strong a control its network was given."""
    seen = []

    def note(executor, x, timesteps, context=None, y=None, control=None, *args, **kwargs):
        tensors = [] if control is None else control["output"] + control["middle"]
        seen.append(sum(tensor.abs().mean().item() for tensor in tensors))
        return executor(x, timesteps, context, y, control, *args, **kwargs)

    watched = model.clone()
    watched.add_wrapper(WrappersMP.DIFFUSION_MODEL, note)
    return watched, seen


@pytest.mark.parametrize(
    ("percents", "controlled"),
    [((0.0, 1.0), [1, 1, 1, 1]), ((0.0, 0.4), [1, 1, 0, 0]), ((0.4, 1.0), [0, 0, 1, 1])],
)
def test_the_control_acts_in_its_part_of_the_run(model, prepare, percents, controlled):
    watched, seen = controls_of_steps(model)
    start, end = percents
    inputs = prepare(picture(64, 64), start_percent=start, end_percent=end)
    run(watched, inputs, steps=4)
    assert [int(strength > 0) for strength in seen] == controlled


def test_strength_scales_the_control_and_zero_leaves_it_out(model, prepare):
    strengths = {}
    for strength in (0.0, 0.5, 1.0):
        watched, seen = controls_of_steps(model)
        inputs = prepare(picture(64, 64), strength=strength)
        sampled = run(watched, inputs, steps=1)
        strengths[strength] = seen[0]
    assert strengths[0.0] == 0
    assert strengths[1.0] == pytest.approx(2 * strengths[0.5], rel=1e-4)

    plain = sample(model, text(1), text(2), torch.zeros(1, 4, 8, 8), steps=1)
    without = run(model, prepare(picture(64, 64), strength=0.0), steps=1)
    assert torch.equal(without, plain)
    assert (sampled - plain).abs().max() > 0.1


@pytest.mark.parametrize("order", ["ours first", "ours last", "ours twice"])
def test_controls_in_a_chain_add_up(model, control_net, vae, prepare, order):
    image = picture(64, 64)
    expected = run(model, prepare(image, strength=0.9))
    positive, negative = text(1), text(2)
    if order == "ours first":
        first = prepare(image, strength=0.5)
        positive, negative = apply_stock(
            first.positive, first.negative, control_net, image, 0.4, vae
        )
    else:
        if order == "ours last":
            positive, negative = apply_stock(positive, negative, control_net, image, 0.4, vae)
        else:
            first = prepare(image, strength=0.4)
            positive, negative = first.positive, first.negative
        last = prepare(image, positive=positive, negative=negative, strength=0.5)
        positive, negative = last.positive, last.negative
        assert positive[0][1]["control"].previous_controlnet.strength == 0.4
    chained = sample(model, positive, negative, torch.zeros(1, 4, 8, 8))
    assert_close(chained, expected, ROUNDING)


def test_prompts_with_and_without_an_earlier_control_keep_theirs(prepare, control_net, vae):
    image = picture(64, 64)
    earlier, _ = apply_stock(text(5), [], control_net, image, 0.3, vae)
    inputs = prepare(image, positive=earlier + text(1) + text(6))
    controls = [values["control"] for _, values in inputs.positive]
    assert controls[0].previous_controlnet is earlier[0][1]["control"]
    assert controls[1] is controls[2] is inputs.negative[0][1]["control"]
    assert controls[1].previous_controlnet is None


def test_every_picture_of_a_batch_is_that_picture_alone(model, prepare):
    images = picture(64, 64, batch=2)
    noise = comfy.sample.prepare_noise(torch.zeros(2, 4, 8, 8), 1)
    both = run(model, prepare(images), noise=noise)
    assert (both[0] - both[1]).abs().max() > 0.1
    for k in range(2):
        alone = run(model, prepare(images[k : k + 1]), noise=noise[k : k + 1])
        assert_close(both[k : k + 1], alone, ROUNDING)


@pytest.mark.parametrize("way", ["DiffBIR Conditioning", "Apply ControlNet"])
def test_one_image_serves_a_batch_of_latents(model, control_net, vae, prepare, way):
    image = picture(64, 64)
    inputs = prepare(image)
    positive, negative = inputs.positive, inputs.negative
    if way == "Apply ControlNet":
        positive, negative = apply_stock(text(1), text(2), control_net, image, 1.0, vae)
    noise = comfy.sample.prepare_noise(torch.zeros(3, 4, 8, 8), 1)
    three = sample(model, positive, negative, torch.zeros(3, 4, 8, 8), noise=noise)
    for k in range(3):
        alone = run(model, inputs, noise=noise[k : k + 1])
        assert_close(three[k : k + 1], alone, ROUNDING)


def test_unloading_between_runs_changes_nothing(model, prepare):
    inputs = prepare(picture(64, 64))
    expected = run(model, inputs)
    comfy.model_management.unload_all_models()
    assert torch.equal(run(model, inputs), expected)


def vae_like(**changes) -> SimpleNamespace:
    """Return what the check of a VAE reads, for VAEs too large to build."""
    values = {"latent_dim": 2, "latent_channels": 4, "ratio": 8, "first_stage_model": (), **changes}
    return SimpleNamespace(**values, spacial_compression_encode=lambda: values["ratio"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.full((1, 8, 8, 3), float("nan"))}, "run that model in float32"),
        ({"image": torch.zeros(0, 8, 8, 3)}, "'image' is empty"),
        ({"image": torch.zeros(1, 8, 0, 3)}, "'image' is empty"),
        ({"image": torch.zeros(8, 8, 3)}, "give it pictures of shape"),
        ({"control_net": None}, "Load LAControlNet"),
        (
            {"control_net": comfy.controlnet.T2IAdapter(None, 3, 8, "bicubic")},
            r"\(T2IAdapter\) is not a LAControlNet.*Load one",
        ),
        ({"vae": None}, "Load one with 'Load VAE'"),
        ({"vae": vae_like(latent_channels=16)}, r"16 channels.*the VAE of SD 2\.1"),
        ({"vae": vae_like(ratio=4)}, r"the VAE of SD 2\.1"),
        ({"vae": vae_like(latent_dim=3)}, r"the VAE of SD 2\.1"),
        ({"positive": [[torch.zeros(1, 77, 768), {}]]}, r"768 values.*takes 64.*CLIP of SD 2\.1"),
        ({"negative": [[torch.zeros(1, 77, 768), {}]]}, r"CLIP of SD 2\.1"),
        ({"noise_aug": 1000}, "give 0 to 999"),
        ({"noise_aug": -1}, "give 0 to 999"),
        ({"start": "image"}, "noise, condition"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(prepare, changes, message):
    with pytest.raises(ValueError, match=message):
        prepare(**{"image": picture(8, 8), **changes})


def test_the_vae_of_another_model_is_refused(prepare):
    with pytest.raises(ValueError, match=r"48 channels.*the VAE of SD 2\.1"):
        prepare(picture(8, 8), vae=bundled_vae())


def seen_by_control(control_net, model, conditioning, size) -> list[Tensor]:
    """Return the hints that the control's network is called with in one step."""
    seen: list[Tensor] = []
    network = control_net.control_model

    def watch(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["hint"].clone())

    hook = network.register_forward_pre_hook(watch, with_kwargs=True)
    comfy.sample.sample(
        model, torch.zeros(size), 1, 2.0, "euler", "normal", *conditioning, torch.zeros(size),
        disable_pbar=True, seed=0,
    )  # fmt: skip
    hook.remove()
    return seen


@pytest.mark.parametrize("tile", [0, 128])
@pytest.mark.parametrize("kind", ["area", "bounds of a mask"])
def test_a_regional_prompt_s_control_sees_its_own_part(tmp_path, kind, tile):
    control_net, size = tiny_control_net(tmp_path), (1, 4, 8, 24)
    region = text(4)
    if kind == "area":
        region[0][1]["area"] = (8, 8, 0, 16)
    else:
        mask = torch.zeros(1, 64, 192)
        mask[..., 128:] = 1
        region[0][1] |= {"mask": mask, "set_area_to_bounds": True, "mask_strength": 1.0}
    inputs = prepare_diffbir(region, text(5), control_net, projection_vae(), picture(64, 192))
    model = tiny_model()
    hint = inputs.positive[0][1]["control"].cond_hint_original
    if tile:
        model = patch_tiles(model, tile, 0)
    seen = seen_by_control(control_net, model, (inputs.positive, inputs.negative), size)
    regions = [each for each in seen if each.shape[-1] == 8]
    assert regions
    for each in regions:
        torch.testing.assert_close(each, hint[..., 16:].expand_as(each), rtol=0, atol=1e-6)
