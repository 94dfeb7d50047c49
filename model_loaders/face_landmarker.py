"""Loading of the face detector and face mesh that ship with the pack."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
from safetensors import safe_open
from torch import Tensor

from .networks.layer_list import Layer, LayerListNetwork
from .patcher import wrap_network

BUNDLED_FACES_PATH = Path(__file__).parent / "bundled" / "face_landmarks.safetensors"
TOPOLOGY = "topology."
# What ComfyUI's own nodes draw as contours, and as all.
CONTOURS = ("face_oval", "left_eye", "right_eye", "left_eyebrow", "right_eyebrow", "lips")
BEYOND_CONTOURS = ("irises", "nose")

ConnectionSets = dict[str, frozenset[tuple[int, int]]]


@dataclass(frozen=True)
class FaceLandmarker:
    """MediaPipe's networks in ComfyUI's care.

    Attributes:
        detector: Takes `(B, 3, 192, 192)` in [-1, 1], black around the picture; gives scores
            `(B, 2304, 1)` and boxes with key points `(B, 2304, 16)`.
        mesh: Takes `(B, 3, 256, 256)` in [0, 1]; gives 478 points `(B, 1434, 1, 1)` in its pixels
            and the logit of a face being there.
        connection_sets: Pairs of the mesh's points that belong together, by ComfyUI's names.
    """

    detector: comfy.model_patcher.ModelPatcher
    mesh: comfy.model_patcher.ModelPatcher
    connection_sets: ConnectionSets

    def load(self) -> None:
        """Bring both networks to the device."""
        comfy.model_management.load_models_gpu([self.detector, self.mesh])


def load_face_landmarker() -> FaceLandmarker:
    """Return the networks of the bundled file, in float32, offloaded."""
    with safe_open(BUNDLED_FACES_PATH, "pt") as opened:
        header = opened.metadata()
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    sets: Any = {
        key.removeprefix(TOPOLOGY): frozenset(map(tuple, tensor.tolist()))
        for key, tensor in tensors.items()
        if key.startswith(TOPOLOGY)
    }
    sets["contours"] = frozenset().union(*(sets[name] for name in CONTOURS))
    sets["all"] = sets["contours"].union(*(sets[name] for name in BEYOND_CONTOURS))
    detector, mesh = (_network(name, header[name], tensors) for name in ("detector", "mesh"))
    return FaceLandmarker(detector, mesh, sets)


def _network(
    name: str, listed: str, tensors: dict[str, Tensor]
) -> comfy.model_patcher.ModelPatcher:
    graph = json.loads(listed)
    layers = [
        Layer(
            layer["kind"],
            tuple(layer["inputs"]),
            layer["output"],
            tuple(layer["weights"]),
            layer["options"],
        )
        for layer in graph["layers"]
    ]
    prefix = f"{name}."
    own = {
        key.removeprefix(prefix): t.float() for key, t in tensors.items() if key.startswith(prefix)
    }
    return wrap_network(
        LayerListNetwork(layers, graph["outputs"], own),
        comfy.model_management.get_torch_device(),
        comfy.model_management.unet_offload_device(),
        disable_dynamic=True,  # its layers are not ComfyUI's, which alone cast as they go
    )
