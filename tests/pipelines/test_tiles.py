from __future__ import annotations

import asyncio
import logging
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from torch import Tensor

import nodes
from pack.pipelines import tiles
from pack.pipelines.diffbir_conditioning import prepare_diffbir
from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.noise import PictureSeeds
from pack.pipelines.resshift_conditioning import prepare_resshift
from pack.pipelines.resshift_sampling import sample_resshift
from pack.pipelines.restore_diffbir import restore_with_diffbir
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.pipelines.tiles import TileSettings, patch_tiles
from pack.tests.support.diffbir import (
    golden_texts,
    projection_vae,
    text,
    tiny_control_net,
    tiny_model,
    tiny_vae,
    tiny_weights,
)
from pack.tests.support.golden import assert_close, golden_case
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy

WIDE = (1, 4, 24, 40)
# Tiles see less of the picture than the whole does; two unrelated predictions differ by 1.4.
NEAR = 0.7


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def sd():
    return tiny_model()


@pytest.fixture(scope="module")
def control_net(tmp_path_factory):
    return tiny_control_net(tmp_path_factory.mktemp("control"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """DiffBIR's networks with a VAE whose pixels see their neighbours."""
    with torch.inference_mode():
        return tiny_weights(tmp_path_factory.mktemp("weights"), vae=tiny_vae())


def denoise(
    model: Any, x: Tensor, positive: list, negative: list, *, cfg=4.0, sigma=None
) -> Tensor:
    """Return what the MODEL predicts in one call with guidance, as a sampler sees it."""
    sampling = model.get_model_object("model_sampling")
    sigma = float(sampling.sigma(torch.tensor(420.0))) if sigma is None else sigma

    def sampler(net, _, sigmas, extra_args=None, callback=None, disable=None):
        return net(x, torch.full([len(x)], sigma), **extra_args)

    return comfy.sample.sample_custom(
        model,
        torch.zeros_like(x),
        cfg,
        comfy.samplers.KSAMPLER(sampler),
        torch.tensor([sigma, 0.0]),
        positive,
        negative,
        torch.zeros_like(x),
        disable_pbar=True,
        seed=0,
    )


def noise(shape: tuple[int, ...] = WIDE, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_control(control_net, image, positive=None, negative=None, **options) -> tuple[list, list]:
    made = prepare_diffbir(
        positive or text(1), negative or text(2), control_net, projection_vae(), image, **options
    )
    return made.positive, made.negative


def test_a_tiled_call_is_that_of_the_reference(sd, control_net):
    description, golden = golden_case("diffbir/tiny_end_to_end")
    positive, negative = golden_texts()
    hint = golden["tiled_cond_latent"]
    control = control_net.copy()
    control.latent_format = None
    control.set_cond_hint(hint, description["tiled"]["strength"])
    positive = [[positive[0][0], {"control": control, "control_apply_to_uncond": False}]]
    model = patch_tiles(sd, 128, 64, "gaussian")
    sampling = sd.get_model_object("model_sampling")
    sigma = float(sampling.sigmas[description["tiled"]["timestep"]])
    x = golden["tiled_x"] * (1 + sigma**2) ** 0.5
    denoised = denoise(model, x, positive, negative, cfg=1.0, sigma=sigma)
    assert_close((x - denoised * 0.18215) / sigma, golden["tiled_eps"], 2e-4)


@pytest.mark.parametrize("tile", [320, 4096])
def test_one_tile_is_the_untiled_call_bit_by_bit(sd, control_net, tile):
    conds = with_control(control_net, picture(192, 320))
    whole = denoise(sd, noise(), *conds)
    assert torch.equal(denoise(patch_tiles(sd, tile, 64), noise(), *conds), whole)


def test_one_tile_of_resshift_is_the_untiled_run_bit_by_bit(sr):
    model, vae = sr
    inputs = prepare_resshift(model, vae, picture(16, 24))
    whole = sample_resshift(model, inputs.positive, inputs.latent, seeds=PictureSeeds(3))["samples"]
    tiled = sample_resshift(
        patch_tiles(model, 4096, 64), inputs.positive, inputs.latent, seeds=PictureSeeds(3)
    )["samples"]
    assert torch.equal(tiled, whole)


def test_every_map_of_resshift_is_cut_with_its_window(inpaint):
    """A tile that reaches beyond the window it is weighted in would differ from the crop alone."""
    model, vae = inpaint
    image, mask = picture(32, 64), torch.zeros(1, 32, 64)
    mask[:, 5:20, 10:50] = 1
    inputs = prepare_resshift(model, vae, image, mask)
    latent = inputs.latent["samples"]
    side = 8 * 4  # one window of the tiny network in pixels
    tiled = denoise(
        patch_tiles(model, side, 0), latent, inputs.positive, inputs.negative, cfg=1.0, sigma=1.0
    )
    for top in range(0, latent.shape[2], 8):
        for left in range(0, latent.shape[3], 8):
            area = (slice(None), slice(None), slice(top, top + 8), slice(left, left + 8))
            cut = {
                key: value[..., f * top : f * (top + 8), f * left : f * (left + 8)]
                for key, value in inputs.positive[0][1].items()
                for f in [value.shape[-1] // latent.shape[-1]]
            }
            alone = denoise(
                model, latent[area], [[inputs.positive[0][0], cut]], [], cfg=1.0, sigma=1.0
            )
            assert_close(tiled[area], alone, 1e-5)


def test_tiles_stay_near_the_whole(sd, control_net):
    conds = with_control(control_net, picture(192, 320))
    whole = denoise(sd, noise(), *conds)
    tiled = denoise(patch_tiles(sd, 128, 64), noise(), *conds)
    assert not torch.equal(tiled, whole)
    assert (tiled - whole).std() < NEAR * whole.std()


@pytest.mark.parametrize("windows", [2, 100])
@pytest.mark.parametrize("batch", [1, 2])
def test_windows_may_share_a_call(sd, control_net, monkeypatch, windows, batch):
    conds = with_control(control_net, picture(192, 320, batch=batch))
    x = noise((batch, *WIDE[1:]))
    model = patch_tiles(sd, 128, 64)
    one_by_one = denoise(model, x, *conds)
    monkeypatch.setattr(tiles, "_windows_per_call", lambda *_: windows)
    assert_close(denoise(model, x, *conds), one_by_one, 2e-4)


def test_a_stock_control_with_a_vae_is_encoded_once_and_cut(sd, control_net):
    image = picture(192, 320)
    apply = nodes.NODE_CLASS_MAPPINGS["ControlNetApplyAdvanced"]()
    vae = projection_vae()
    stock = apply.apply_controlnet(text(1), text(2), control_net, image, 1.0, 0.0, 1.0, vae=vae)
    model = patch_tiles(sd, 128, 64)
    ours = denoise(model, noise(), *with_control(control_net, image))
    assert_close(denoise(model, noise(), *stock), ours, 2e-4)


def test_chained_controls_are_cut_too(sd, control_net):
    first = with_control(control_net, picture(192, 320, seed=1), strength=0.4)
    both = with_control(control_net, picture(192, 320, seed=2), *first, strength=0.6)
    whole = denoise(sd, noise(), *both)
    tiled = denoise(patch_tiles(sd, 128, 64), noise(), *both)
    assert (tiled - whole).std() < NEAR * whole.std()


def test_areas_and_masks_are_cut_to_the_window(sd):
    left, right = text(1), text(2)
    left[0][1]["area"] = (24, 20, 0, 0)
    right[0][1]["area"] = (24, 20, 0, 20)
    whole = denoise(sd, noise(), left + right, text(3))
    tiled = denoise(patch_tiles(sd, 128, 64), noise(), left + right, text(3))
    assert (tiled - whole).std() < NEAR * whole.std()
    mask = torch.zeros(1, 24, 40)
    mask[..., :20] = 1
    left, right = text(1), text(2)
    left[0][1] |= {"mask": mask, "mask_strength": 1.0}
    right[0][1] |= {"mask": 1 - mask, "mask_strength": 1.0}
    whole = denoise(sd, noise(), left + right, text(3))
    tiled = denoise(patch_tiles(sd, 128, 64), noise(), left + right, text(3))
    assert (tiled - whole).std() < NEAR * whole.std()


def test_an_axis_shorter_than_the_tile_is_not_cut(sd):
    narrow = noise((1, 4, 8, 40))
    conds = (text(1), text(2))
    tiled = denoise(patch_tiles(sd, 128, 64), narrow, *conds)
    assert tiled.shape == narrow.shape
    assert torch.isfinite(tiled).all()


def force_free_memory(monkeypatch, free: float) -> None:
    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda device=None, torch_free_too=False: (free, free) if torch_free_too else free,
    )


def watch_widths(model: Any) -> tuple[Any, list[int]]:
    """Return a clone of a MODEL and the widths of what its network is called with."""
    widths: list[int] = []

    def watch(executor, inner, conds, x, timestep, options):
        widths.append(x.shape[-1])
        return executor(inner, conds, x, timestep, options)

    patched = model.clone()
    patched.add_wrapper_with_key("calc_cond_batch", "watch", watch)
    return patched, widths


@pytest.mark.parametrize(("fitting", "used"), [((16, 16), 16), ((24, 40), 40), ((1, 1), 8)])
def test_the_tile_by_memory_is_the_largest_that_fits(sd, monkeypatch, caplog, fitting, used):
    free = 1.5 * sd.model.memory_required([1, 4, *fitting])
    force_free_memory(monkeypatch, free)
    model, widths = watch_widths(patch_tiles(sd, 512, 64, choice="auto (by memory)"))
    with caplog.at_level(logging.INFO, "resshift-diffbir"):
        denoise(model, noise(), text(1), text(2))
    assert set(widths) == {used}
    assert f"tiles of {8 * used} pixels, for which memory is free" in caplog.text


def test_by_memory_a_picture_that_fits_is_denoised_whole(sd, control_net, monkeypatch):
    conds = with_control(control_net, picture(192, 320))
    whole = denoise(sd, noise(), *conds)
    force_free_memory(monkeypatch, 1 << 40)
    model = patch_tiles(sd, 64, 16, choice="auto (by memory)")
    assert torch.equal(denoise(model, noise(), *conds), whole)


def test_a_fixed_tile_does_not_depend_on_free_memory(sd, monkeypatch):
    model = patch_tiles(sd, 128, 64)
    results = []
    for free in (1 << 20, 1 << 40):
        force_free_memory(monkeypatch, free)
        results.append(denoise(model, noise(), text(1), text(2)))
    # ComfyUI joins the two branches in one call where memory is there.
    assert_close(*results, 3e-4)  # of a range of 29


def test_an_unknown_choice_of_the_tile_is_refused(sd):
    with pytest.raises(ValueError, match=r"one of fixed, auto \(by memory\), not 'large'"):
        patch_tiles(sd, 128, 64, choice="large")  # type: ignore[arg-type]


@pytest.mark.parametrize("least", [True, False])
def test_resshift_by_memory_is_cut_where_memory_is_short(sr, monkeypatch, caplog, least):
    model, vae = sr
    image = picture(24, 72)
    whole = restore_with_resshift(model, vae, image, seed=3, tiles=TileSettings("off"))
    force_free_memory(monkeypatch, 1 if least else 1 << 40)
    tiles = TileSettings(choice="auto (by memory)")
    with caplog.at_level(logging.INFO, "resshift-diffbir"):
        cut = restore_with_resshift(model, vae, image, seed=3, tiles=tiles)
    assert torch.equal(cut, whole) is not least
    assert ("the VAE takes tiles of 128 pixels" in caplog.text) is least


def test_diffbir_by_memory_is_cut_in_every_stage(weights, monkeypatch, caplog):
    options: dict[str, Any] = {
        "preset": DIFFBIR_PRESETS["v2"], "steps": 2, "cfg": 1.0, "rules": "none"
    }  # fmt: skip
    image = picture(64, 64)
    whole = restore_with_diffbir(weights, image, seed=3, tiles=TileSettings("off"), **options)
    force_free_memory(monkeypatch, 1)
    tiles = TileSettings(choice="auto (by memory)")
    with caplog.at_level(logging.INFO, "resshift-diffbir"):
        cut = restore_with_diffbir(weights, image, seed=3, tiles=tiles, **options)
    assert cut.shape == whole.shape
    assert not torch.equal(cut, whole)
    for said in ("64x64, tiles of 64", "the VAE takes tiles of 128", "tiles of 64 pixels, for"):
        assert said in caplog.text


def test_room_is_made_for_a_tile_not_for_the_whole(sd, monkeypatch):
    asked = []
    real = comfy.model_management.load_models_gpu

    def load(models, memory_required=0, **options):
        asked.append(memory_required)
        return real(models, memory_required=memory_required, **options)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", load)
    denoise(sd, noise(), text(1), text(2))
    denoise(patch_tiles(sd, 64, 32), noise(), text(1), text(2))
    whole, tiled = (value for value in asked if value > 0)
    assert tiled < whole


@pytest.mark.parametrize(("tile", "overlap"), [(128, 128), (64, 100), (64, -1)])
def test_an_overlap_that_leaves_nothing_is_refused(sd, tile, overlap):
    with pytest.raises(ValueError, match="must be less than 'tile'"):
        patch_tiles(sd, tile, overlap)


def test_gligen_boxes_are_refused(sd):
    boxes = text(1)
    boxes[0][1]["gligen"] = ("position", tiny_model(), [])
    with pytest.raises(ValueError, match="GLIGEN"):
        denoise(patch_tiles(sd, 128, 64), noise(), boxes, text(2))


def test_by_memory_control_networks_need_room_too(sd, control_net, monkeypatch):
    """The tile that would fit without them is not taken."""
    seen: list[int] = []
    room = tiles.room_beside

    def watch(*patchers: Any) -> float:
        seen.append(len(patchers))
        return room(*patchers)

    monkeypatch.setattr(tiles, "room_beside", watch)
    model = patch_tiles(sd, 128, 32, choice="auto (by memory)")
    denoise(model, noise(), *with_control(control_net, picture(192, 320)))
    assert seen == [2]


def cached(model: Any, threshold: float) -> Any:
    node = nodes.NODE_CLASS_MAPPINGS["EasyCache"]
    return node.execute(model, threshold, 0.15, 0.95, False).result[0]


@pytest.mark.parametrize("order", ["cache, then tiles", "tiles, then cache"])
def test_easycache_keeps_each_tile_by_itself(order):
    """Tiles that share one cache were off by more than twice what the cache costs by itself."""
    asyncio.run(nodes.init_builtin_extra_nodes())
    model = tiny_model()
    x = noise((1, 4, 8, 16))
    x[..., 8:] *= 3  # two tiles that have nothing in common

    def run(patched: Any) -> Tensor:
        return comfy.sample.sample(
            patched, x, 20, 4.0, "euler", "simple", text(1), text(2), torch.zeros_like(x),
            disable_pbar=True, seed=0,
        )  # fmt: skip

    def cost(make: Any, plain: Tensor) -> float:
        return ((run(make) - plain).norm() / plain.norm()).item()

    whole = cost(cached(model, 1.0), run(model))
    tiled = patch_tiles(model, 64, 0)
    both = patch_tiles(cached(model, 1.0), 64, 0)
    if order == "tiles, then cache":
        both = cached(tiled, 1.0)
    found = cost(both, run(tiled))
    assert 0 < found < 1.5 * whole, (found, whole)


def test_a_run_in_tiles_leaves_nothing_behind(sd):
    model = patch_tiles(sd, 128, 32)
    denoise(model, noise(), text(1), text(2))
    state = model.get_wrappers("calc_cond_batch", "restoration_tiles")[0].__self__
    assert not state.weights
    assert not state.caches
