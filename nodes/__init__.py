"""The node classes of this pack."""

from __future__ import annotations

from comfy_api.latest import io

from .image import RestorationColorFix, RestorationFinish
from .resshift_loaders import ResShiftLoader, ResShiftVAELoader
from .resshift_restore import ResShiftRestoreImage
from .resshift_sampling import (
    ResidualShiftSampler,
    ResidualShiftSamplerSelect,
    ResidualShiftScheduler,
    ResShiftConditioning,
    ResShiftModelSampling,
)

NODES: list[type[io.ComfyNode]] = [
    ResShiftLoader,
    ResShiftVAELoader,
    ResShiftModelSampling,
    ResShiftConditioning,
    ResidualShiftSampler,
    ResidualShiftSamplerSelect,
    ResidualShiftScheduler,
    ResShiftRestoreImage,
    RestorationColorFix,
    RestorationFinish,
]
