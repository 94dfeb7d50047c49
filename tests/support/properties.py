"""How property tests draw: the same examples in every run, and pictures from a seed."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

# Times belong to benchmarks, and a failure must come again; nothing is stored between runs.
EVERY = settings(derandomize=True, deadline=None, database=None, max_examples=60)

sides = st.integers(1, 40)
batches = st.integers(1, 3)
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])


def noise(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return values in [0, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
