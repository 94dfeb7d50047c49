"""What holds of a whole restoration with the bundled model at any size, batch and dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pack.images.color import COLOR_FIXES
from pack.model_loaders.resshift import bundled_vae, load_bundled_model
from pack.pipelines.restore_resshift import restore_with_resshift
from pack.tests.support.properties import EVERY, dtypes, noise, seeds, sides

pytestmark = pytest.mark.comfy

SCALE = 4


@pytest.fixture(scope="module")
def pair():
    return load_bundled_model(dtype="fp32"), bundled_vae()


@settings(EVERY, max_examples=12)
@given(
    batch=st.integers(1, 2),
    height=sides,
    width=sides,
    channels=st.integers(1, 4),
    dtype=dtypes,
    color_fix=st.sampled_from(COLOR_FIXES),
    spread=st.sampled_from([1, 3]),
    seed=seeds,
)
def test_a_restored_picture_is_four_times_as_large_and_a_proper_image(
    pair, batch, height, width, channels, dtype, color_fix, spread, seed
):
    image = (noise(seed, batch, height, width, channels) * spread - (spread - 1) / 2).to(dtype)
    with torch.inference_mode():
        restored = restore_with_resshift(*pair, image, seed=seed, steps=1, color_fix=color_fix)
    has_alpha = channels in (2, 4)
    assert restored.shape == (batch, SCALE * height, SCALE * width, 4 if has_alpha else 3)
    assert restored.dtype == torch.float32
    assert restored.device.type == "cpu"
    assert restored.is_contiguous()
    assert torch.isfinite(restored).all()
    assert 0 <= restored.min() <= restored.max() <= 1
