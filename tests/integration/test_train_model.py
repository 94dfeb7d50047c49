"""Restoration Train Model in prompts of ComfyUI, between the stock nodes around it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from pack.tests.support.graph import Graph
    from pack.tests.support.running import InProcessComfy

pytestmark = pytest.mark.comfy

PLAIN = {
    "steps": 2,
    "learning_rate": 0.001,
    "grad_accumulation_steps": 1,
    "seed": 0,
    "training_dtype": "fp32",
    "checkpoint_every": 0,
    "filename_prefix": "own",
    "resume_from": "none: begin with the model",
}


@pytest.fixture(scope="module")
def base(comfy: InProcessComfy) -> str:
    from pack.tests.support.tiny import FOLDED_RECORD, STARTED_UNET, save_unet

    return save_unet(
        comfy.base / "models" / "diffusion_models", STARTED_UNET, FOLDED_RECORD, seed=3
    ).name


def training(comfy: InProcessComfy, base: str, **settings: Any) -> tuple[Graph, list[Any]]:
    """Return a prompt with a training, and the training's node."""
    from pack.tests.support.graph import Graph, output
    from pack.tests.support.tiny import picture

    graph = Graph(comfy)
    model = graph("ResShiftLoader", model_name=base, preset="auto", dtype="fp32")
    vae = graph("ResShiftVAELoader", vae_name="bundled: pixel latent x4", dtype="auto")
    low = graph.give("IMAGE", picture(8, 8, batch=2))
    clean = graph.give("IMAGE", picture(32, 32, batch=2))
    pairs = graph("ResShiftTrainingPairs", model=model, vae=vae, clean=clean, degraded=low)
    trained = graph(
        "RestorationTrainModel",
        **{**PLAIN, **settings},
        model=model,
        latents=pairs,
        positive=output(pairs, 1),
    )
    return graph, trained


def weights_of(model: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.model.state_dict().items()}


def files(comfy: InProcessComfy) -> set[str]:
    folder = comfy.base / "output" / "restoration_training"
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_save_model_keeps_what_the_loader_opens_again(comfy: InProcessComfy, base: str):
    import shutil

    from pack.tests.support.graph import Graph, output

    graph, trained = training(comfy, base)
    graph("ModelSave", model=trained, filename_prefix="diffusion_models/own")
    graph("LossGraphNode", loss=output(trained, 1), filename_prefix="loss")
    made, steps = graph.run(model=trained, steps=output(trained, 2))
    assert steps == 2
    (saved,) = (comfy.base / "output" / "diffusion_models").glob("own*.safetensors")
    name = "own_saved.safetensors"
    shutil.copy(saved, comfy.base / "models" / "diffusion_models" / name)
    graph = Graph(comfy)
    loaded = graph.run(model=graph("ResShiftLoader", model_name=name, preset="auto", dtype="fp32"))
    expected, found = weights_of(made), weights_of(loaded)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert loaded.model.record == made.model.record


def test_checkpoints_have_the_name_and_the_times_that_are_asked_for(
    comfy: InProcessComfy, base: str
):
    for settings, expected in (
        ({"checkpoint_every": 0}, set()),
        ({"checkpoint_every": 1}, {"own_00001_.safetensors"}),
        ({"checkpoint_every": 5}, {"own_00002_.safetensors"}),
        ({"checkpoint_every": 2, "filename_prefix": "cats/a"}, {"cats/a_00001_.safetensors"}),
    ):
        before = files(comfy)
        graph, trained = training(comfy, base, **settings)
        graph.run(model=trained)
        assert files(comfy) - before == expected
    graph, trained = training(comfy, base, steps=3, resume_from="cats/a_00001_.safetensors")
    assert graph.run(steps=[trained[0], 2]) == 3


@pytest.mark.parametrize("prefix", ["", "../own", "cats/../../own", str(Path("/own").absolute())])
def test_checkpoints_stay_in_their_folder(comfy: InProcessComfy, base: str, prefix: str):
    graph, trained = training(comfy, base, filename_prefix=prefix)
    graph("TestKeep", name="model", value=trained)
    assert "names no file inside ComfyUI's output" in str(comfy.run(graph.prompt).error)


def test_a_checkpoint_that_is_gone_is_refused_before_anything_runs(
    comfy: InProcessComfy, base: str
):
    graph, trained = training(comfy, base, resume_from="gone.safetensors")
    graph("TestKeep", name="model", value=trained)
    with pytest.raises(AssertionError, match=r"gone\.safetensors"):
        comfy.run(graph.prompt)
