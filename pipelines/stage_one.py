"""Stage 1 of DiffBIR: a regression network removes degradation, in the official order of steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import comfy.model_management
import comfy.utils
import spandrel
import torch
import torch.nn.functional as F
from torch import Tensor

from ..images.conversion import (
    check_image,
    collect_pictures,
    planes_to_image,
)
from ..images.padding import multiple_above, reflect_pad_to
from ..images.resize import (
    Rounding,
    quantize_8bit,
    resize_bicubic,
    resize_bicubic_8bit,
    scaled_size,
    short_edge_size,
)
from ..images.transparency import visible_planes
from ..samplers.tiles import cut_tile, gaussian_weights, merge_tiles, tile_positions
from .memory import is_out_of_memory, largest_side, room_beside, room_for

logger = logging.getLogger("resshift-diffbir")

Rules = Literal["auto", "SwinIR", "BSRNet", "SCUNet", "none"]
RULES: tuple[str, ...] = get_args(Rules)

SHORT_EDGE_PX = 512
SIZE_MULTIPLE_PX = 64
OFFICIAL_OVERLAP_PX = 256
# A tile chosen by memory is at most this large.
LARGEST_TILE_PX = 4096

# When memory runs out: the first tile that is tried, and the least.
LARGEST_SPARE_TILE_PX = 512
LEAST_SPARE_TILE_PX = 128

# The longest side that ComfyUI's own nodes make.
LONGEST_SIDE_PX = 16384

# spandrel's names of the official networks. Their modules are called as they are, for spandrel's
# descriptor clamps its output and pads by reflection.
OFFICIAL_NETWORKS = ("SwinIR", "SCUNet", "ESRGAN")

# Peak of activations per output pixel, measured at the released widths in float32 on the CPU
# (848, 3020 and 775), and a fifth more for what libraries and other devices need to work.
BYTES_PER_PIXEL = {"SwinIR": 1020, "SCUNet": 3620, "ESRGAN": 930}
BYTES_PER_PIXEL_OF_OTHERS = 3620

# Rules by which the image is enlarged before the network.
ENLARGES_FIRST = ("SwinIR", "SCUNet")

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class StageOneResult:
    """What stage 1 makes of an image.

    Attributes:
        image: `(B, H, W, 3)` IMAGE, the condition of stage 2; may leave [0, 1].
        output_width: Width of the image times the scale, the size of the finished picture.
        output_height: Height of the image times the scale.
    """

    image: Tensor
    output_width: int
    output_height: int


def remove_degradation(
    upscale_model: Any,
    image: Tensor,
    *,
    scale: float = 4.0,
    rules: Rules = "auto",
    tile: int = 0,
    tile_overlap: int = OFFICIAL_OVERLAP_PX,
    clamp: bool = False,
    resize: Rounding = "official 8-bit",
    progress: Callable[[int, int], object] | None = None,
    bounded: bool = False,
) -> StageOneResult:
    """Return the image without its degradation, large enough for stage 2.

    The rules, by the network they are made for:

    - `SwinIR`: enlarge by `scale`; the shorter side to 512 where it is less; pad with black on the
      right and at the bottom to multiples of 64; network; crop. Tiled: no padding, and the shorter
      side to 512 after the network.
    - `SCUNet`: enlarge by `scale`; network; the shorter side to 512.
    - `BSRNet`: network, which enlarges by itself; then to `scale` times the image's size, or the
      shorter side to 512 exactly where that would be less.
    - `none`: the network alone at the image's own size.

    Pictures run one after the other. Where memory runs out, the rest runs in tiles that are halved
    until they fit; the log says so.

    Args:
        upscale_model: UPSCALE_MODEL of spandrel.
        image: `(B, H, W, C)` IMAGE in [0, 1]; alpha is dropped, and what it
            hides takes the colours around; grey repeated.
        scale: Size of the finished picture over the image's; 1 for aligned faces and denoising.
        rules: `auto` takes those of the network: BSRNet's for every network that enlarges,
            SwinIR's for SwinIR, SCUNet's for any other.
        tile: Side of a tile in pixels of the network's input; 0 runs the picture whole, as does a
            picture with a side shorter than the tile.
        tile_overlap: Pixels that neighbouring tiles share.
        clamp: Whether to limit the result to [0, 1].
        resize: `official 8-bit` rounds the image to 8 bits and enlarges it as Pillow does; `float`
            keeps its precision.
        progress: Called after each call of the network with how many are done and how many there
            are; by default the node's progress bar.
        bounded: Whether a picture that is narrower than a tile is cut too, into tiles of its shorter
            side, where it has more pixels than a tile; the official code runs it whole.
    Raises:
        ValueError: If an input does not fit; the message says which and what to do.

    Source: Lin et al. 2024 (arXiv 2308.15070), "Restoration Module", and its reference code.
    """
    network = check_network(upscale_model)
    chosen = _choose_rules(network, rules)
    _check_tile(chosen, tile, tile_overlap)
    check_image(image)
    height, width = image.shape[1:3]
    target = scaled_size(height, width, scale)
    check_target_size((height, width), target, scale)
    if chosen != "none":
        remedy = ", or set rules to 'none', which keeps its size"
        check_short_edge((height, width), target, "stage 1", remedy)
    size = target if chosen in ENLARGES_FIRST else (height, width)
    used_tile = tile if 0 < tile <= min(size) else 0
    if bounded and tile and not used_tile and size[0] * size[1] > tile**2:
        used_tile = min(size) // SIZE_MULTIPLE_PX * SIZE_MULTIPLE_PX
        tile_overlap = tile_overlap * used_tile // tile
    if chosen == "SwinIR" and not used_tile:
        size = short_edge_size(*size, SHORT_EDGE_PX)
    logger.info(
        "stage 1: %s, rules of %s, %dx%d, %s",
        network.architecture.name,
        chosen,
        size[1],
        size[0],
        f"tiles of {used_tile}" if used_tile else "whole",
    )
    keeps_on = comfy.model_management.intermediate_device()
    with _loaded(network, estimate_memory(network, size, used_tile)) as device:
        runner = _Runner(
            network,
            device,
            len(image),
            used_tile,
            tile_overlap,
            chosen == "SwinIR",
            progress or comfy.utils.ProgressBar(len(image)).update_absolute,
        )

        def cleaned(picture: Tensor) -> Tensor:
            planes = visible_planes(picture)
            x = _before_network(chosen, planes.contiguous(), target, size, resize)
            made = _after_network(chosen, runner.run(x), target)
            return planes_to_image(made.clamp(0, 1) if clamp else made).to(keeps_on)

        made = collect_pictures(map(cleaned, image.split(1)), len(image))
    return StageOneResult(made, target[1], target[0])


def stage_one_tile(upscale_model: Any) -> int:
    """Return the side of the largest tile of a network that fits into free memory.

    In pixels of the network's input, a multiple of 64.
    """
    patcher = getattr(upscale_model, "patcher", None)
    if patcher is not None:
        room = room_beside(patcher)
    else:
        weights = comfy.model_management.module_size(upscale_model.model)
        room = room_for(weights, comfy.model_management.get_torch_device())
    return largest_side(
        lambda side: estimate_memory(upscale_model, (side, side), side),
        room,
        LARGEST_TILE_PX,
        SIZE_MULTIPLE_PX,
    )


def _before_network(
    rules: Rules, picture: Tensor, target: Size, size: Size, resize: Rounding
) -> Tensor:
    is_8bit = resize == "official 8-bit"
    if rules in ENLARGES_FIRST:
        enlarge = resize_bicubic_8bit if is_8bit else resize_bicubic
        return resize_bicubic(enlarge(picture, *target), *size)
    if rules == "BSRNet" and is_8bit:
        return quantize_8bit(picture)
    return picture


def _after_network(rules: Rules, y: Tensor, target: Size) -> Tensor:
    if rules == "none":
        return y
    if rules == "BSRNet" and min(target) >= SHORT_EDGE_PX:
        return resize_bicubic(y, *target)
    size = short_edge_size(y.shape[-2], y.shape[-1], SHORT_EDGE_PX, shrinks=rules == "BSRNet")
    return resize_bicubic(y, *size)


class _Runner:
    """Runs a loaded network on pictures of one size, in smaller tiles once memory has run out."""

    def __init__(
        self,
        network: spandrel.ImageModelDescriptor,
        device: torch.device,
        pictures: int,
        tile: int,
        overlap: int,
        pads_with_black: bool,
        progress: Callable[[int, int], object],
    ):
        self.network = network
        self.device = device
        self.pictures = pictures
        self.tile = tile
        self.overlap = overlap
        self.pads_with_black = pads_with_black
        self.finished = 0
        self.progress = progress

    def run(self, x: Tensor) -> Tensor:
        """Return what the network makes of `x` (1, 3, H, W), float32 on the CPU."""
        while True:
            try:
                y = self._run_in_tiles(x) if self.tile else self._run_whole(x)
            except RuntimeError as error:
                smaller = _smaller_tile(x.shape[-2], x.shape[-1], self.tile)
                if not is_out_of_memory(error) or smaller < LEAST_SPARE_TILE_PX:
                    raise
            else:
                self.finished += 1
                return y
            logger.warning(
                "stage 1 ran out of memory with %s; it goes on in tiles of %d, whose result is not"
                " exactly the same",
                f"tiles of {self.tile}" if self.tile else "the whole picture",
                smaller,
            )
            self.tile, self.overlap = smaller, smaller // 2
            comfy.model_management.soft_empty_cache()

    def _run_whole(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        if self.pads_with_black:
            right = multiple_above(w, SIZE_MULTIPLE_PX) - w
            bottom = multiple_above(h, SIZE_MULTIPLE_PX) - h
            x = F.pad(x, (0, right, 0, bottom))
        y = self._call(x, 0, 1)
        return y[..., : h * self.network.scale, : w * self.network.scale]

    def _run_in_tiles(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        scale, tile = self.network.scale, self.tile
        positions = tile_positions(h, w, tile, tile - self.overlap)
        made = (
            self._call(cut_tile(x, position, tile), k, len(positions))
            for k, position in enumerate(positions)
        )
        scaled = [(row * scale, column * scale) for row, column in positions]
        weights = gaussian_weights(tile * scale, tile * scale)
        return merge_tiles(made, scaled, h * scale, w * scale, weights)

    def _call(self, x: Tensor, number: int, calls: int) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        y = _call_network(self.network, x.contiguous().to(self.device, self.network.dtype))
        done = self.finished * calls + number + 1
        self.progress(done, self.pictures * calls)
        return y.float().cpu()


def _call_network(network: spandrel.ImageModelDescriptor, x: Tensor) -> Tensor:
    if network.architecture.id not in OFFICIAL_NETWORKS:
        return network(x)
    h, w = x.shape[-2:]
    pad_w, pad_h = network.size_requirements.get_padding(w, h)
    if network.architecture.id == "SCUNet":
        # It reflects in here to multiples of 64; the reference repeats the border.
        pad_w = multiple_above(w, SIZE_MULTIPLE_PX) - w
        pad_h = multiple_above(h, SIZE_MULTIPLE_PX) - h
        x = F.pad(x, (0, pad_w, 0, pad_h), mode="replicate")
    y = network.model(reflect_pad_to(x, h + pad_h, w + pad_w))
    return y[..., : h * network.scale, : w * network.scale]


def _smaller_tile(height: int, width: int, tile: int) -> int:
    if tile:
        side = tile // 2
    else:
        side = min(height, width, LARGEST_SPARE_TILE_PX)
        if side == max(height, width):
            side //= 2
    return side // SIZE_MULTIPLE_PX * SIZE_MULTIPLE_PX


@contextmanager
def _loaded(network: spandrel.ImageModelDescriptor, memory_required: int) -> Iterator[torch.device]:
    """Hold the network on its device as the ComfyUI that made it does."""
    network.eval()  # drop path of a SwinIR in training mode would make the result random
    management = comfy.model_management
    patcher = getattr(network, "patcher", None)
    # Layers of spandrel do not come to the device one by one, as --novram would have it.
    if patcher is not None and management.vram_state != management.VRAMState.NO_VRAM:
        management.load_models_gpu([patcher], memory_required=memory_required, force_full_load=True)
        yield patcher.load_device
        return
    device = management.get_torch_device() if patcher is None else patcher.load_device
    weights = management.module_size(network.model)
    management.free_memory(weights + memory_required, device)
    try:
        network.to(device)
        yield device
    finally:
        network.to("cpu")


def estimate_memory(network: spandrel.ImageModelDescriptor, size: Size, tile: int) -> int:
    """Return the bytes that a network needs besides weights for a picture of `size`, or a tile."""
    h, w = (tile, tile) if tile else size
    per_pixel = BYTES_PER_PIXEL.get(network.architecture.id, BYTES_PER_PIXEL_OF_OTHERS)
    return h * w * network.scale**2 * per_pixel


def check_network(upscale_model: Any) -> spandrel.ImageModelDescriptor:
    """Return an UPSCALE_MODEL as what it is, a network from RGB images to RGB images.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(upscale_model, spandrel.ImageModelDescriptor):
        raise ValueError(
            f"'upscale_model' is a {type(upscale_model).__name__}, not a network of spandrel. Load"
            " it with 'Load Restoration Network (SwinIR, BSRNet, SCUNet)' or Load Upscale Model."
        )
    channels = (upscale_model.input_channels, upscale_model.output_channels)
    if channels != (3, 3):
        raise ValueError(
            f"the network connected to 'upscale_model' takes {channels[0]} channels and gives"
            f" {channels[1]}; load one for RGB images."
        )
    return upscale_model


