from __future__ import annotations

import torch

from pack.images.charts import Panel, draw_panels


def curve_rows(chart: torch.Tensor, column: int) -> torch.Tensor:
    """Return the rows in which a column is of the curve's blue."""
    blue = (chart[2] - chart[0] > 0.3)[:, column]
    return blue.nonzero().flatten()


def test_panels_lie_below_each_other():
    panels = [Panel("a", [0, 10], [0, 1]), Panel("b", [0, 10], [1, 0])]
    chart = draw_panels(panels, 400, 200)
    assert chart.shape == (3, 400, 400)
    for half in chart.chunk(2, dim=1):
        assert (half[2] - half[0] > 0.3).any()


def test_a_rising_curve_rises():
    chart = draw_panels([Panel("a", list(range(11)), list(range(11)))], 400, 200)
    early, late = (curve_rows(chart, column).float().mean() for column in (100, 350))
    assert late < early - 50


def test_what_is_not_finite_is_left_out():
    values = [1.0, float("nan"), 3.0]
    chart = draw_panels([Panel("a", [0, 1, 2], values)], 400, 200)
    assert torch.equal(chart, draw_panels([Panel("a", [0, 2], [1.0, 3.0])], 400, 200))


def test_flat_short_and_empty_curves_are_drawn():
    for steps, values in (([], []), ([5], [2.0]), ([0, 5], [2.0, 2.0]), ([0, 5], [0.0, 0.0])):
        assert draw_panels([Panel("a", steps, values)], 300, 150).isfinite().all()
