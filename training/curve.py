"""The curve of a training: its loss and its validation figures over the steps."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

LEVELS = {"heavy": "tab:red", "light": "tab:blue"}
FIGURES = {
    "ssim": "SSIM to the original",
    "teacher_ssim": "SSIM to the teacher's picture",
    "feature": "feature distance to the original",
    "energy": "gradient energy over the teacher's",
}
# Rows of losses averaged for the line; the dots are the rows.
SMOOTHING = 15


def draw_curve(run_folder: Path, path: Path) -> None:
    """Write the curves of a run as a PNG.

    Args:
        run_folder: Has `losses.csv` and `validation.csv`, as the trainer writes them.
        path: The picture.
    """
    losses = read_columns(run_folder / "losses.csv")
    validation = read_columns(run_folder / "validation.csv")
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.5), constrained_layout=True)
    for axis, name in zip(axes[:, 0], ("absolute", "structure"), strict=True):
        axis.plot(losses["step"], losses[name], ".", color="lightgrey", markersize=3)
        axis.plot(losses["step"], smoothed(losses[name]), color="black")
        axis.set_title(f"loss: {name}")
    for axis, (name, title) in zip(axes[:, 1:].flat, FIGURES.items(), strict=True):
        for level, colour in LEVELS.items():
            axis.plot(validation["step"], validation[f"{level}_{name}"], color=colour, label=level)
        axis.set_title(title)
        axis.legend()
    for axis in axes.flat:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a CSV file of numbers by name."""
    with path.open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return the running mean over the last `SMOOTHING` values, fewer at the beginning."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    last = np.arange(1, len(sums))
    first = np.maximum(0, last - SMOOTHING)
    return (sums[last] - sums[first]) / (last - first)
