"""Thousands of damaged weight files, given to every loader."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest

from pack.model_loaders.checkpoint import read_checkpoint
from pack.model_loaders.la_control_net import load_la_control_net
from pack.model_loaders.resshift import load_resshift, load_vq_vae
from pack.model_loaders.restoration_network import load_restoration_network
from pack.tests.support.diffbir import HEAD_CHANNELS, control_weights
from pack.tests.support.mutation import (
    Intruder,
    Weights,
    as_safetensors,
    as_zip_pickle,
    mutate_safetensors,
    mutate_weights,
    mutate_zip_pickle,
)
from pack.tests.support.restoration import tiny_esrgan
from pack.tests.support.tiny import TINY_RECORD, random_unet_weights, random_vq_weights

pytestmark = pytest.mark.comfy

# More than any tiny file, read and built, needs; less than what a wrong length asks for.
ROOM_BYTES = 2 * 2**30
FEW, MANY = 75, 700


class Case(NamedTuple):
    load: Callable[[Path], Any]
    weights: Callable[[], Weights]
    metadata: dict[str, str]


CASES = {
    "ResShift model": Case(
        load_resshift, random_unet_weights, {"resshift_config": TINY_RECORD.to_json()}
    ),
    "ResShift VAE": Case(load_vq_vae, random_vq_weights, {}),
    "LAControlNet": Case(
        lambda path: load_la_control_net(path, head_channels=HEAD_CHANNELS), control_weights, {}
    ),
    "restoration network": Case(load_restoration_network, tiny_esrgan, {}),
}


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let this process get no more than `ROOM_BYTES` on top of what it has, where that is known."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (psutil.Process().memory_info().vms + ROOM_BYTES, before[1])
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def damaged_file(weights: Weights, metadata: dict[str, str], trap: Path, seed: int) -> Path:
    """Write a damaged file of either format next to `trap`, which code in it would make."""
    random = np.random.default_rng(seed)
    damages_weights = random.integers(3) == 0
    if damages_weights:
        weights = mutate_weights(weights, random)
    if random.integers(2):
        path = trap.with_name(f"damaged_{seed}.safetensors")
        content = as_safetensors(weights, metadata)
        path.write_bytes(content if damages_weights else mutate_safetensors(content, random))
        return path
    path = trap.with_name(f"damaged_{seed}.pth")
    held: dict[str, Any] = {"state_dict": weights}
    if random.integers(4) == 0:
        held["options"] = Intruder(trap)
    content = as_zip_pickle(held)
    path.write_bytes(content if damages_weights else mutate_zip_pickle(content, random))
    return path


def outcome(load: Callable[[Path], Any], path: Path) -> str:
    """Return what came of loading; an exception that no loader documents goes on."""
    try:
        load(path)
    except (ValueError, FileNotFoundError) as error:
        named = f"'{path.name}'" in str(error)
        return type(error).__name__ if named else f"without the file's name: {error!r}"
    return "good"


def outcomes_of(kind: str, folder: Path, seeds: range) -> Counter[str]:
    """Load damaged files and return how often each outcome came.

    A file that raises something else stays in the folder under its seed.
    """
    case = CASES[kind]
    weights = case.weights()
    trap = folder / "made_by_code"
    outcomes: Counter[str] = Counter()
    with limited_memory():
        for seed in seeds:
            path = damaged_file(weights, case.metadata, trap, seed)
            outcomes.update(outcome(load, path) for load in (read_checkpoint, case.load))
            assert not trap.exists(), path.name
            path.unlink()
    return outcomes


@pytest.mark.parametrize("kind", CASES)
def test_a_damaged_file_loads_or_is_refused_by_name(tmp_path, kind):
    outcomes = outcomes_of(kind, tmp_path, range(FEW))
    assert set(outcomes) == {"good", "ValueError", "UnsupportedCheckpointError"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_of_thousands_of_damaged_files_each_loads_or_is_refused_by_name(tmp_path, kind):
    outcomes = outcomes_of(kind, tmp_path, range(FEW, FEW + MANY))
    assert set(outcomes) == {"good", "ValueError", "UnsupportedCheckpointError"}


def test_code_in_a_whole_file_does_not_run(tmp_path):
    trap = tmp_path / "made_by_code"
    path = tmp_path / "evil.pth"
    path.write_bytes(as_zip_pickle({"state_dict": random_vq_weights(), "options": Intruder(trap)}))
    with pytest.raises(ValueError, match="holds more than weights"):
        load_vq_vae(path)
    assert not trap.exists()
