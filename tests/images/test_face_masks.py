"""The masks that restored faces are blended with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pack.images.face_masks import mean_oval, oval_weight, square_weight


def shares(size: int) -> torch.Tensor:
    at = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y], dim=-1)


def published_square(size: int) -> torch.Tensor:
    """Return the published mask step by step: ones, eroded, blurred as OpenCV does."""
    ones = F.pad(torch.ones(1, 1, size, size, dtype=torch.float64), (size,) * 4)
    radius = size // 20
    eroded = 1 - F.max_pool2d(1 - ones, 2 * radius + 1, 1, radius)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    deviation = 0.3 * (radius - 1) + 0.8
    kernel = torch.exp(-offsets.square() / (2 * deviation**2))
    kernel = kernel / kernel.sum()
    blurred = F.conv2d(eroded, kernel.view(1, 1, 1, -1), padding=(0, radius))
    blurred = F.conv2d(blurred, kernel.view(1, 1, -1, 1), padding=(radius, 0))
    return blurred[0, 0, size : 2 * size, size : 2 * size]


def test_the_soft_square_is_the_published_one():
    # 0.08: the published deviation has 0.5 px of its own, the erosion is by whole pixels.
    assert (square_weight(shares(200)) - published_square(200)).abs().max() < 0.08


def test_the_soft_square_is_1_inside_0_outside_and_falls_between():
    weight = square_weight(shares(400))
    assert (weight[41:-41, 41:-41] == 1).all()
    middle = weight[200, :60]
    assert (middle.diff() >= 0).all()
    assert middle[0] < 1e-3
    outside = torch.tensor([[-0.1, 0.5], [0.5, 1.0], [1.3, 1.3]], dtype=torch.float64)
    assert square_weight(outside).tolist() == [0, 0, 0]


def test_the_oval_is_1_well_inside_and_0_well_outside():
    weight = oval_weight(shares(128), mean_oval())
    assert weight[75, 64] == 1
    assert weight[5, 64] == weight[75, 3] == weight[127, 0] == 0
    assert 0 < (weight > 0.5).float().mean() < 0.5


def test_the_oval_of_any_outline_is_half_on_its_edge():
    triangle = torch.tensor([[0.2, 0.2], [0.8, 0.2], [0.5, 0.9]])
    edge = torch.tensor([[0.5, 0.2], [0.35, 0.55]], dtype=torch.float64)
    assert oval_weight(edge, triangle).tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    concave = torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.5, 0.4], [0.1, 0.9]])
    found = oval_weight(torch.tensor([[0.5, 0.8], [0.5, 0.22]], dtype=torch.float64), concave)
    assert found[0] == 0
    assert found[1] > 0.9


def test_masks_do_not_depend_on_the_side():
    small, large = square_weight(shares(64)), square_weight(shares(512))
    assert np.allclose(F.avg_pool2d(large[None, None], 8)[0, 0], small, atol=0.02)
