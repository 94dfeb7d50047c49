"""What all parts of `device.py` share: the device, sizes, precisions, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import torch
import torch.nn.functional as F
from comfy.cli_args import args
from torch import Tensor

PRECISIONS = ("fp32", "fp16", "bf16")
COARSE = 8


@dataclass(frozen=True)
class Setting:
    """Where and how large a part runs.

    Attributes:
        folder: Where checkpoints and the CPU's results lie.
        output: Where pages go.
        tiny: Whether networks and pictures are tiny, which only checks the tool.
        mode: Name of ComfyUI's memory mode.
    """

    folder: Path
    output: Path
    tiny: bool
    mode: str

    @property
    def device(self) -> torch.device:
        """The device that ComfyUI takes."""
        return comfy.model_management.get_torch_device()

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that are compared; CPUs have no convolutions in fp16 worth the wait."""
        return ("fp32", "bf16") if self.device.type == "cpu" else PRECISIONS

    @property
    def half(self) -> str:
        """The 16-bit precision that speed is measured in first."""
        return "bf16" if self.device.type == "cpu" else "fp16"

    def sized(self, full: int, tiny: int) -> int:
        """Return a size for released or for tiny networks."""
        return tiny if self.tiny else full


def choose_precision(precision: str) -> None:
    """Set ComfyUI's options for the dtypes of SD's networks and of VAEs."""
    for each in PRECISIONS:
        setattr(args, f"{each}_unet", each == precision)
        setattr(args, f"{each}_vae", each == precision)


def allow_tf32(allowed: bool) -> None:
    """Let CUDA compute float32 convolutions in TF32, as torch does by default, or not."""
    torch.backends.cudnn.allow_tf32 = allowed


def draw_pictures(count: int, side: int, seed: int = 0) -> Tensor:
    """Return smooth pictures with a little grain, `(B, side, side, 3)` on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, COARSE, COARSE, generator=generator)
    smooth = F.interpolate(coarse, size=(side, side), mode="bicubic")
    grain = torch.randn(smooth.shape, generator=generator)
    return (smooth + 0.02 * grain).clamp(0, 1).movedim(1, -1).contiguous()


def draw_latent(*shape: int, seed: int = 1) -> Tensor:
    """Return standard normal numbers on the CPU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
