"""The record of a ResShift checkpoint: what its weights cannot tell."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..samplers.chain import PREDICT_TYPES, PredictType
from ..samplers.schedules import ResShiftSchedule
from .checkpoint import RECORD_KEY, Checkpoint, UnsupportedCheckpointError

logger = logging.getLogger("resshift-diffbir")

AUTO = "auto"

# Smallest and largest whole numbers of a record; larger ones would ask for absurd amounts of memory.
LIMITS = {
    "scale": (1, 16),
    "steps": (2, 1000),
    "image_size": (1, 4096),
    "sampling_steps": (0, 1000),
}


@dataclass(frozen=True)
class ResShiftRecord:
    """How a ResShift network was trained and is to be used.

    Attributes:
        task: What it restores, in a few words.
        scale: Size of the result over the size of the image, a whole number.
        steps: Number of diffusion steps T of the training schedule.
        kappa: Noise scale of the chain.
        min_noise_level: Noise level of the first step.
        etas_end: Square root of the last eta.
        power: Exponent of the schedule.
        predict_type: What the network predicts, one of `PREDICT_TYPES`.
        autoencoder: File of the VAE whose latents it works on.
        image_size: Side of the latent it was trained at.
        sampling_steps: Network calls of a usual run; 0 means `steps`.
    """

    task: str
    scale: int
    steps: int
    min_noise_level: float
    autoencoder: str
    kappa: float = 2.0
    etas_end: float = 0.99
    power: float = 0.3
    predict_type: PredictType = "xstart"
    image_size: int = 64
    sampling_steps: int = 0

    @property
    def schedule(self) -> ResShiftSchedule:
        """The chain's schedule."""
        return ResShiftSchedule(
            steps=self.steps,
            kappa=self.kappa,
            min_noise_level=self.min_noise_level,
            etas_end=self.etas_end,
            power=self.power,
        )

    def with_schedule(self, schedule: ResShiftSchedule) -> ResShiftRecord:
        """Return the record with the numbers of another schedule."""
        return replace(self, **asdict(schedule))

    def to_json(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)


VQ_F4 = "autoencoder_vq_f4.pth"
VQ_F4_FACE = "celeba256_vq_f4_dim3_face.pth"
VQ_F8_FACE = "ffhq512_vq_f8_dim8_face.pth"
PIXEL_LATENT = "bundled: pixel latent x4"
CLEAN = "super-resolution of clean images"


def _four_steps(task: str, scale: int, autoencoder: str) -> ResShiftRecord:
    return ResShiftRecord(task, scale, 4, 0.2, autoencoder)


def _fifteen_steps(task: str, sampling_steps: int = 0, kappa: float = 2.0) -> ResShiftRecord:
    return ResShiftRecord(task, 4, 15, 0.04, VQ_F4, kappa=kappa, sampling_steps=sampling_steps)


PRESETS: dict[str, ResShiftRecord] = {
    "realsr x4, 4 steps (v3)": _four_steps("super-resolution", 4, VQ_F4),
    "realsr x4, 15 steps (v2)": _fifteen_steps("super-resolution"),
    "realsr x4, 15 steps (v1)": _fifteen_steps("super-resolution"),
    "bicubic sr x4, 4 steps": _four_steps(CLEAN, 4, VQ_F4),
    "realsr x2, 4 steps": _four_steps("super-resolution", 2, VQ_F4),
    "inpainting, 4 steps": _four_steps("inpainting", 1, VQ_F4),
    "inpainting of faces, 4 steps": _four_steps("inpainting of faces", 1, VQ_F4_FACE),
    "face restoration, 4 steps": _four_steps("face restoration", 1, VQ_F8_FACE),
    "SinSR x4, 1 step": _fifteen_steps("super-resolution", sampling_steps=1),
    "deblurring, 4 steps": _four_steps("deblurring", 1, VQ_F4),
    "bicubic sr x4, 15 steps (OpenCV)": _fifteen_steps(CLEAN, kappa=1.0),
    "bicubic sr x4, 15 steps (MATLAB)": _fifteen_steps(CLEAN),
}
PRESET_CHOICES: tuple[str, ...] = (AUTO, *PRESETS)

