"""Reading of weight files: what ComfyUI accepts, unwrapped, and refused with a reason."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import re
import shlex
import struct
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .released import download_advice

logger = logging.getLogger("resshift-diffbir")

CONVERTER = Path(__file__).resolve().with_name("unpickle.py")
SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
RECORD_KEY = "resshift_config"

# Added around a network's keys by data parallel training and by torch.compile.
TRAINING_PREFIXES = ("module.", "_orig_mod.")

# Names that trainers give to what holds the network: Lightning's `model.`, BasicSR's `net_g.`.
HOLDER_PREFIXES = (
    "model.",
    "net.",
    "net_g.",
    "netG.",
    "network.",
    "generator.",
    "controlnet.",
    "online_model.",
)

# Prefixes of averaged weights; before the dots of keys were left out, Lightning's LitEma.
AVERAGE_PREFIXES = ("ema.", "ema_model.", "model_ema.", "params_ema.", "net_g_ema.")

# Parts of a training that are not the network.
LOSS_PREFIXES = ("loss.", "loss_fn.", "criterion.", "discriminator.", "net_d.", "lpips.")
BOOKKEEPING_KEYS = ("n_averaged", "initted", "step", "global_step")

# Under which training code keeps the averaged weights and the last ones.
AVERAGE_KEYS = (
    "params_ema",
    "params-ema",
    "ema",
    "ema_model",
    "model_ema",
    "ema_state_dict",
    "state_dict_ema",
    "net_g_ema",
)
WRAPPER_KEYS = (
    *AVERAGE_KEYS,
    "state_dict",
    "params",
    "model_state_dict",
    "model",
    "net",
    "net_g",
    "generator",
    "network",
    "module",
    "weights",
)
DEEPEST_WRAPPER = 8

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

RESSHIFT_LOADER = "Load ResShift Model"
VQ_LOADER = "Load ResShift VAE"
CONTROL_LOADER = "Load LAControlNet (DiffBIR)"
RESTORATION_LOADER = "Load Restoration Network (SwinIR, BSRNet, SCUNet)"
UPSCALE_LOADER = "Load Upscale Model"
HYPIR_LOADER = "Load HYPIR"

# (a pattern some key matches, what such a file is, the node that loads it)
KNOWN_FILES = (
    (r"^down_blocks\.\d+\.resnets\.\d+\.conv1\.lora_A\.", "the LoRA of HYPIR", HYPIR_LOADER),
    (r"\.lora_(down|up|A|B)\.|^lora_", "a LoRA", "Load LoRA"),
    (r"input_hint_block\.|controlnet", "a ControlNet", "Load ControlNet Model"),
    (r"^control_model\.|^zero_convs\.", "a LAControlNet", CONTROL_LOADER),
    (r"^cond_stage_model\.|^conditioner\.", "a full checkpoint", "Load Checkpoint"),
    (
        r"^(input_blocks\.\d+|middle_block|output_blocks\.\d+)\.1\.(patch_embed|blocks)\.",
        "a ResShift model",
        RESSHIFT_LOADER,
    ),
    (r"^layers\.\d+\.residual_group\.", "a SwinIR", RESTORATION_LOADER),
    (r"^quantize\.embedding\.weight$", "a VQ autoencoder", VQ_LOADER),
    (
        r"^(encoder|decoder)\.(down|up|mid)",
        "an autoencoder",
        "Load VAE, or the checkpoint that holds it with Load Checkpoint",
    ),
    (r"RDB\d|^body\.\d|conv_first", "an upscale network", UPSCALE_LOADER),
    (
        r"transformer_blocks\.",
        "a diffusion model of another kind",
        "Load Checkpoint or Load Diffusion Model",
    ),
)


@dataclass(frozen=True)
class FileLook:
    """What a file seems to be.

    Attributes:
        text: In words that go on after "it", with what to do.
        keys: Up to three keys that tell.
        loader: The node that loads it, empty if none is known.
    """

    text: str
    keys: list[str]
    loader: str = ""


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


def read_checkpoint(
    path: Path, *, inner_prefix: str = "", holder_prefixes: Iterable[str] = HOLDER_PREFIXES
) -> Checkpoint:
    """Return the tensors of a weight file on the CPU, in the dtypes they are stored in.

    Args:
        path: A safetensors file or a pickle of tensors (.pth, .pt, .ckpt, .bin), bare or wrapped
            in `state_dict` or another of `WRAPPER_KEYS`, with the prefixes of parallel training
            and of torch.compile, repeated. Averaged weights are preferred to the last ones, and
            those of a loss are left out.
        inner_prefix: Prefix of the wanted part in files that hold several, such as
            `model.diffusion_model.`; the rest is left out.
        holder_prefixes: Prefixes that are taken off where every key has them; none for networks
            whose own keys may begin so.
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
    opened, averaged = open_wrappers(content)
    state_dict, averaged_beside = _network_keys(opened, inner_prefix, tuple(holder_prefixes))
    if averaged or averaged_beside:
        logger.info("'%s': its averaged weights (EMA) are taken", path.name)
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


