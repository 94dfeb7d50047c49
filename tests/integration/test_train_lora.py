"""ComfyUI's own Train LoRA on ResShift models."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from pack.tests.support.running import InProcessComfy

pytestmark = pytest.mark.comfy

STEPS = 60
LEARNT, HELD_BACK = 6, 2
SIDE = 8  # of a low-quality picture
FOLDER = "trained loras"


def damaged(clean: Tensor) -> Tensor:
    """Return pictures at a quarter of their size, in blocks of 2x2 and with a colour cast."""
    planes = clean.movedim(-1, 1)
    blocks = F.avg_pool2d(planes, 8).repeat_interleave(2, -1).repeat_interleave(2, -2)
    return (blocks * torch.tensor([0.9, 0.6, 0.8])[:, None, None]).movedim(1, -1).contiguous()


@dataclass
class Trained:
    """A training that has ended.

    Attributes:
        losses: One for each step.
        name: The saved LoRA.
        before: Error of the base on pictures that were held back.
        after: The same with the LoRA.
    """

    losses: list[float]
    name: str
    before: float
    after: float


@pytest.fixture(scope="module")
def base_model(comfy: InProcessComfy) -> str:
    """A tiny model that gives back what it starts from, as a network does that was never trained."""
    from safetensors.torch import save_file

    from pack.tests.support.tiny import FOLDED_RECORD, FOLDED_UNET, random_unet_weights

    weights = random_unet_weights(replace(FOLDED_UNET, cond_start=True))
    for key in ("out.2.weight", "out.2.bias"):
        weights[key] = torch.zeros_like(weights[key])
    path = comfy.base / "models" / "diffusion_models" / "train_base.safetensors"
    save_file(weights, path, metadata={"resshift_config": FOLDED_RECORD.to_json()})
    return path.name


@pytest.fixture(scope="module")
def lora_folder(comfy: InProcessComfy) -> Path:
    import folder_paths

    folder = comfy.base / "output" / FOLDER
    folder.mkdir()
    folder_paths.add_model_folder_path("loras", str(folder), is_default=True)
    return folder


def loaded(graph: Any, name: str, dtype: str = "fp32") -> tuple[Any, Any]:
    model = graph("ResShiftLoader", model_name=name, preset="auto", dtype=dtype)
    return model, graph("ResShiftVAELoader", vae_name="bundled: pixel latent x4", dtype="auto")


def pairs_of(graph: Any, model: Any, vae: Any, clean: Tensor, low: Tensor | None = None) -> Any:
    return graph(
        "ResShiftTrainingPairs",
        model=model,
        vae=vae,
        clean=graph.give("IMAGE", clean),
        degraded=graph.give("IMAGE", damaged(clean) if low is None else low),
    )


def pictures(count: int, seed: int) -> Tensor:
    """Return pictures of soft shapes, which even blocks leave to be seen."""
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    planes = F.interpolate(coarse, size=4 * SIDE, mode="bicubic", align_corners=True)
    return planes.clamp(0, 1).movedim(1, -1).contiguous()


def train_and_judge(
    comfy: InProcessComfy, folder: Path, base: str, dtype: str, **settings: Any
) -> Trained:
    """Train, save, load with the stock loader, and restore pictures that were held back."""
    from pack.tests.support.graph import Graph, chain, output, resshift_conditioning, train_lora

    torch.manual_seed(0)  # ComfyUI's node draws adapters and noise levels from torch's generator
    graph = Graph(comfy)
    model, vae = loaded(graph, base, dtype)
    lora = train_lora(graph, model, pairs_of(graph, model, vae, pictures(LEARNT, 0)), **settings)
    prefix = f"{FOLDER}/{dtype}"
    graph("SaveLoRA", lora=lora, prefix=prefix, steps=output(lora, 2))
    losses = graph.run(losses=output(lora, 1))["loss"]
    (file,) = folder.glob(f"{dtype}_*.safetensors")

    held_back = pictures(HELD_BACK, 9)
    errors = []
    for name in (None, file.name):
        graph = Graph(comfy)
        model, vae = loaded(graph, base, dtype)
        if name:
            model = graph("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=1.0)
        conditioning = resshift_conditioning(graph, model, vae, damaged(held_back))
        samples = chain(graph, model, conditioning)
        result = graph.run(image=graph("VAEDecode", samples=samples, vae=vae))
        errors.append(F.mse_loss(result, held_back).item())
    return Trained(losses, file.name, *errors)


@pytest.fixture(scope="module")
def trained(comfy: InProcessComfy, base_model: str, lora_folder: Path) -> Trained:
    return train_and_judge(
        comfy, lora_folder, base_model, "fp32", steps=STEPS, learning_rate=1e-2, rank=4
    )


@pytest.mark.slow
def test_the_loss_falls_by_more_than_half(trained: Trained):
    first, last = (
        sum(part) for part in (trained.losses[: STEPS // 3], trained.losses[-STEPS // 3 :])
    )
    assert last < first / 2


@pytest.mark.slow
def test_pictures_that_were_held_back_lose_most_of_their_damage(trained: Trained):
    assert trained.after < trained.before / 3


@pytest.mark.slow
def test_bfloat16_learns_too(comfy: InProcessComfy, base_model: str, lora_folder: Path):
    settings = {"training_dtype": "bf16", "lora_dtype": "bf16", "gradient_checkpointing": True}
    found = train_and_judge(
        comfy, lora_folder, base_model, "bf16", steps=20, learning_rate=1e-2, rank=4, **settings
    )
    assert found.after < found.before / 1.5


class Recorder:
    """Keeps what the network of a MODEL is called with.

    Args:
        model: The MODEL; a clone of it is watched.
        stop_after: Calls after which ComfyUI is told to interrupt; 0 for never.
    """

    def __init__(self, model: Any, stop_after: int = 0):
        from comfy.patcher_extension import WrappersMP

        self.calls: list[dict[str, Any]] = []
        self.stop_after = stop_after
        self.model = model.clone()
        self.model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", self.record)

    def record(self, executor: Any, x: Tensor, timesteps: Tensor, *rest: Any, **given: Any) -> Any:
        import comfy.model_management

        kept = {name: value.detach().clone() for name, value in given.items() if value is not None}
        self.calls.append({"x": x.detach().clone(), "timesteps": timesteps.tolist(), **kept})
        if len(self.calls) == self.stop_after:
            comfy.model_management.interrupt_current_processing()
        return executor(x, timesteps, *rest, **given)


def recorded(
    comfy: InProcessComfy, name: str, clean: Tensor, stop_after: int = 0, **settings: Any
) -> tuple[Recorder, Any]:
    """Train a model on pictures and return what its network was called with, and the run."""
    from pack.tests.support.graph import Graph, output, train_lora

    graph = Graph(comfy)
    recorder = Recorder(graph.run(model=loaded(graph, name)[0]), stop_after)
    graph = Graph(comfy)
    model, vae = graph.give("MODEL", recorder.model), loaded(graph, name)[1]
    lora = train_lora(graph, model, pairs_of(graph, model, vae, clean), **settings)
    graph("TestKeep", name="losses", value=output(lora, 1))
    return recorder, comfy.run(graph.prompt)


def test_the_network_sees_every_step_of_its_chain_and_nothing_between(
    comfy: InProcessComfy, base_model: str
):
    torch.manual_seed(0)
    recorder, run = recorded(comfy, base_model, pictures(1, 0), steps=12)
    assert run.success, run.error
    seen = [call["timesteps"] for call in recorder.calls]
    assert {step for (step,) in seen} == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.slow
def test_a_model_that_runs_in_one_step_learns_that_step(comfy: InProcessComfy):
    recorder, run = recorded(comfy, "bundled: photo x4", pictures(1, 0), steps=3)
    assert run.success, run.error
    assert [call["timesteps"] for call in recorder.calls] == [[3.0]] * 3


def test_what_it_sees_is_the_papers_forward_process(comfy: InProcessComfy, base_model: str):
    from pack.samplers.chain import scale_input
    from pack.tests.support.tiny import FOLDED_RECORD

    clean = pictures(1, 0)
    recorder, run = recorded(comfy, base_model, clean, steps=1, seed=5)
    assert run.success, run.error
    (call,) = recorder.calls
    (step,) = call["timesteps"]
    x_0 = F.pixel_unshuffle(clean.movedim(-1, 1) * 2 - 1, 4)
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(5))
    eta, kappa = FOLDED_RECORD.schedule.eta()[int(step)].float(), FOLDED_RECORD.kappa
    x_t = x_0 + eta * (call["y"] - x_0) + kappa * eta.sqrt() * noise
    torch.testing.assert_close(
        call["x"] + call["y_shift"], scale_input(x_t, eta, kappa), rtol=0, atol=2e-5
    )


def test_every_picture_of_a_batch_is_seen_with_its_own_degraded_version(
    comfy: InProcessComfy, base_model: str
):
    # The base predicts y, whatever the noise, so its loss is that of the degraded pictures.
    from pack.tests.support.graph import KEPT

    clean = pictures(2, 4)
    alone = []
    for k in range(2):
        recorded(comfy, base_model, clean[k : k + 1], steps=1)
        alone += KEPT["losses"]["loss"]
    recorder, run = recorded(comfy, base_model, clean, steps=1, batch_size=2)
    assert run.success, run.error
    assert len(recorder.calls) == 2
    assert KEPT["losses"]["loss"] == pytest.approx([sum(alone) / 2], rel=1e-4)
    assert max(alone) > 1.2 * min(alone)


def test_conditioning_of_many_pictures_in_one_entry_is_refused(
    comfy: InProcessComfy, base_model: str
):
    from pack.tests.support.graph import Graph, output, resshift_conditioning, train_lora

    graph = Graph(comfy)
    model, vae = loaded(graph, base_model)
    conditioning = resshift_conditioning(graph, model, vae, damaged(pictures(2, 0)))
    lora = train_lora(graph, model, output(conditioning, 2), steps=1)
    graph.prompt[lora[0]]["inputs"]["positive"] = conditioning
    graph("TestKeep", name="lora", value=lora)
    assert "ResShift Training Pairs" in str(comfy.run(graph.prompt).error)


def test_an_interrupt_stops_the_training_at_once(comfy: InProcessComfy, base_model: str):
    from comfy import model_management

    recorder, run = recorded(comfy, base_model, pictures(1, 0), stop_after=2, steps=50)
    assert not run.success
    assert len(recorder.calls) == 2
    assert model_management.in_training is False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_name", "vae_name", "scale", "has_mask"),
    [
        ("resshift_realsrx4_s4_v3.pth", "autoencoder_vq_f4.pth", 4, False),
        ("SinSR_v2.pth", "autoencoder_vq_f4.pth", 4, False),
        ("resshift_inpainting_imagenet_s4.pth", "autoencoder_vq_f4.pth", 1, True),
        ("resshift_faceir_s4.pth", "ffhq512_vq_f8_dim8_face.pth", 1, False),
    ],
)
def test_released_layouts_are_trained_and_their_lora_fits(
    comfy: InProcessComfy, caplog, model_name, vae_name, scale, has_mask
):
    from pack.tests.support.graph import Graph, train_lora

    graph = Graph(comfy)
    model = graph("ResShiftLoader", model_name=model_name, preset="auto", dtype="fp32")
    vae = graph("ResShiftVAELoader", vae_name=vae_name, dtype="fp32")
    low = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    clean = low.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    pairs = pairs_of(graph, model, vae, clean, low)
    if has_mask:
        hole = torch.zeros(1, 64, 64)
        hole[:, 20:40, 20:40] = 1
        graph.prompt[pairs[0]]["inputs"]["mask"] = graph.give("MASK", hole)
    lora = train_lora(graph, model, pairs, steps=1, batch_size=2)
    patched = graph("LoraModelLoader", model=model, lora=lora, strength_model=1.0, bypass=False)
    found = graph.run(model=patched)
    assert len(found.patches) > 50
    assert "not loaded" not in caplog.text


# Of no model, ComfyUI's LoHa can be trained beside the layers, nor anything in its lowest version.
BESIDE = pytest.mark.skipif(os.environ.get("PACK_LOWEST") == "1", reason="needs a newer ComfyUI")


@pytest.mark.parametrize(
    ("algorithm", "bypass"),
    [
        ("LoRA", False),
        ("LoHa", False),
        ("LoKr", False),
        ("OFT", False),
        pytest.param("LoRA", True, marks=BESIDE),
        pytest.param("LoKr", True, marks=BESIDE),
        pytest.param("OFT", True, marks=BESIDE),
    ],
)
def test_adapters_of_every_kind_are_trained_on_the_position_biases_too(
    comfy: InProcessComfy, base_model: str, caplog, algorithm, bypass
):
    from pack.tests.support.graph import Graph, train_lora

    torch.manual_seed(0)
    graph = Graph(comfy)
    model, vae = loaded(graph, base_model)
    pairs = pairs_of(graph, model, vae, pictures(1, 0))
    lora = train_lora(graph, model, pairs, steps=1, rank=2, algorithm=algorithm, bypass_mode=bypass)
    patched = graph("LoraModelLoader", model=model, lora=lora, strength_model=1.0, bypass=bypass)
    trained_keys = graph.run(lora=lora, model=patched)[0]
    assert any(".relative_position_bias_table." in key for key in trained_keys)
    assert "not loaded" not in caplog.text


def test_a_lora_of_a_position_bias_acts_alike_as_a_patch_and_beside_the_layer(
    comfy: InProcessComfy,
):
    from pack.tests.support.graph import Graph, bundled, chain, resshift_conditioning

    name = "diffusion_model.output_blocks.6.1.blocks.0.attn.relative_position_bias_table"
    generator = torch.Generator().manual_seed(0)
    lora = {
        f"{name}.lora_up.weight": torch.randn(225, 2, generator=generator),
        f"{name}.lora_down.weight": torch.randn(2, 4, generator=generator),
    }

    image = torch.rand(1, SIDE, SIDE, 3, generator=generator)  # grain, to tell places apart by

    def restored(**how: Any) -> Tensor:
        graph = Graph(comfy)
        model, vae = bundled(graph)
        if how:
            given = graph.give("LORA_MODEL", lora)
            model = graph("LoraModelLoader", model=model, lora=given, strength_model=9.0, **how)
        conditioning = resshift_conditioning(graph, model, vae, image)
        return graph.run(latent=chain(graph, model, conditioning))["samples"]

    plain, patched, beside = restored(), restored(bypass=False), restored(bypass=True)
    moved = (patched - plain).abs().max()
    assert moved > 1e-4
    assert (beside - patched).abs().max() < moved / 50


@pytest.mark.slow
def test_a_lora_of_the_bundled_model_leaves_its_start_as_it_is(comfy: InProcessComfy, caplog):
    from pack.pipelines.resshift_start import start_picture
    from pack.tests.support.graph import Graph, bundled, train_lora

    graph = Graph(comfy)
    model, vae = bundled(graph)
    lora = train_lora(graph, model, pairs_of(graph, model, vae, pictures(1, 0)), steps=2)
    patched = graph("LoraModelLoader", model=model, lora=lora, strength_model=50.0, bypass=False)
    found, base = graph.run(found=patched, base=model)
    assert "not loaded" not in caplog.text
    planes = damaged(pictures(1, 0)).movedim(-1, 1)
    with torch.inference_mode():
        assert torch.equal(start_picture(found, planes), start_picture(base, planes))


def watched_training(comfy: InProcessComfy, base: str, watch: bool) -> tuple[Any, ...]:
    """Train four steps and return model, loss and, where it is watched, validation and chart."""
    from pack.tests.support.graph import Graph, output, train_lora

    torch.manual_seed(0)
    graph = Graph(comfy)
    model, vae = loaded(graph, base)
    pairs = pairs_of(graph, model, vae, pictures(2, 0))
    trained_model, kept = model, {}
    if watch:
        clean = pictures(2, 9)
        trained_model = graph(
            "ResShiftValidation",
            model=model,
            vae=vae,
            clean=graph.give("IMAGE", clean),
            degraded=graph.give("IMAGE", damaged(clean)),
            every=2,
            seed=7,
        )
        kept["validation"] = output(trained_model, 1)
    lora = train_lora(graph, trained_model, pairs, steps=4, learning_rate=1e-2, rank=4)
    if watch:
        chart = graph(
            "RestorationValidationChart", loss=output(lora, 1), validation=kept["validation"]
        )
        kept |= {"chart": chart, "shown": output(chart, 1), "report": output(chart, 2)}
    patched = graph("LoraModelLoader", model=model, lora=lora, strength_model=1.0, bypass=False)
    return tuple(graph.run(model=patched, loss=output(lora, 1), **kept))


@pytest.fixture(scope="module")
def watched(comfy: InProcessComfy, base_model: str) -> tuple[Any, ...]:
    return watched_training(comfy, base_model, True)


def test_validation_restores_before_within_and_after_and_leaves_the_training_alone(
    comfy: InProcessComfy, base_model: str, watched
):
    _, loss, validation, *_ = watched
    assert list(validation.latents) == [0, 2, 4]
    assert watched_training(comfy, base_model, False)[1] == loss


def test_validation_is_what_the_lora_restores(comfy: InProcessComfy, base_model: str, watched):
    from pack.tests.support.graph import Graph, chain, resshift_conditioning

    patched, _, validation, *_ = watched
    for k in range(2):
        graph = Graph(comfy)
        model, vae = graph.give("MODEL", patched), loaded(graph, base_model)[1]
        conditioning = resshift_conditioning(graph, model, vae, damaged(pictures(2, 9))[k : k + 1])
        alone = graph.run(latent=chain(graph, model, conditioning, seed=7 + k))["samples"]
        found = validation.latents[4][k : k + 1]
        torch.testing.assert_close(found, alone.cpu(), rtol=0, atol=1e-4)
    assert not torch.allclose(validation.latents[0], validation.latents[4], atol=1e-2)


def test_the_chart_shows_what_was_measured(watched):
    from pack.pipelines.measure import measure_images

    _, _, validation, chart, shown, report = watched
    assert chart.shape == (1, 4 * 260, 900, 3)
    assert chart.std() > 0.05
    assert len(shown) == 2
    assert shown.shape[2] == 3 * 4 * SIDE + 2 * 8
    last = measure_images(validation.restored(4), validation.clean)
    assert report.splitlines()[-1].startswith(f"| 4 | {last.psnr_y:.2f} | {last.ssim_y:.4f} |")


def test_a_training_that_fails_stops_and_says_what_to_change(
    comfy: InProcessComfy, base_model: str
):
    from comfy import model_management

    from pack.tests.support.graph import Graph, output, train_lora

    torch.manual_seed(0)
    graph = Graph(comfy)
    model, vae = loaded(graph, base_model)
    clean = pictures(1, 0)
    watched_model = graph(
        "ResShiftValidation",
        model=model,
        vae=vae,
        clean=graph.give("IMAGE", clean),
        degraded=graph.give("IMAGE", damaged(clean)),
        every=4,
        seed=0,
    )
    settings = {"steps": 12, "learning_rate": 1.0, "rank": 64}
    lora = train_lora(graph, watched_model, pairs_of(graph, model, vae, clean), **settings)
    graph("TestKeep", name="losses", value=output(lora, 1))
    assert "Lower 'learning_rate' of Train LoRA" in str(comfy.run(graph.prompt).error)
    assert model_management.in_training is False


@pytest.mark.parametrize(
    ("steps", "says"),
    [(0, "before it is trained. Load it with 'dtype' fp32"), (6, "after 6 steps")],
)
def test_restored_nan_says_whether_training_made_it(steps: int, says: str):
    from pack.pipelines.validation import _check_finite

    _check_finite(torch.zeros(1), steps)
    with pytest.raises(ValueError, match=says):
        _check_finite(torch.full((1,), float("nan")), steps)


def test_pictures_that_cannot_be_measured_are_refused_before_the_training(
    comfy: InProcessComfy, base_model: str
):
    from pack.tests.support.graph import Graph

    graph = Graph(comfy)
    found, vae = graph.run(**dict(zip(("model", "vae"), loaded(graph, base_model), strict=True)))
    small = pictures(1, 0)[:, :8, :8]
    with pytest.raises(ValueError, match="'clean' is 8x8; SSIM needs 11x11 pixels"):
        comfy.call("ResShiftValidation", found, vae, small, small[:, ::4, ::4], 1, 0)


def test_a_chart_without_a_training_is_refused(comfy: InProcessComfy):
    from pack.pipelines.validation import Validation, draw_validation

    with pytest.raises(ValueError, match="connect the model of 'ResShift Validation'"):
        draw_validation({"loss": [1.0]}, Validation(None, pictures(1, 0)))
