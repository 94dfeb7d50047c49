"""Results of several settings in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management
import torch
from torch import Tensor

from ..images.conversion import image_to_planes, planes_to_image
from ..images.labels import label_grid
from ..images.resize import resize_bicubic


def compare_pictures(
    images: Sequence[Tensor], labels: str, columns: int, label_height: int
) -> Tensor:
    """Return a grid of the images with a label over each.

    Args:
        images: IMAGEs in the order of the grid, of any sizes; they are resized to the first one's.
            Picture k of their batches makes grid k, and a single picture stands in every grid.
        labels: One line for each image; blank altogether leaves the labels out.
        columns: Images in a row; 0 puts all into one.
        label_height: Height of a label in pixels; 0 leaves the labels out.
    Returns:
        IMAGE `(B, H, W, 3)`, B the length of the longest batch. Alpha is dropped.
    Raises:
        ValueError: If there is no image, their batches do not fit, or there are more or fewer
            labels than images.
    """
    if not images:
        raise ValueError("there is nothing to compare; connect at least one image")
    lines = _label_lines(labels, len(images))
    batches = [
        image_to_planes(image, f"'image{number}'")[0].clamp(0, 1)
        for number, image in enumerate(images)
    ]
    height, width = batches[0].shape[-2:]
    longest = max(batch.shape[0] for batch in batches)
    for number, batch in enumerate(batches):
        if batch.shape[0] not in (1, longest):
            raise ValueError(
                f"'image{number}' has {batch.shape[0]} pictures and another input has {longest};"
                " give each one picture or as many as the others."
            )
    resized = [resize_bicubic(batch, height, width).clamp(0, 1) for batch in batches]
    grids = []
    for k in range(longest):
        comfy.model_management.throw_exception_if_processing_interrupted()
        grids.append(
            label_grid(
                [batch[min(k, batch.shape[0] - 1)] for batch in resized],
                lines or [""] * len(images),
                columns or len(images),
                label_height if lines else 0,
            )
        )
    return planes_to_image(torch.stack(grids))


def _label_lines(labels: str, count: int) -> list[str]:
    if not labels.strip():
        return []
    lines = [line.strip() for line in labels.rstrip().splitlines()]
    if len(lines) != count:
        raise ValueError(
            f"'labels' has {len(lines)} lines for {count} images; write one line for each image, or"
            " none."
        )
    return lines
