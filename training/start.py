"""The network that the chain starts from: the teacher cut to a few of its blocks.

What is cut away is made up for by training, see `start_trainer.py`.
"""

from __future__ import annotations

from pathlib import Path

import comfy.ops
from torch import Tensor, nn

from ..model_loaders.detection import START_PREFIX, detect_start
from ..model_loaders.networks.rrdb import RRDBConfig, RRDBNet
from ..model_loaders.networks.swin_unet import start_network
from .teacher import BODY_BLOCKS

START_PATH = Path(__file__).with_name("start_x4_photo.safetensors")
# The blocks that are left of the teacher when, one by one, the one whose loss changes pictures least
# is taken away.
KEPT_BLOCKS = (0, 1, 2, 21)


def build_start(weights: dict[str, Tensor], path: Path = START_PATH) -> nn.Module:
    """Return the network of `weights`, by their names in it, in float32.

    Args:
        weights: Of `start_weights` or `cut_teacher`.
        path: Their file, for the message.
    Raises:
        UnsupportedCheckpointError: If they are of no network that a file may hold as its start.
    """
    shapes = {f"{START_PREFIX}{name}": tuple(weight.shape) for name, weight in weights.items()}
    config = detect_start(shapes, path)
    start = start_network(config, {"operations": comfy.ops.disable_weight_init})
    start.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return start


def start_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the start among those of a whole model; all, where it is a start alone."""
    within = {
        name.removeprefix(START_PREFIX): weight
        for name, weight in weights.items()
        if name.startswith(START_PREFIX)
    }
    return within or weights


def cut_teacher(teacher: nn.Module) -> dict[str, Tensor]:
    """Return the weights of `KEPT_BLOCKS` and of what surrounds the blocks, by their names.

    Args:
        teacher: Of `load_teacher`; its parameters stand in forward order.
    Returns:
        In the teacher's dtype and on its device.
    """
    whole = RRDBNet(RRDBConfig(blocks=BODY_BLOCKS), operations=comfy.ops.disable_weight_init)
    named = dict(zip(whole.state_dict(), teacher.state_dict().values(), strict=True))
    weights = {name: weight for name, weight in named.items() if not name.startswith("body.")}
    for place, block in enumerate(KEPT_BLOCKS):
        for name, weight in named.items():
            if name.startswith(f"body.{block}."):
                weights[f"body.{place}.{name.removeprefix(f'body.{block}.')}"] = weight
    return weights
