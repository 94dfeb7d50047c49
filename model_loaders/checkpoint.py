"""Reading of weight files: what ComfyUI accepts, unwrapped, and refused with a reason."""

from __future__ import annotations

import errno
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .released import download_advice

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
RECORD_KEY = "resshift_config"

# Added around a network's keys by data parallel training and by torch.compile.
TRAINING_PREFIXES = ("module.", "_orig_mod.")

# Under which training code keeps the weights, the best first: averaged before last weights.
WRAPPER_KEYS = (
    "state_dict",
    "params_ema",
    "params-ema",
    "params",
    "model_state_dict",
    "model",
    "net",
)

# What torch's weights-only reader raises on damaged files, besides UnpicklingError.
DAMAGED_PICKLE_ERRORS = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
)

# What detecting and building a network raise on weights that begin like one and do not make it.
BROKEN_WEIGHTS_ERRORS = (
    RuntimeError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)

# (a pattern some key matches, what such a file is and where it belongs)
KNOWN_FILES = (
    (r"\.lora_(down|up|A|B)\.|^lora_", "a LoRA; load it with Load LoRA"),
    (r"input_hint_block\.|controlnet", "a ControlNet; load it with Load ControlNet Model"),
    (
        r"^control_model\.|^zero_convs\.",
        "a LAControlNet; load it with Load LAControlNet (DiffBIR)",
    ),
    (r"^cond_stage_model\.|^conditioner\.", "a full checkpoint; load it with Load Checkpoint"),
    (
        r"^middle_block\.1\.(patch_embed|blocks)\.",
        "a ResShift model; load it with Load ResShift Model",
    ),
    (
        r"^layers\.\d+\.residual_group\.",
        "a SwinIR; load it with Load Restoration Network (SwinIR, BSRNet, SCUNet)",
    ),
    (r"^quantize\.embedding\.weight$", "a VQ autoencoder; load it with Load ResShift VAE"),
    (
        r"^(encoder|decoder)\.(down|up|mid)",
        "an autoencoder; load it with Load VAE, or the checkpoint that holds it with Load Checkpoint",
    ),
    (r"RDB\d|^body\.\d|conv_first", "an upscale network; load it with Load Upscale Model"),
    (
        r"transformer_blocks\.",
        "a diffusion model of another kind; load it with Load Checkpoint or Load Diffusion Model",
    ),
)


class UnsupportedCheckpointError(ValueError):
    """A file that can be read but is not the model that was asked for.

    Attributes:
        path: The file.
        keys: Up to three keys that tell.
    """

    def __init__(self, path: Path, reason: str, keys: Iterable[str] = ()):
        self.path = path
        self.keys = tuple(keys)[:3]
        told = f" (for example {', '.join(self.keys)})" if self.keys else ""
        super().__init__(f"'{path.name}' {reason}{told}.")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file and the text of its header.

    Attributes:
        path: The file.
        state_dict: Tensors by key, wrappers and prefixes removed.
        metadata: Header of a safetensors file, empty for others.
    """

    path: Path
    state_dict: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path, *, inner_prefix: str = "") -> Checkpoint:
    """Return the tensors of a weight file on the CPU, in the dtypes they are stored in.

    Args:
        path: A safetensors file or a pickle of tensors (.pth, .pt, .ckpt, .bin), bare or wrapped
            in `state_dict` or another of `WRAPPER_KEYS`, with the prefixes of parallel training
            and of torch.compile, repeated.
        inner_prefix: Prefix of the wanted part in files that hold several, such as
            `model.diffusion_model.`; the rest is left out.
    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or would have to run code to be read.
        UnsupportedCheckpointError: If it holds no weights, or quantised ones.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"'{path.name}' is not there any more. Put it back or choose another file."
            f"{download_advice(path.name)}"
        )
    if path.suffix.lower() in SAFETENSORS_SUFFIXES:
        content, metadata = _read_safetensors(path)
    else:
        content, metadata = _read_pickle(path), {}
    state_dict = _unwrap(content, inner_prefix)
    if not any(key != RECORD_KEY for key in state_dict):
        raise UnsupportedCheckpointError(path, "holds no weights; choose another file")
    _check_dtypes(path, state_dict)
    return Checkpoint(path, state_dict, metadata)


@contextmanager
def refuses_broken_weights(checkpoint: Checkpoint, network: str) -> Iterator[None]:
    """Turn what wrong keys and shapes raise in detecting or building into an error on the file.

    Args:
        checkpoint: Where the weights come from.
        network: What they should make, with its article.
    Raises:
        UnsupportedCheckpointError: If the block raises one of `BROKEN_WEIGHTS_ERRORS`.
    """
    try:
        yield
    except UnsupportedCheckpointError:
        raise
    except BROKEN_WEIGHTS_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise UnsupportedCheckpointError(
            checkpoint.path,
            f"has keys of {network}, but its tensors do not make one"
            f" ({type(error).__name__}: {reason}); download it again or choose another file",
            checkpoint.state_dict,
        ) from error


