"""What counts as free memory, and what as its end."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
from torch import nn

from pack.pipelines.memory import is_out_of_memory, room_beside
from pack.pipelines.stage_one import estimate_memory, remove_degradation, stage_one_tile
from pack.tests.support.restoration import descriptor, tiny_esrgan
from pack.tests.support.tiny import picture

pytestmark = pytest.mark.comfy

CPU = torch.device("cpu")
CARD = torch.device("meta")  # stands for a card: nothing is computed on it here
FREE = 1 << 20
SIZE = 4 * 1024


def network(offload: torch.device = CPU, loaded: int = 0) -> Any:
    """Return a patcher of 4 KiB of weights, of which so many bytes are on the card."""
    patcher = comfy.model_patcher.ModelPatcher(nn.Linear(32, 32, bias=False), CARD, offload)
    patcher.model.model_loaded_weight_memory = loaded
    return patcher


@pytest.fixture
def card(monkeypatch) -> list[Any]:
    """A card of 1 MiB free; patchers in the list are loaded on it."""
    patchers: list[Any] = []
    management = comfy.model_management
    monkeypatch.setattr(management, "get_free_memory", lambda device=None, *_: FREE)
    monkeypatch.setattr(management, "loaded_models", lambda *_: patchers)
    return patchers


def test_what_comfyui_would_unload_counts_as_free(card):
    assert room_beside(network()) == FREE - SIZE
    card.append(network(loaded=3000))
    assert room_beside(network()) == FREE + 3000 - SIZE


def test_a_network_that_is_loaded_keeps_its_place(card):
    ours = network(loaded=SIZE)
    card.append(ours)
    assert room_beside(ours) == FREE
    assert room_beside(ours.clone(), ours, network()) == FREE - SIZE


def test_what_stays_on_the_card_does_not_count(card):
    card.append(network(offload=CARD, loaded=3000))
    assert room_beside(network()) == FREE - SIZE


def test_where_memory_is_shared_unloading_frees_none(card, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "is_device_mps", lambda device: True)
    card.append(network(loaded=3000))
    assert room_beside(network(loaded=1000)) == FREE - SIZE + 1000


@pytest.mark.parametrize(
    "message",
    [
        "MPS backend out of memory (MPS allocated: 8.24 GB, other allocations: 9.3 GB, max allowed:"
        " 18.13 GB). Tried to allocate 4.50 GB on private pool.",
        "Could not allocate tensor with 4831838208 bytes. There is not enough GPU video memory"
        " available!",
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory:"
        " you tried to allocate 400000000000 bytes. Error code 12 (Cannot allocate memory)",
    ],
)
def test_every_allocator_s_words_for_the_end_of_memory_are_known(message):
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_stage_one_asks_for_all_its_layers(monkeypatch):
    asked: list[dict[str, Any]] = []
    made = descriptor(tiny_esrgan())
    made.patcher = comfy.model_patcher.ModelPatcher(made.model, CPU, CPU)
    load = comfy.model_management.load_models_gpu

    def watch(models: Any, **options: Any) -> Any:
        asked.append(options)
        return load(models, **options)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", watch)
    expected = remove_degradation(descriptor(tiny_esrgan()), picture(16, 16)).image
    assert torch.equal(remove_degradation(made, picture(16, 16)).image, expected)
    assert [options["force_full_load"] for options in asked] == [True]
    state = comfy.model_management.VRAMState.NO_VRAM
    monkeypatch.setattr(comfy.model_management, "vram_state", state)
    assert torch.equal(remove_degradation(made, picture(16, 16)).image, expected)
    assert len(asked) == 1, "--novram loads no layer for good, so ComfyUI is not asked"


def test_stage_one_s_tile_counts_what_comfyui_would_unload(card, monkeypatch):
    made = descriptor(tiny_esrgan())
    made.patcher = comfy.model_patcher.ModelPatcher(made.model, CARD, CPU)
    needed = 1.5 * estimate_memory(made, (128, 128), 128) + made.patcher.model_size()
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device=None, *_: 1000)
    assert stage_one_tile(made) == 64
    card.append(network(loaded=int(needed)))
    assert stage_one_tile(made) == 128