# Released names, loosely: the inference script renames two, and users rename more.
RELEASED_NAMES: tuple[tuple[str, str], ...] = (
    (r"realsr_?x4_?s4", "realsr x4, 4 steps (v3)"),
    (r"realsr_?x4_?s15_?v1", "realsr x4, 15 steps (v1)"),
    (r"realsr_?x4_?s15", "realsr x4, 15 steps (v2)"),
    (r"bicsr_?x4_?s4", "bicubic sr x4, 4 steps"),
    (r"bicsr_?x4_?opencv_?s15", "bicubic sr x4, 15 steps (OpenCV)"),
    (r"bicsr_?x4_?matlab_?s15", "bicubic sr x4, 15 steps (MATLAB)"),
    (r"deblur(ring)?_?s4", "deblurring, 4 steps"),
    (r"inpaint(ing)?_?imagenet_?s4", "inpainting, 4 steps"),
    (r"inpaint(ing)?_?face_?s4", "inpainting of faces, 4 steps"),
    (r"face_?ir_?s4", "face restoration, 4 steps"),
    (r"sinsr", "SinSR x4, 1 step"),
)


def find_record(checkpoint: Checkpoint, preset: str) -> ResShiftRecord:
    """Return the record of a checkpoint.

    Args:
        checkpoint: The file.
        preset: A key of `PRESETS` wins over everything; `auto` reads the safetensors header, then
            the tensor `resshift_config`, then the released file name.
    Raises:
        ValueError: If the preset is unknown or the file's own record is damaged.
        UnsupportedCheckpointError: If `auto` finds nothing.
    """
    own = _own_record(checkpoint)
    if preset != AUTO:
        if preset not in PRESETS:
            raise ValueError(f"there is no preset '{preset}'; choose one of {_preset_list()}")
        chosen = PRESETS[preset]
        if own is not None and own != chosen:
            logger.warning(
                "'%s' records %s; the chosen preset '%s' is used instead: %s",
                checkpoint.path.name,
                own.to_json(),
                preset,
                chosen.to_json(),
            )
        return chosen
    if own is not None:
        return own
    name = checkpoint.path.name.lower().replace("-", "_")
    for pattern, released in RELEASED_NAMES:
        if re.search(pattern, name):
            return PRESETS[released]
    raise UnsupportedCheckpointError(
        checkpoint.path,
        "does not say how it was trained, and its name is none of the released ones. Set preset to"
        f" one of {_preset_list()}",
    )


def record_tensor(record: ResShiftRecord) -> Tensor:
    """Return the record as uint8 UTF-8 JSON, `(N,)`, to be saved among the weights."""
    return torch.tensor(list(record.to_json().encode("utf-8")), dtype=torch.uint8)


def _own_record(checkpoint: Checkpoint) -> ResShiftRecord | None:
    text = checkpoint.metadata.get(RECORD_KEY)
    if text is None and RECORD_KEY in checkpoint.state_dict:
        stored = checkpoint.state_dict[RECORD_KEY].flatten().to(torch.uint8)
        text = bytes(stored.tolist()).decode("utf-8", errors="replace")
    if text is None:
        return None
    try:
        return _parse_record(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"the record in '{checkpoint.path.name}' is damaged ({error}). Set preset to one of"
            f" {_preset_list()}."
        ) from error


def _parse_record(values: Any) -> ResShiftRecord:
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    known = {field.name for field in fields(ResShiftRecord)}
    record = ResShiftRecord(**{key: value for key, value in values.items() if key in known})
    if record.predict_type not in PREDICT_TYPES:
        raise ValueError(f"predict_type '{record.predict_type}' is none of {PREDICT_TYPES}")
    for name, (least, most) in LIMITS.items():
        number = getattr(record, name)
        if type(number) is not int or not least <= number <= most:
            raise ValueError(f"{name} {number!r} is not a whole number from {least} to {most}")
    for name in ("task", "autoencoder"):
        if not isinstance(getattr(record, name), str):
            raise ValueError(f"{name} {getattr(record, name)!r} is not a text")
    sigmas = record.schedule.trained_sigmas()
    if not (sigmas.isfinite().all() and (sigmas.diff() > 0).all()):
        raise ValueError("its schedule does not rise")
    return record


def _preset_list() -> str:
    return ", ".join(f"'{name}'" for name in PRESETS)
