"""An emulated card: a device of torch's own on CPU memory, and ComfyUI told that it is the card.

It refuses what a card refuses (tensors of two devices, float64 where that is forbidden, mixed types
in convolutions) and counts copies and looks of the host. It shows no speed, no cuDNN, no streams.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import comfy_aimdo.host_buffer
import comfy_aimdo.model_vbar
import comfy_aimdo.torch
import pytest
import torch
from comfy.cli_args import args
from torch.utils import cpp_extension

PACK_ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_suffix(".cpp")
NAME = "card"
GIB = 1 << 30
# torch's headers take half a minute; with optimisation, minutes.
FLAGS = ["-O0", "-w"]


@dataclass(frozen=True)
class Mode:
    """How ComfyUI was started, and on what.

    Attributes:
        half: Type that the card is good at beside float32, None for neither.
        fp8: `--fp8_e4m3fn-unet` or `--fp8_e5m2-unet`, None for neither.
        free: Bytes that are free on it.
        gpu_only: `--gpu-only`.
        cpu_vae: `--cpu-vae`.
        fp16_intermediates: `--fp16-intermediates`.
        dynamic: Whether memory is dynamic, and has room: None, "room" or "full".
        float64: Whether the card has float64.
    """

    half: torch.dtype | None = None
    fp8: torch.dtype | None = None
    free: int = 16 * GIB
    gpu_only: bool = False
    cpu_vae: bool = False
    fp16_intermediates: bool = False
    dynamic: str | None = None
    float64: bool = True


MODES = {
    "normal": Mode(),
    "without float64": Mode(float64=False),
    "fp16": Mode(half=torch.float16),
    "bf16": Mode(half=torch.bfloat16),
    "--cpu-vae": Mode(cpu_vae=True),
    "--fp16-intermediates": Mode(fp16_intermediates=True),
    "partly loaded": Mode(free=GIB // 4),
    "--gpu-only": Mode(gpu_only=True),
    "dynamic memory": Mode(dynamic="room"),
    "dynamic memory, full": Mode(dynamic="full"),
    "fp8 e4m3fn": Mode(fp8=torch.float8_e4m3fn),
    "fp8 e5m2": Mode(fp8=torch.float8_e5m2),
    "fp8 e4m3fn, fp16": Mode(fp8=torch.float8_e4m3fn, half=torch.float16),
    "fp8 e4m3fn, partly loaded": Mode(fp8=torch.float8_e4m3fn, free=GIB // 4),
    "fp8 e4m3fn, --gpu-only": Mode(fp8=torch.float8_e4m3fn, gpu_only=True),
    "fp8 e4m3fn, dynamic memory": Mode(fp8=torch.float8_e4m3fn, dynamic="room"),
    "fp8 e4m3fn, dynamic memory, full": Mode(fp8=torch.float8_e4m3fn, dynamic="full"),
}


def reason_to_skip() -> str | None:
    """Return why there can be no second device here, None where there can, and in CI."""
    if not hasattr(comfy.model_management, "get_all_torch_devices"):
        return "this ComfyUI is older than the one whose memory management is emulated"
    if os.environ.get("CI") or (
        shutil.which("ninja", path=_own_path()) and any(map(shutil.which, ("c++", "g++", "cl")))
    ):
        return None
    return "the emulated card is built by a C++ compiler and ninja, which are not both here"


def _own_path() -> str:
    """Return the search path with this environment's own tools first, ninja among them."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


@cache
def library() -> Any:
    """Return the device's library, built where its source has changed, and made known to torch."""
    source = SOURCE.read_bytes() + torch.__version__.encode()
    digest = hashlib.sha256(source).hexdigest()[:16]
    folder = PACK_ROOT / ".dev" / "second_device" / digest
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = _own_path()  # torch calls ninja by its name
    made = cpp_extension.load(
        f"second_device_{digest}", [str(SOURCE)], extra_cflags=FLAGS, build_directory=str(folder)
    )
    module = types.ModuleType(f"torch.{NAME}")
    functions = {
        "_is_in_bad_fork": lambda: False,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device=0: torch.get_rng_state(),
        "set_rng_state": lambda state, device=0: None,
        "get_amp_supported_dtype": lambda: [torch.float16, torch.bfloat16],
    }
    for name, function in functions.items():
        setattr(module, name, function)
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, module)
    return made


def card() -> torch.device:
    """Return the emulated card."""
    library()
    return torch.device(NAME, 0)


@contextlib.contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count copies and looks of the host; the dictionary is filled at the end."""
    found: dict[str, int] = {}
    library().reset()
    yield found
    found.update(library().counts())


@contextlib.contextmanager
def weights_in_fp8(dtype: torch.dtype | None) -> Iterator[None]:
    """Tell ComfyUI that it was started to hold the weights of diffusion models in a type of fp8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(args, "fp8_e4m3fn_unet", dtype == torch.float8_e4m3fn)
        patch.setattr(args, "fp8_e5m2_unet", dtype == torch.float8_e5m2)
        yield


