"""What ComfyUI patches of our networks: all of it, or a merge is a mix of two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from torch import Tensor, nn

from pack.tests.support.diffbir import tiny_control_net
from pack.tests.support.objects import (
    densely_started_pair,
    folded_pair,
    inpaint_pair,
    started_pair,
    tiny_pair,
)

pytestmark = pytest.mark.comfy

# An UPSCALE_MODEL is spandrel's network, and no node of ComfyUI patches one.
PATCHERS: dict[str, Callable[[Path], Any]] = {
    "a model on VQ latents": lambda folder: tiny_pair(folder)[0],
    "a model on folded pixels": lambda folder: folded_pair(folder)[0],
    "a model with a start": lambda folder: started_pair(folder)[0],
    "a model with a start of dense blocks": lambda folder: densely_started_pair(folder)[0],
    "a model that fills holes": lambda folder: inpaint_pair(folder)[0],
    "a VQ autoencoder": lambda folder: tiny_pair(folder)[1].patcher,
    "a control net": lambda folder: tiny_control_net(folder).control_model_wrapped,
}


@pytest.fixture(params=list(PATCHERS))
def patcher(request, tmp_path) -> Iterator[Any]:
    with torch.inference_mode():
        yield PATCHERS[request.param](tmp_path)


def passed_over(network: nn.Module) -> list[str]:
    """Return the parameters that ComfyUI patches nowhere, or not where memory is short.

    It looks at modules that hold no others, and in those of its own layers at `weight` and `bias`.
    """
    return [
        f"{name}.{key}"
        for name, module in network.named_modules()
        for key, _ in module.named_parameters(recurse=False)
        if list(module.children())
        or not hasattr(module, "comfy_cast_weights")
        or key not in ("weight", "bias")
    ]


def test_comfyui_patches_every_parameter(patcher):
    assert passed_over(patcher.model) == []


def test_a_parameter_that_comfyui_passes_over_is_told():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Parameter(torch.zeros(1))
            self.layer = nn.PReLU()

    assert passed_over(Mixed()) == [".own", "layer.weight"]


def with_other_weights(patcher: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return a clone whose patches put other weights in the place of all, and these."""
    patched = patcher.clone()
    generator = torch.Generator().manual_seed(3)
    others = {
        key: torch.randn(weight.shape, generator=generator).to(weight)
        for key, weight in patcher.model.state_dict().items()
    }
    patches = {key: ("set", (weight,)) for key, weight in others.items()}
    assert set(patched.add_patches(patches)) == others.keys()
    return patched, others


def test_patches_of_all_weights_leave_none_as_it_was(patcher):
    patched, others = with_other_weights(patcher)
    comfy.model_management.load_models_gpu([patched], force_full_load=True)
    held = patched.model.state_dict()
    assert [key for key in others if not torch.equal(held[key], others[key])] == []