def check_target_size(size: Size, target: Size, scale: float) -> None:
    """Refuse an enlargement that would fill any memory.

    Args:
        size: Height and width of an image.
        target: The same of what is to be made of it.
        scale: The factor between them.
    Raises:
        ValueError: If a side would leave 1 to 16384, the longest that ComfyUI's own nodes make.
    """
    longest = LONGEST_SIDE_PX
    if min(target) < 1:
        raise ValueError(
            f"'scale' is {scale}, which leaves nothing of an image of {size[1]}x{size[0]}; use a"
            " larger one."
        )
    if max(target) > max(longest, *size):
        raise ValueError(
            f"'scale' makes {target[1]}x{target[0]} of the image's {size[1]}x{size[0]}, and no side"
            f" may exceed {longest}; use a smaller scale."
        )


def check_short_edge(size: Size, target: Size, needed_by: str, remedy: str) -> None:
    """Refuse a ribbon whose longer side would fill any memory with the shorter one at 512 pixels.

    Args:
        size: Height and width of an image.
        target: The same of what is to be made of it.
        needed_by: What needs them.
        remedy: What to do besides cutting it into pieces, as a part of a sentence.
    Raises:
        ValueError: If its longer side would exceed 16384.
    """
    if max(short_edge_size(*target, SHORT_EDGE_PX)) > max(LONGEST_SIDE_PX, *target):
        raise ValueError(
            f"'image' is {size[1]}x{size[0]}: with its shorter side at the {SHORT_EDGE_PX} pixels"
            f" of {needed_by}, its longer side would exceed {LONGEST_SIDE_PX}. Cut it into"
            f" pieces{remedy}."
        )


def _choose_rules(network: spandrel.ImageModelDescriptor, rules: Rules) -> Rules:
    if rules not in RULES:
        raise ValueError(f"'rules' is one of {', '.join(RULES)}, not {rules!r}.")
    if rules == "auto":
        if network.scale > 1:
            return "BSRNet"
        return "SwinIR" if network.architecture.id == "SwinIR" else "SCUNet"
    if rules in ENLARGES_FIRST and network.scale > 1:
        raise ValueError(
            f"the rules of {rules} enlarge the image before the network, and this network enlarges"
            f" it {network.scale} times once more. Set rules to 'auto' or 'BSRNet'."
        )
    return rules


def _check_tile(rules: Rules, tile: int, overlap: int) -> None:
    if tile == 0:
        return
    if rules == "SwinIR" and tile % SIZE_MULTIPLE_PX:
        raise ValueError(
            f"'tile' is {tile}; SwinIR takes multiples of {SIZE_MULTIPLE_PX}, such as"
            f" {multiple_above(tile, SIZE_MULTIPLE_PX)}."
        )
    if not 0 <= overlap < tile:
        raise ValueError(
            f"'tile_overlap' is {overlap}; it must be less than 'tile', {tile}. Half of it is usual."
        )
