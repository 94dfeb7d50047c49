"""The motion between frames, by an optical flow model of ComfyUI's or without weights."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_args

import comfy.model_management
import torch
import torch.nn.functional as F
from torch import Tensor

from ..images.color import luminance
from ..images.flow import estimate_flow, resized_flow

FlowMethod = Literal["Lucas-Kanade", "DIS (OpenCV)"]
FLOW_METHODS: tuple[str, ...] = get_args(FlowMethod)

# What RAFT divides a picture by, and the side below which its correlations have no fourth level.
RAFT_MULTIPLE = 8
RAFT_LEAST = 128


def find_flow(
    frames_from: Tensor,
    frames_to: Tensor,
    method: FlowMethod = "Lucas-Kanade",
    optical_flow: Any = None,
) -> Tensor:
    """Return the flow from frames to others, as `images/flow.py` defines it.

    Args:
        frames_from: `(B, 3, H, W)` float in [0, 1], on any device.
        frames_to: Like `frames_from`.
        method: What estimates it where there is no model: the pack's own pyramid of Lucas and
            Kanade's method on the frames' device, or OpenCV's DIS on the CPU.
        optical_flow: OPTICAL_FLOW of ComfyUI's Load Optical Flow Model, or None.
    Returns:
        `(B, 2, H, W)` float32 on the frames' device.
    Raises:
        ValueError: If OpenCV is asked for and missing, or `optical_flow` is something else.
    """
    if optical_flow is not None:
        return _raft_flow(frames_from, frames_to, optical_flow)
    if method == "DIS (OpenCV)":
        return _dis_flow(frames_from, frames_to)
    return estimate_flow(frames_from, frames_to)


def check_flow_method(method: str) -> None:
    """Make sure that a method can run here, before frames are read.

    Raises:
        ValueError: If it is unknown, or OpenCV's and OpenCV is not installed.
    """
    if method not in FLOW_METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(FLOW_METHODS)}")
    if method == "DIS (OpenCV)" and find_spec("cv2") is None:
        raise ValueError(
            f"'{method}' needs the package opencv-python, which is not installed; run 'pip install"
            " opencv-python-headless' in ComfyUI's environment and start ComfyUI again, or choose"
            " 'Lucas-Kanade'"
        )


def _dis_flow(frames_from: Tensor, frames_to: Tensor) -> Tensor:
    check_flow_method("DIS (OpenCV)")
    cv2 = import_module("cv2")
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey_from, grey_to = (
        (luminance(frames.float().clamp(0, 1)) * 255).round().to("cpu", torch.uint8).numpy()
        for frames in (frames_from, frames_to)
    )  # (B, 1, H, W) each
    flows = [
        torch.from_numpy(estimator.calc(one[0], other[0], None)).movedim(-1, 0)
        for one, other in zip(grey_from, grey_to, strict=True)
    ]
    return torch.stack(flows).to(frames_from.device)


def _raft_flow(frames_from: Tensor, frames_to: Tensor, optical_flow: Any) -> Tensor:
    if not isinstance(getattr(optical_flow, "model", None), torch.nn.Module):
        raise ValueError(
            f"'optical_flow' is {type(optical_flow).__name__}, not an optical flow model; connect"
            " ComfyUI's Load Optical Flow Model."
        )
    height, width = frames_from.shape[-2:]
    size = tuple(
        max(RAFT_LEAST, -(-side // RAFT_MULTIPLE) * RAFT_MULTIPLE) for side in (height, width)
    )
    comfy.model_management.load_model_gpu(optical_flow)
    device = optical_flow.load_device
    first, second = (
        F.interpolate(
            frames.float().to(device), size, mode="bilinear", align_corners=False, antialias=True
        )
        * 2
        - 1
        for frames in (frames_from, frames_to)
    )  # (B, 3, size), in [-1, 1]
    with torch.no_grad():
        flow = optical_flow.model(first, second)[-1]  # of each refinement; the last is the best
    return resized_flow(flow.float(), (height, width)).to(frames_from.device)
