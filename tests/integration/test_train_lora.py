"""ComfyUI's own Train LoRA on ResShift models."""

from __future__ import annotations

from collections.abc import Iterator
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

STEPS = 120
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
        missing: Keys of the file that the stock loader found no place for.
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
def lora_folder(comfy: InProcessComfy) -> Iterator[Path]:
    import folder_paths

    folder = comfy.base / "output" / FOLDER
    folder.mkdir()
    folder_paths.add_model_folder_path("loras", str(folder), is_default=True)
    yield folder


def loaded(graph: Any, name: str, dtype: str = "fp32") -> tuple[Any, Any]:
    model = graph("ResShiftLoader", model_name=name, preset="auto", dtype=dtype)
    return model, graph("ResShiftVAELoader", vae_name="bundled: pixel latent x4", dtype="auto")


def trained_by(graph: Any, model: Any, pairs: Any, **settings: Any) -> Any:
    from pack.tests.support.graph import defaults, output

    inputs = {"training_dtype": "fp32", "lora_dtype": "fp32", "gradient_checkpointing": False}
    return graph(
        "TrainLoraNode",
        **{**defaults("TrainLoraNode"), **inputs, **settings},
        model=model,
        latents=pairs,
        positive=output(pairs, 1),
    )


def pairs_of(graph: Any, model: Any, vae: Any, clean: Tensor, low: Tensor | None = None) -> Any:
    return graph(
        "ResShiftTrainingPairs",
        model=model,
        vae=vae,
        clean=graph.give("IMAGE", clean),
        degraded=graph.give("IMAGE", damaged(clean) if low is None else low),
    )


def pictures(count: int, seed: int) -> Tensor:
    from pack.tests.support.tiny import picture

    return picture(4 * SIDE, 4 * SIDE, batch=count, seed=seed)


def train_and_judge(
    comfy: InProcessComfy, folder: Path, base: str, dtype: str, **settings: Any
) -> Trained:
    """Train, save, load with the stock loader, and restore pictures that were held back."""
    from pack.tests.support.graph import Graph, output, restored

    torch.manual_seed(0)  # ComfyUI's node draws adapters and noise levels from torch's generator
    graph = Graph(comfy)
    model, vae = loaded(graph, base, dtype)
    lora = trained_by(graph, model, pairs_of(graph, model, vae, pictures(LEARNT, 0)), **settings)
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
        result = graph.run(image=restored(graph, model, vae, graph.give("IMAGE", damaged(held_back))))
        errors.append(F.mse_loss(result, held_back).item())
    return Trained(losses, file.name, *errors)


@pytest.fixture(scope="module")
def trained(comfy: InProcessComfy, base_model: str, lora_folder: Path) -> Trained:
    return train_and_judge(
        comfy, lora_folder, base_model, "fp32", steps=STEPS, learning_rate=5e-3, rank=4
    )


def test_the_loss_falls_to_a_third(trained: Trained):
    first, last = (sum(part) for part in (trained.losses[:20], trained.losses[-20:]))
    print(first / 20, last / 20, trained)
    assert last < first / 3
