"""Nodes that stand for the workflow's loading and saving nodes while it runs in this process."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def picture_node(handed: dict[str, tuple], loader: Any) -> type:
    """Return a node class that stands for the workflow's loading node and gives what was read."""

    class RestorationFolderPicture:
        RETURN_TYPES = tuple(loader.RETURN_TYPES)
        OUTPUT_IS_LIST = tuple(
            getattr(loader, "OUTPUT_IS_LIST", None) or [False] * len(RETURN_TYPES)
        )
        FUNCTION = "give"
        CATEGORY = "restoration"

        @classmethod
        def INPUT_TYPES(cls) -> dict:  # noqa: N802 - ComfyUI's name
            return {"required": {"token": ("STRING", {})}}

        def give(self, token: str) -> tuple:
            return handed[token]

    return RestorationFolderPicture


def result_node(taken: dict[str, list[torch.Tensor]]) -> type:
    """Return a node class that takes the images which arrive at a result."""

    class RestorationFolderResult:
        RETURN_TYPES = ()
        OUTPUT_NODE = True
        FUNCTION = "take"
        CATEGORY = "restoration"

        @classmethod
        def INPUT_TYPES(cls) -> dict:  # noqa: N802 - ComfyUI's name
            return {"required": {"images": ("IMAGE",), "place": ("STRING", {})}}

        def take(self, images: torch.Tensor, place: str) -> tuple:
            taken.setdefault(place, []).extend(images)
            return ()

    return RestorationFolderResult


def as_loaded(frames: np.ndarray, loader: Any) -> tuple:
    """Return frames as Load Image gives a batch of opaque pictures: IMAGE and MASK.

    Args:
        frames: `(N, H, W, 3)` of 8 or 16 bits.
        loader: The class whose outputs they stand for.
    """
    if tuple(loader.RETURN_TYPES)[:1] != ("IMAGE",):
        raise ValueError("The node that loads pictures gives no IMAGE first, so it takes no video.")
    images = torch.from_numpy(frames.astype(np.float32) / np.iinfo(frames.dtype).max)
    masks = torch.zeros((len(frames), 64, 64))
    return (images, masks)[: len(loader.RETURN_TYPES)]
