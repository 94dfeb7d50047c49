"""Reads golden cases and makes the weights that their rule names."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"


def golden_case(name: str) -> tuple[dict, dict[str, Tensor]]:
    """Return the description and the tensors of the golden case `name`, such as `resshift/b0_swin_layer`."""
    description = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return description, load_file(GOLDEN / f"{name}.safetensors")


def golden_manifest(name: str) -> dict:
    """Return what is known of a released file: `keys` (key, shape, dtype) and `num_parameters`."""
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def golden_weights(keys: list, seed: int) -> dict[str, Tensor]:
    """Return the weights that the golden data were made with: every key drawn by itself from `seed`."""
    return {key: _golden_weight(key, tuple(shape), seed) for key, shape in keys}


def _golden_weight(key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = np.random.default_rng([seed, zlib.crc32(key.encode("utf-8"))])
    values = generator.standard_normal(shape)
    last = key.rsplit(".", 1)[-1]
    if last == "relative_position_bias_table" or key.endswith("quantize.embedding.weight"):
        values = 0.5 * values
    elif len(shape) == 1:
        values = 1 + 0.1 * values if last == "weight" else 0.05 * values
    elif len(shape) >= 2:
        values = values / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Fail with the size and the place of the error if it exceeds `tolerance` anywhere."""
    assert actual.shape == expected.shape, (
        f"shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    )
    assert torch.isfinite(actual).all(), "not finite"
    error = (actual.double() - expected.double()).abs()
    if error.max() > tolerance:
        place = np.unravel_index(int(error.argmax()), tuple(error.shape))
        raise AssertionError(
            f"max error {error.max():.3e} at {tuple(int(i) for i in place)} exceeds {tolerance:.1e};"
            f" mean error {error.mean():.3e}, range {expected.min():.3g} to {expected.max():.3g}"
        )
