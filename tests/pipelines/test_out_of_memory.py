"""Networks that run out of memory above a size: smaller tiles once, then what ComfyUI expects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import comfy.samplers
import pytest
import torch
from torch import Tensor, nn

from pack.pipelines.diffbir_presets import DIFFBIR_PRESETS
from pack.pipelines.restore_diffbir import restore_with_diffbir
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.tests.support.diffbir import tiny_vae, tiny_weights
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy

OUT_OF_MEMORY = comfy.model_management.OOM_EXCEPTION
SHORT: dict[str, Any] = {
    "preset": DIFFBIR_PRESETS["v2"], "steps": 2, "cfg": 1.0, "rules": "none", "seed": 7
}  # fmt: skip


@pytest.fixture(autouse=True)
def _as_comfyui_runs():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    with torch.inference_mode():
        return tiny_weights(tmp_path_factory.mktemp("weights"), vae=tiny_vae())


@contextmanager
def limited(network: nn.Module, pixels: int) -> Iterator[list[int]]:
    """Let a network run out of memory on inputs of more pixels; yield how large they were."""
    sizes: list[int] = []

    def refuse(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["x"]
        sizes.append(x.shape[-2] * x.shape[-1])
        if sizes[-1] > pixels:
            raise OUT_OF_MEMORY("out of memory")

    hook = network.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield sizes
    finally:
        hook.remove()


def resshift(sr: tuple[Any, Any], side: int = 24) -> tuple[Callable[[], Tensor], nn.Module]:
    model, vae = sr
    return (
        lambda: restore_with_resshift(model, vae, picture(side, side), seed=3),
        model.model.diffusion_model,
    )


def diffbir(weights: Any, side: int = 48) -> tuple[Callable[[], Tensor], nn.Module]:
    return (
        lambda: restore_with_diffbir(weights, picture(side, side), **SHORT),
        weights.model.model.diffusion_model,
    )


@pytest.mark.parametrize("system", ["resshift", "diffbir"])
def test_diffusion_goes_on_once_with_tiles_of_half_the_side(request, caplog, system):
    if system == "resshift":
        restore, network = resshift(request.getfixturevalue("sr"))
    else:
        restore, network = diffbir(request.getfixturevalue("weights"))
    whole = restore()
    with limited(network, 1 << 30) as sizes:
        restore()
    full = max(sizes)
    with limited(network, full // 2) as sizes:
        cut = restore()
    assert cut.shape == whole.shape
    assert torch.isfinite(cut).all()
    assert sizes.count(full) == 1
    (said,) = (text for text in caplog.messages if "Out of memory with tiles" in text)
    assert "this run goes on with" in said
    assert torch.equal(restore(), whole)


@pytest.mark.parametrize("system", ["resshift", "diffbir"])
def test_no_memory_for_smaller_tiles_is_comfyuis_error_and_the_next_run_works(request, system):
    if system == "resshift":
        restore, network = resshift(request.getfixturevalue("sr"))
    else:
        restore, network = diffbir(request.getfixturevalue("weights"))
    whole = restore()
    with limited(network, 1) as sizes, pytest.raises(OUT_OF_MEMORY):
        restore()
    assert len(sizes) == 2  # whole, then halved once
    assert torch.equal(restore(), whole)


def test_other_errors_of_a_network_are_not_tried_again(sr):
    restore, network = resshift(sr)
    calls = []

    def fail(*_: Any) -> None:
        calls.append(1)
        raise RuntimeError("shapes do not match")

    hook = network.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="shapes do not match"):
            restore()
    finally:
        hook.remove()
    assert len(calls) == 1


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("system", ["resshift", "diffbir"])
def test_the_vae_falls_back_to_comfyuis_tiles(request, caplog, system, part):
    """Of 576 pixels, which ComfyUI cuts into tiles of at most 512 x 512."""
    if system == "resshift":
        vae = request.getfixturevalue("sr")[1]
        restore, _ = resshift(request.getfixturevalue("sr"), side=144)
    else:
        weights = request.getfixturevalue("weights")
        vae = weights.vae
        restore, _ = diffbir(weights, side=144)
    network = getattr(vae.first_stage_model, part)
    ratio = vae.spacial_compression_decode()
    allowed = (512 if part == "encoder" else 64) ** 2
    if part == "decoder" and (576 // ratio) ** 2 <= allowed:
        pytest.fail("the latent is not larger than ComfyUI's tile")
    with limited(network, allowed) as sizes:
        made = restore()
    assert max(sizes) > allowed
    assert len(sizes) > 2
    assert made.shape == (1, 576, 576, 3)
    assert torch.isfinite(made).all()
    assert "retrying with tiled VAE" in caplog.text


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("system", ["resshift", "diffbir"])
def test_a_vae_without_memory_for_tiles_is_comfyuis_error_and_the_next_run_works(
    request, system, part
):
    if system == "resshift":
        vae = request.getfixturevalue("sr")[1]
        restore, _ = resshift(request.getfixturevalue("sr"))
    else:
        weights = request.getfixturevalue("weights")
        vae = weights.vae
        restore, _ = diffbir(weights)
    whole = restore()
    with limited(getattr(vae.first_stage_model, part), 1), pytest.raises(OUT_OF_MEMORY):
        restore()
    assert torch.equal(restore(), whole)


def test_stage_one_without_memory_is_comfyuis_error_and_the_next_run_works(weights):
    restore, _ = diffbir(weights)
    whole = restore()
    with limited(weights.upscale_model.model, 1), pytest.raises(OUT_OF_MEMORY):
        restore()
    assert torch.equal(restore(), whole)


def test_every_network_may_run_short_in_one_run(weights, caplog):
    options = SHORT | {"rules": "BSRNet", "scale": 2.25}
    with ExitStack() as stack:
        stage_one = stack.enter_context(limited(weights.upscale_model.model, 128 * 128))
        stack.enter_context(limited(weights.model.model.diffusion_model, 40 * 40))
        stack.enter_context(limited(weights.vae.first_stage_model.encoder, 512 * 512))
        stack.enter_context(limited(weights.vae.first_stage_model.decoder, 64 * 64))
        made = restore_with_diffbir(weights, picture(256, 256), **options)
    assert made.shape == (1, 576, 576, 3)
    assert torch.isfinite(made).all()
    assert stage_one[0] == 256 * 256
    for said in ("stage 1 ran out of memory", "Out of memory with tiles", "tiled VAE encoding",
                 "tiled VAE decoding"):  # fmt: skip
        assert said in caplog.text