@contextlib.contextmanager
def comfyui_on(mode: Mode) -> Iterator[torch.device]:
    """Tell ComfyUI that the emulated card is its card, started in a mode."""
    device, management = card(), comfy.model_management
    everything = management.VRAMState
    with pytest.MonkeyPatch.context() as patch, weights_in_fp8(mode.fp8):

        def tell(name: str, value: Any) -> None:
            patch.setattr(management, name, value)

        def free(dev: Any = None, torch_free_too: bool = False) -> Any:
            on_card = dev is None or dev.type == NAME
            amount = mode.free if on_card else 64 * GIB
            return (amount, amount) if torch_free_too else amount

        def takes(dtype: torch.dtype) -> Any:
            return lambda device=None, *_, **__: (
                mode.half == dtype and (device is None or device.type == NAME)
            )

        tell("cpu_state", management.CPUState.GPU)
        tell("vram_state", everything.HIGH_VRAM if mode.gpu_only else everything.NORMAL_VRAM)
        tell("get_torch_device", lambda: device)
        tell("get_all_torch_devices", lambda exclude_current=False: [device][exclude_current:])
        tell("get_free_memory", free)
        tell("get_total_memory", free)
        tell("soft_empty_cache", lambda force=False: None)
        tell("should_use_fp16", takes(torch.float16))
        tell("should_use_bf16", takes(torch.bfloat16))
        tell("is_nvidia", lambda: False)
        tell("is_amd", lambda: False)
        tell("LORA_COMPUTE_DTYPES", {})
        tell("text_encoder_device", lambda: torch.device("cpu"))
        patch.setattr(args, "cpu", False)
        patch.setattr(args, "force_fp32", False)
        patch.setattr(args, "gpu_only", mode.gpu_only)
        patch.setattr(args, "cpu_vae", mode.cpu_vae)
        patch.setattr(args, "fp16_intermediates", mode.fp16_intermediates)
        patch.setattr(args, "disable_pinned_memory", True)
        if mode.dynamic is not None:
            _play_dynamic_memory(patch, device, full=mode.dynamic == "full")
        management.unload_all_models()
        library().allow_float64(mode.float64)
        try:
            yield device
        finally:
            library().allow_float64(True)
            management.unload_all_models()
            management.current_loaded_models.clear()


class _Buffer:
    """Bytes on the card that grow, as aimdo hands them out; an allocation is (buffer, place, size)."""

    def __init__(self, device: torch.device, full: bool = False):
        self.device = device
        self.full = full
        self.offset = 0
        self.parts: dict[int, torch.Tensor] = {}
        self.whole = torch.empty(0)
        self.index = 0

    # ModelVBAR

    def alloc(self, size: int) -> tuple[_Buffer, int, int]:
        self.offset += size
        return self, self.offset, size

    def fault(self, place: int, size: int) -> bytes | None:
        if self.full:
            return None
        if place not in self.parts:
            self.parts[place] = torch.zeros(size, dtype=torch.uint8, device=self.device)
        return place.to_bytes(8, "little")

    def unpin(self, place: int, size: int) -> None:
        """Let the bytes be taken; nothing else asks for them here."""

    def prioritize(self, *_: Any) -> None:
        """Come first; there is nothing to come before."""

    def loaded_size(self) -> int:
        return sum(part.numel() for part in self.parts.values())

    def free_memory(self, size: int) -> int:
        freed = self.loaded_size()
        self.parts.clear()
        return freed

    # VRAMBuffer: one piece of memory, which the next layer overwrites

    def size(self) -> int:
        return self.whole.numel()

    def get(self, size: int, offset: int = 0) -> tuple[_Buffer, int, int]:
        if self.size() < offset + size:
            self.whole = torch.zeros(offset + size, dtype=torch.uint8, device=self.device)
        return self, -1 - offset, size

    def tensor(self, place: int, size: int) -> torch.Tensor:
        if place < 0:
            return self.whole[-1 - place : -1 - place + size]
        return self.parts[place]


class _Stream(contextlib.nullcontext):
    """A stream on which everything has already happened."""

    def wait_stream(self, stream: Any) -> None:
        """Nothing is under way."""

    def synchronize(self) -> None:
        """Nothing is under way."""


class _HostBuffer:
    """A host buffer that is never filled, for pinned memory is switched off."""

    size = 0

    def __init__(self, *_: Any):
        pass

    def truncate(self, *_: Any, **__: Any) -> None:
        """Nothing to cut."""


def _play_dynamic_memory(patch: pytest.MonkeyPatch, device: torch.device, full: bool) -> None:
    """Put a stand-in in the place of ComfyUI's native library for dynamic memory."""
    management = comfy.model_management
    patch.setattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcherDynamic)
    patch.setattr(comfy_aimdo.model_vbar, "ModelVBAR", lambda size, index: _Buffer(device, full))
    patch.setattr(comfy_aimdo.model_vbar, "vbars_analyze", lambda device=None: 0)
    patch.setattr(comfy_aimdo.host_buffer, "HostBuffer", _HostBuffer)
    patch.setattr(
        comfy_aimdo.torch, "aimdo_to_tensor", lambda alloc, device: alloc[0].tensor(*alloc[1:])
    )
    stream, shared = _Stream(), _Buffer(device)
    patch.setattr(management, "get_offload_stream", lambda device: stream)
    patch.setattr(management, "get_aimdo_cast_buffer", lambda stream, device: shared)
    list_to_load = comfy.model_patcher.ModelPatcherDynamic._load_list

    def load_list(self: Any, for_dynamic: bool = False, default_device: Any = None) -> list:
        # torch lets a weight change in place from the CPU to CUDA, but not to other devices.
        for name, module in self.model.named_modules() if default_device is not None else ():
            own = dict(module.named_parameters(recurse=False))
            if own and len(own) < len(dict(module.named_parameters())):
                for key, weight in own.items():
                    dtype = getattr(module, f"{key}_comfy_model_dtype", None)
                    path = f"{name}.{key}" if name else key
                    moved = weight.to(default_device, dtype)
                    comfy.utils.set_attr_param(self.model, path, moved)
        return list_to_load(self, for_dynamic)

    patch.setattr(comfy.model_patcher.ModelPatcherDynamic, "_load_list", load_list)