def check_weights(module: nn.Module, checkpoint: Checkpoint, weights: dict[str, Tensor]) -> None:
    """Make sure that weights have exactly the keys and shapes of a network.

    Args:
        module: The network.
        checkpoint: Where the weights come from, for the message.
        weights: The weights.
    Raises:
        UnsupportedCheckpointError: If keys are missing or left over, or a shape differs.
    """
    expected = _expected_shapes(module)
    missing = [key for key in expected if key not in weights]
    if missing:
        raise UnsupportedCheckpointError(
            checkpoint.path,
            f"lacks {len(missing)} of the {len(expected)} tensors of this network; download it"
            " again or choose another file",
            missing,
        )
    unexpected = [key for key in weights if key not in expected]
    if unexpected:
        raise UnsupportedCheckpointError(
            checkpoint.path,
            f"has {len(unexpected)} tensors that this network does not have; choose another file",
            unexpected,
        )
    misshapen = [
        f"{key}: {tuple(weights[key].shape)} where {shape} belongs"
        for key, shape in expected.items()
        if tuple(weights[key].shape) != shape
    ]
    if misshapen:
        raise UnsupportedCheckpointError(
            checkpoint.path,
            "has tensors of other shapes than this network; choose another file",
            misshapen,
        )


def _expected_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    # ComfyUI's Linear has no weights before they are loaded where its memory is dynamic.
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and layer.weight is None:
            prefix = f"{name}." if name else ""
            shapes[f"{prefix}weight"] = (layer.out_features, layer.in_features)
            if layer.comfy_need_lazy_init_bias:
                shapes[f"{prefix}bias"] = (layer.out_features,)
    return shapes


def describe_file(state_dict: dict[str, Tensor]) -> tuple[str, list[str]]:
    """Return what a file that is not the wanted model seems to be, and the keys that tell."""
    for pattern, description in KNOWN_FILES:
        found = [key for key in state_dict if re.search(pattern, key)]
        if found:
            return f"looks like {description}", found[:3]
    return "holds a network that is not known here; choose another file", list(state_dict)[:3]


def _check_dtypes(path: Path, state_dict: dict[str, Tensor]) -> None:
    # Copied into a network, whole numbers of a quantised file would pass for weights.
    other = [
        f"{key}: {str(tensor.dtype).removeprefix('torch.')}"
        for key, tensor in state_dict.items()
        if key.endswith(".weight") and not tensor.is_floating_point()
    ]
    if other:
        raise UnsupportedCheckpointError(
            path,
            f"has {len(other)} weights that are not floating-point numbers, as quantised files do;"
            " choose a file in fp32, fp16 or bf16",
            other,
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(
            f"'{path.name}' is not a whole safetensors file ({error}). It is truncated or another"
            f" kind of file: download it again.{download_advice(path.name)}"
        ) from error


def _read_pickle(path: Path) -> object:
    try:
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise ValueError(
                f"'{path.name}' holds more than weights, and reading that could run code from the"
                " file, so it is refused. If you trust its source, convert it once with"
                " \"python -c 'import torch, safetensors.torch as s;"
                f' d = torch.load("{path.name}", weights_only=False, map_location="cpu");'
                ' d = d.get("state_dict", d); s.save_file({k: v.contiguous() for k, v in d.items()'
                ' if torch.is_tensor(v)}, "converted.safetensors")\'" and load the result.'
            ) from error
        raise _damaged(path, error) from error
    except DAMAGED_PICKLE_ERRORS as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # what a wrong place in the file to go to raises
            raise
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> ValueError:
    first_line = str(error).split("\n", 1)[0] or type(error).__name__
    return ValueError(
        f"'{path.name}' cannot be read as a PyTorch file ({first_line}). It is truncated or another"
        f" kind of file: download it again.{download_advice(path.name)}"
    )


def _unwrap(content: object, inner_prefix: str) -> dict[str, Tensor]:
    while isinstance(content, dict):
        wrapped = [content[key] for key in WRAPPER_KEYS if isinstance(content.get(key), dict)]
        if not wrapped:
            break
        content = wrapped[0]
    if not isinstance(content, dict):
        return {}
    tensors = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    record = tensors.pop(RECORD_KEY, None)
    stripped = True
    while stripped:
        stripped = False
        if inner_prefix and any(key.startswith(inner_prefix) for key in tensors):
            tensors = {key: value for key, value in tensors.items() if key.startswith(inner_prefix)}
            tensors = _without_prefix(tensors, inner_prefix)
            stripped = True
        for prefix in TRAINING_PREFIXES:
            if tensors and all(key.startswith(prefix) for key in tensors):
                tensors = _without_prefix(tensors, prefix)
                stripped = True
    if record is not None:
        tensors[RECORD_KEY] = record
    return tensors


def _without_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items()}