def not_the_network(
    state_dict: dict[str, Tensor], path: Path, network: str, loader: str, missing: Iterable[str]
) -> UnsupportedCheckpointError:
    """Return the error on a file that lacks tensors by which a network is known.

    Args:
        state_dict: The file's tensors.
        path: The file.
        network: What it should be, with its article.
        loader: Name of the node that loads it; a file that belongs there is a part or damaged.
        missing: The tensors that it lacks.
    """
    look = describe_file(state_dict)
    if look.loader != loader:
        return UnsupportedCheckpointError(path, f"is not {network}; it {look.text}", look.keys)
    lacks = list(missing)
    return UnsupportedCheckpointError(
        path,
        f"holds a part of {network} alone: it lacks {', '.join(lacks[:3])}. Join the parts of a"
        " split model into one file, or download it again if it is damaged",
        look.keys,
    )


def describe_file(state_dict: dict[str, Tensor]) -> FileLook:
    """Return what a file that is not the wanted model seems to be."""
    for pattern, kind, loader in KNOWN_FILES:
        found = [key for key in state_dict if re.search(pattern, key)]
        if found:
            return FileLook(f"looks like {kind}; load it with {loader}", found[:3], loader)
    return FileLook(
        "holds a network that is not known here; choose another file", list(state_dict)[:3]
    )


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
                f' file, so it is refused. If you trust its source, convert it once with "'
                f'{_shell_line("python", str(CONVERTER), str(path.resolve()))}" and load the result,'
                " converted.safetensors next to it. The Python must be ComfyUI's."
            ) from error
        raise _damaged(path, error) from error
    except DAMAGED_PICKLE_ERRORS as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # what a wrong place in the file to go to raises
            raise
        raise _damaged(path, error) from error


def _shell_line(*words: str) -> str:
    """Return a command as the user's shell takes it."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _damaged(path: Path, error: BaseException) -> ValueError:
    first_line = str(error).split("\n", 1)[0] or type(error).__name__
    return ValueError(
        f"'{path.name}' cannot be read as a PyTorch file ({first_line}). It is truncated or another"
        f" kind of file: download it again.{download_advice(path.name)}"
    )


def open_wrappers(content: object, depth: int = 0) -> tuple[dict[str, Tensor], bool]:
    """Return the tensors in what a trainer saved, and whether they are averaged ones.

    Args:
        content: What a pickle holds.
        depth: How many wrappers were opened already.
    """
    if not isinstance(content, dict) or depth > DEEPEST_WRAPPER:
        return {}, False
    for key in WRAPPER_KEYS:
        tensors, averaged = open_wrappers(content.get(key), depth + 1)
        if any(tensor.ndim for tensor in tensors.values()):  # not the numbers of averaging alone
            return tensors, averaged or key in AVERAGE_KEYS
    tensors = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    return tensors, False


def without_holders(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without `HOLDER_PREFIXES` where every key has one."""
    return _network_keys(dict(state_dict), "", HOLDER_PREFIXES)[0]


def _network_keys(
    tensors: dict[str, Tensor], inner_prefix: str, holders: tuple[str, ...]
) -> tuple[dict[str, Tensor], bool]:
    """Return a network's tensors under its own keys, and whether averaged ones lay beside others."""
    record = tensors.pop(RECORD_KEY, None)
    averaged, before = False, None
    while before != tensors.keys():
        before = tensors.keys()
        tensors, chosen = _averages_in_place(_without_training(tensors))
        averaged = averaged or chosen
        if inner_prefix and any(key.startswith(inner_prefix) for key in tensors):
            tensors = {key: value for key, value in tensors.items() if key.startswith(inner_prefix)}
            tensors = _without_prefix(tensors, inner_prefix)
        for prefix in (*TRAINING_PREFIXES, *holders, *(AVERAGE_PREFIXES if holders else ())):
            if tensors and all(key.startswith(prefix) for key in tensors):
                tensors = _without_prefix(tensors, prefix)
                averaged = averaged or prefix in AVERAGE_PREFIXES
                break  # the inner prefix may be next
    if record is not None:
        tensors = {**tensors, RECORD_KEY: record}
    return tensors, averaged


def _without_training(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without losses and counters, unless there is nothing else."""
    kept = {
        key: tensor
        for key, tensor in tensors.items()
        if not key.startswith(LOSS_PREFIXES) and not (key in BOOKKEEPING_KEYS and tensor.ndim == 0)
    }
    return kept or tensors


def _averages_in_place(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Return the tensors with averaged weights for the last ones beside which they lie, and if so.

    Averages whose keys are of no weight beside them are left out.
    """
    for prefix in AVERAGE_PREFIXES:
        last = {key: value for key, value in tensors.items() if not key.startswith(prefix)}
        if not last or len(last) == len(tensors):
            continue
        averages = _without_prefix(
            {key: value for key, value in tensors.items() if key.startswith(prefix)}, prefix
        )
        found = {key: _average_of(key, averages) for key in last}
        mixed = {key: last[key] if value is None else value for key, value in found.items()}
        return mixed, any(value is not None for value in found.values())
    return tensors, False


def _average_of(key: str, averages: dict[str, Tensor]) -> Tensor | None:
    for holder in ("", *TRAINING_PREFIXES, *HOLDER_PREFIXES):
        name = key.removeprefix(holder)
        for spelled in (name, name.replace(".", "")):
            if spelled in averages:
                return averages[spelled]
    return None


def _without_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items()}
