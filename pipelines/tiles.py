"""Sampling in tiles: every step denoises overlapping windows of the latent and blends them.

The windows are cut where ComfyUI calls the model for the conditional and the unconditional branch,
so everything before it (sampler, noise, masks) and after it (CFG, guidance) sees the whole latent.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import comfy.conds
import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from comfy.sampler_helpers import get_additional_models
from torch import Tensor

from ..images.padding import multiple_above
from ..model_loaders.la_control import ControlHint
from ..model_loaders.resshift_model import ResShiftModel
from ..samplers.tiles import TileBlend, blend_weights, merge_tiles, sliding_windows
from .memory import MARGIN, is_out_of_memory, largest_side, room_beside

logger = logging.getLogger("resshift-diffbir")

Tiling = Literal["per step", "official chop", "off", "official"]
TILINGS: tuple[str, ...] = ("per step", "official chop", "off")  # of ResShift
DIFFBIR_TILINGS: tuple[str, ...] = ("per step", "off", "official")
TileChoice = Literal["fixed", "auto (by memory)"]
TILE_CHOICES: tuple[str, ...] = get_args(TileChoice)

KEY = "restoration_tiles"
# Latents of diffusion UNets are halved three times.
UNET_MULTIPLE = 8
# Least side of a VAE's tile that is chosen by memory.
LEAST_VAE_TILE_PX = 128


def _check_choice(choice: str) -> None:
    if choice not in TILE_CHOICES:
        raise ValueError(f"the tile is one of {', '.join(TILE_CHOICES)}, not '{choice}'.")


@dataclass(frozen=True)
class TileSettings:
    """How a large picture is cut.

    Attributes:
        tiling: `per step` denoises tiles of one latent at every step; `official chop` restores
            pieces of the picture one by one and averages them, as ResShift's reference does; `off`
            takes the picture whole; `official` is `per step` with the weights of DiffBIR's
            reference.
        tile: Side of a tile in pixels of the result. Whatever is not larger is not cut.
        overlap: Pixels of the result that tiles share, for `per step`; `official chop` takes an
            eighth of the tile, as the reference does.
        choice: `fixed` takes `tile`. `auto (by memory)` takes, for `per step`, the largest tile
            whose estimate fits into the memory that is free when it is needed, so that results
            differ between machines; `overlap` is at most half of it.

    Raises:
        ValueError: If `choice` is another.
    """

    tiling: Tiling = "per step"
    tile: int = 1024
    overlap: int = 256
    choice: TileChoice = "fixed"

    def __post_init__(self) -> None:
        _check_choice(self.choice)

    @property
    def at_every_step(self) -> bool:
        """Whether tiles of one latent are denoised at every step."""
        return self.tiling in ("per step", "official")

    @property
    def blend(self) -> TileBlend:
        """How overlapping tiles are weighted."""
        return "gaussian" if self.tiling == "official" else "linear"

    @property
    def by_memory(self) -> bool:
        """Whether the side of tiles is taken from free memory."""
        return self.choice != "fixed"


TILES = TileSettings()


@dataclass(frozen=True)
class Window:
    """A rectangle of a latent, in latent pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, x: Tensor, ratio: int = 1) -> Tensor:
        """Return the part of `x` (..., H, W), whose sides are `ratio` times the latent's."""
        rows = slice(self.top * ratio, (self.top + self.height) * ratio)
        columns = slice(self.left * ratio, (self.left + self.width) * ratio)
        return x[..., rows, columns]


@dataclass(frozen=True)
class Grid:
    """Overlapping windows over a latent.

    Attributes:
        size: Height and width of the latent.
        side: Side of a window; what is not larger is one window.
        overlap: Latent pixels that neighbouring windows share, less than a side.
        blend: How overlapping windows are weighted.
    """

    size: tuple[int, int]
    side: int
    overlap: int
    blend: TileBlend = "linear"

    @property
    def windows(self) -> list[Window]:
        """The windows, row by row."""
        return list(_windows(self.size, self.side, self.side - self.overlap))

    def merge(self, tiles: Iterable[Tensor], ratio: int = 1) -> Tensor:
        """Return the weighted average of what was made of each window, in float32.

        Args:
            tiles: `(B, C, h, w)` each, `ratio` times as large as its window; read once. The only
                one comes back as it is.
            ratio: Side of a tile over the side of its window.
        """
        windows = self.windows
        if len(windows) == 1:
            (whole,) = tiles
            return whole
        positions = [(window.top * ratio, window.left * ratio) for window in windows]
        height, width = windows[0].height * ratio, windows[0].width * ratio
        weights = blend_weights(height, width, self.overlap * ratio, self.blend)
        return merge_tiles(tiles, positions, self.size[0] * ratio, self.size[1] * ratio, weights)


def patch_tiles(
    model: Any,
    tile: int,
    overlap: int,
    blend: TileBlend = "linear",
    choice: TileChoice = "fixed",
) -> Any:
    """Return a clone of a MODEL that denoises in tiles.

    A latent that is not larger than a tile is denoised whole, exactly as without the patch. One
    noise field serves the whole latent, guidance and CFG act on the whole latent. Where memory runs
    out, a run goes on with tiles of half the side, once.

    Args:
        model: Any MODEL of 4-D latents.
        tile: Side of a tile in output pixels, rounded up to what the network needs.
        overlap: Overlap of neighbouring tiles in output pixels, rounded likewise; less than a tile.
        blend: How overlapping tiles are weighted.
        choice: See `TileSettings`.
    Raises:
        ValueError: If the overlap is not smaller than the tile, or `choice` is another.

    Source: Lin et al. 2023 (arXiv 2308.15070), patch-based sampling; for ResShift by analogy.
    """
    _check_choice(choice)
    if choice == "fixed" and not 0 <= overlap < tile:
        raise ValueError(
            f"'tile_overlap' is {overlap}; it must be less than 'tile', {tile}. A quarter of it is"
            " usual."
        )
    ratio, multiple = _latent_units(model.model)
    side = None if choice != "fixed" else multiple_above(-(-tile // ratio), multiple)
    patched = model.clone()
    tiles = _Tiles(side, -(-overlap // ratio), multiple, ratio, blend)
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, tiles.calc_cond_batch)
    patched.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, tiles.prepare_sampling)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, tiles.outer_sample)
    return patched


def current_tile(model: Any) -> tuple[int, int] | None:
    """Return side and overlap in latent pixels of the tiles of a MODEL's run, None without tiles."""
    patches = model.get_wrappers(WrappersMP.CALC_COND_BATCH, KEY)
    if not patches:
        return None
    tiles: _Tiles = patches[-1].__self__
    return tiles.side, tiles.side - tiles.stride_of(tiles.side)


class TiledVAE:
    """A VAE that encodes and decodes in overlapping tiles what is larger than one.

    Every tile is one call of ComfyUI's own `encode` or `decode`, which makes room for it and falls
    back to smaller ones where memory runs out. The average of tiles fades over their overlap.

    Args:
        vae: The VAE.
        tiles: Side and overlap of tiles in pixels of the picture.
    """

    def __init__(self, vae: Any, tiles: TileSettings):
        self.vae = vae
        self.tiles = tiles

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vae, name)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the latent of an IMAGE whose sides are multiples of the VAE's ratio."""
        ratio = self.vae.spacial_compression_encode()
        size = pixels.shape[1] // ratio, pixels.shape[2] // ratio

        def needed(height: int, width: int) -> float:
            shape = (len(pixels), 3, height * ratio, width * ratio)
            return self.vae.memory_used_encode(shape, self.vae.vae_dtype)

        grid = self._grid(size, ratio, needed)
        if grid is None:
            return self.vae.encode(pixels)
        planes = pixels.movedim(-1, 1)  # (B, 3, H, W)

        def encoded(window: Window) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            return self.vae.encode(window.cut(planes, ratio).movedim(1, -1))  # (B, C, h, w)

        return grid.merge(map(encoded, grid.windows))

    def decode(self, samples: Tensor) -> Tensor:
        """Return the IMAGE of a latent."""
        ratio = self.vae.spacial_compression_decode()
        size = samples.shape[-2], samples.shape[-1]

        def needed(height: int, width: int) -> float:
            shape = (*samples.shape[:2], height, width)
            return self.vae.memory_used_decode(shape, self.vae.vae_dtype)

        grid = self._grid(size, ratio, needed)
        if grid is None:
            return self.vae.decode(samples)

        def decoded(window: Window) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            return self.vae.decode(window.cut(samples)).movedim(-1, 1)  # (B, 3, ratio h, ratio w)

        return grid.merge(map(decoded, grid.windows), ratio).movedim(1, -1)

    def _grid(
        self, size: tuple[int, int], ratio: int, needed: Callable[[int, int], float]
    ) -> Grid | None:
        """Return the windows over a latent of a size, None where it is taken whole."""
        if not any(True for _ in self.vae.first_stage_model.parameters()):
            return None  # what only folds pixels needs no tiles
        side = max(1, self.tiles.tile // ratio)
        overlap = min(self.tiles.overlap // ratio, side - 1)  # rounding may make both the same
        if self.tiles.by_memory:
            side = largest_side(
                lambda side: needed(min(side, size[0]), min(side, size[1])),
                room_beside(self.vae.patcher),
                max(size),
                LEAST_VAE_TILE_PX // ratio,
            )
            overlap = min(overlap, side // 2)
        if max(size) <= side:
            return None
        if self.tiles.by_memory:
            logger.info("the VAE takes tiles of %d pixels, for which memory is free", side * ratio)
        return Grid(size, side, overlap, self.tiles.blend)


def in_tiles(model: Any, vae: Any, tiles: TileSettings) -> tuple[Any, Any]:
    """Return a MODEL that denoises in tiles and a VAE that works in them, where `tiles` says so.

    Args:
        model: A MODEL.
        vae: Its VAE.
        tiles: How pictures are cut; where it is not at every step, both come back as they are.
    """
    if not tiles.at_every_step:
        return model, vae
    model = patch_tiles(model, tiles.tile, tiles.overlap, tiles.blend, tiles.choice)
    return model, TiledVAE(vae, tiles)


def _latent_units(model: Any) -> tuple[int, int]:
    """Return output pixels per latent pixel and what the sides of a tile are multiples of."""
    ratio = getattr(model.latent_format, "spacial_downscale_ratio", 8)
    multiple = UNET_MULTIPLE
    if isinstance(model, ResShiftModel):
        multiple = model.network_config.size_multiple
    return ratio, multiple


class _Tiles:
    """The wrappers of one patched MODEL.

    Attributes:
        tile: Side of a tile in latent pixels; None takes it from free memory.
        side: The side that the current run takes.
        may_halve: Whether the current run still takes smaller tiles when memory runs out.
        caches: EasyCache's state for the windows of a call, in the current run.
        weights: Weights of tiles by size, overlap and device, in the current run.
    """

    def __init__(self, tile: int | None, overlap: int, multiple: int, ratio: int, blend: TileBlend):
        self.tile = tile
        self.overlap = overlap
        self.multiple = multiple
        self.ratio = ratio
        self.blend: TileBlend = blend
        self.side = tile or multiple
        self.may_halve = True
        self.caches: dict[tuple[Window, ...], Any] = {}
        self.weights: dict[tuple, Tensor] = {}

    def outer_sample(self, executor: Callable[..., Tensor], *args: Any, **kw: Any) -> Tensor:
        """Run, and leave nothing on the device."""
        try:
            return executor(*args, **kw)
        finally:
            self.caches.clear()
            self.weights.clear()

    def prepare_sampling(
        self,
        executor: Callable[..., Any],
        model: Any,
        noise_shape: list[int],
        conds: dict[str, list],
        *args: Any,
        **kw: Any,
    ) -> Any:
        """Begin a run, and let ComfyUI make room for a tile rather than for the whole latent."""
        self.may_halve = True
        self.side = self.tile or self._side_by_memory(model, noise_shape, conds)
        return executor(model, _tile_shape(noise_shape, self.side), conds, *args, **kw)

    def calc_cond_batch(
        self,
        executor: Callable[..., list[Tensor]],
        model: Any,
        conds: list[list[dict[str, Any]] | None],
        x_in: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> list[Tensor]:
        """Return a prediction for every branch, made in tiles."""
        try:
            return self._in_tiles(executor, model, conds, x_in, timestep, model_options)
        except RuntimeError as error:
            used = min(self.side, multiple_above(max(x_in.shape[-2:]), self.multiple))
            half = multiple_above(max(self.multiple, used // 2), self.multiple)
            if not is_out_of_memory(error) or not self.may_halve or half == used:
                raise
            logger.warning(
                "Out of memory with tiles of %d pixels; this run goes on with %d, whose result is"
                " not exactly the same.",
                used * self.ratio,
                half * self.ratio,
            )
        # Only now, for until here the error holds what was computed.
        comfy.model_management.soft_empty_cache()
        self.side, self.may_halve = half, False
        self.caches.clear()
        return self._in_tiles(executor, model, conds, x_in, timestep, model_options)

    def _weights(self, height: int, width: int, overlap: int, device: torch.device) -> Tensor:
        """Return the weights of a tile on a device; they are made and copied once in a run."""
        key = (height, width, overlap, device)
        if key not in self.weights:
            weights = blend_weights(height, width, overlap, self.blend)
            self.weights[key] = weights.float().to(device)
        return self.weights[key]

    def _options_for(self, group: list[Window], model_options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a call, in which EasyCache keeps these windows by themselves.

        It keeps what the model did to its last input, and would add one window's to another.
        """
        options = model_options.get("transformer_options", {})
        shared = options.get("easycache")
        if not hasattr(shared, "uuid_cache_diffs"):
            return model_options
        own = self.caches.get(tuple(group))
        if own is None:
            own = self.caches[tuple(group)] = shared.clone()
            own.start_t, own.end_t = shared.start_t, shared.end_t
        own.skip_current_step = False
        return {**model_options, "transformer_options": {**options, "easycache": own}}

    def stride_of(self, side: int) -> int:
        """Return the distance of neighbouring tiles; the overlap's share of a tile is kept."""
        whole = self.tile or max(side, 2 * self.overlap)
        return max(1, side * (whole - self.overlap) // whole)

    def _side_by_memory(self, model: Any, shape: list[int], conds: dict[str, list]) -> int:
        controls, _ = get_additional_models(conds, model.model_dtype())
        side = largest_side(
            lambda side: model.model.memory_required(_tile_shape(shape, side)),
            room_beside(model, *controls, *model.get_nested_additional_models()),
            max(shape[-2:]),
            self.multiple,
        )
        logger.info("tiles of %d pixels, for which memory is free", side * self.ratio)
        return side

    def _in_tiles(
        self,
        executor: Callable[..., list[Tensor]],
        model: Any,
        conds: list[list[dict[str, Any]] | None],
        x_in: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
    ) -> list[Tensor]:
        if x_in.ndim != 4:
            raise ValueError("tiles work on pictures; this model's latents have another shape.")
        side, stride = self.side, self.stride_of(self.side)
        windows = list(_windows(x_in.shape[-2:], side, stride))
        if len(windows) == 1:
            return executor(model, conds, x_in, timestep, model_options)
        for entry in (entry for branch in conds if branch is not None for entry in branch):
            _prepare_hints(entry, x_in, timestep, model_options)
        height, width = windows[0].height, windows[0].width
        weights = self._weights(height, width, side - stride, x_in.device)
        totals = [torch.zeros(x_in.shape, device=x_in.device) for _ in conds]  # (B, C, H, W) each
        counts = torch.zeros(x_in.shape[-2:], device=x_in.device)  # (H, W)
        for group in _groups(windows, model, conds, x_in):
            options = self._options_for(group, model_options)
            comfy.model_management.throw_exception_if_processing_interrupted()
            controls: dict[int, Any] = {}
            cut = [_cut_branch(branch, group, x_in, controls) for branch in conds]
            x = torch.cat([window.cut(x_in) for window in group])  # (windows B, C, h, w)
            predicted = executor(model, cut, x, timestep.repeat(len(group)), options)
            for total, branch in zip(totals, predicted, strict=True):
                for window, tile in zip(group, branch.chunk(len(group)), strict=True):
                    window.cut(total).add_(tile * weights)  # (B, C, h, w)
            for window in group:
                window.cut(counts).add_(weights)
        return [(total / counts).to(x_in.dtype) for total in totals]


def _windows(size: Sequence[int], side: int, stride: int) -> Iterator[Window]:
    height, width = (min(side, length) for length in size)
    for top in sliding_windows(size[0], height, stride):
        for left in sliding_windows(size[1], width, stride):
            yield Window(top, left, height, width)


def _tile_shape(shape: Sequence[int], side: int) -> list[int]:
    return [*shape[:-2], *(min(side, length) for length in shape[-2:])]


def _groups(
    windows: list[Window], model: Any, conds: list[list[dict[str, Any]] | None], x: Tensor
) -> Iterator[list[Window]]:
    """Yield windows that are denoised in one call; those with areas or masks go one by one."""
    branches = [branch for branch in conds if branch is not None]
    size = 1
    if not any(_is_local(entry) for branch in branches for entry in branch):
        shape = [len(branches) * len(x), x.shape[1], windows[0].height, windows[0].width]
        size = _windows_per_call(model, shape, x.device)
    for start in range(0, len(windows), size):
        yield windows[start : start + size]


def _windows_per_call(model: Any, shape: list[int], device: torch.device) -> int:
    """Return how many windows of a shape fit into memory at once; on a CPU more gain nothing."""
    if comfy.model_management.is_device_cpu(device):
        return 1
    if hasattr(model.current_patcher, "get_free_memory"):  # newer ComfyUI: what it could free too
        free = model.current_patcher.get_free_memory(device)
    else:
        free = comfy.model_management.get_free_memory(device)
    return max(1, int(free // (MARGIN * model.memory_required(shape))))


def _is_local(entry: dict[str, Any]) -> bool:
    return "area" in entry or "mask" in entry


def _cut_branch(
    branch: list[dict[str, Any]] | None,
    group: list[Window],
    x: Tensor,
    controls: dict[int, Any],
) -> list[dict[str, Any]] | None:
    if branch is None:
        return None
    cut = (_cut_entry(entry, group, x, controls) for entry in branch)
    return [entry for entry in cut if entry is not None]


def _cut_entry(
    entry: dict[str, Any], group: list[Window], x: Tensor, controls: dict[int, Any]
) -> dict[str, Any] | None:
    """Return a conditioning as the windows see it, or None if it lies outside of them.

    `controls` holds the controls already cut for these windows by the identity of the whole one:
    ComfyUI joins branches only where they share theirs.
    """
    if "gligen" in entry:
        raise ValueError("GLIGEN boxes cannot be cut into tiles; remove them or the tiles.")
    entry = dict(entry)
    if _is_local(entry):
        (window,) = group
        if not _cut_region(entry, window):
            return None
    entry["model_conds"] = {
        name: _cut_cond(cond, group, x) for name, cond in entry["model_conds"].items()
    }
    control = entry.get("control")
    if control is not None:
        if id(control) not in controls:
            controls[id(control)] = _window_control(control, group, len(x))
        entry["control"] = controls[id(control)]
    return entry


def _cut_region(entry: dict[str, Any], window: Window) -> bool:
    """Cut area and mask of an entry to a window; return whether anything is left."""
    if "area" in entry:
        height, width, top, left = entry["area"]
        first = (max(top, window.top), max(left, window.left))
        last = (
            min(top + height, window.top + window.height),
            min(left + width, window.left + window.width),
        )
        if last[0] <= first[0] or last[1] <= first[1]:
            return False
        entry["area"] = (
            last[0] - first[0],
            last[1] - first[1],
            first[0] - window.top,
            first[1] - window.left,
        )
    if "mask" in entry:
        entry["mask"] = window.cut(entry["mask"])
    return True


def _cut_cond(cond: Any, group: list[Window], x: Tensor) -> Any:
    tensor = cond.cond
    is_map = isinstance(cond, comfy.conds.CONDNoiseShape) and tensor.shape[-2:] == x.shape[-2:]
    if not is_map:
        return cond
    if isinstance(cond, ControlHint) and len(tensor) > 1:
        # The hints of all prepared pictures: the control takes those of the pictures sampled.
        return cond._copy_with(torch.cat([window.cut(tensor) for window in group]))
    return cond._copy_with(_cut_all(tensor, group, len(x)))


def _cut_all(tensor: Tensor, group: list[Window], batch: int, ratio: int = 1) -> Tensor:
    """Return the windows of a map one after another, each for the whole batch."""
    if len(group) > 1 and len(tensor) != batch:
        repeats = -(-batch // len(tensor))
        tensor = tensor.repeat(repeats, *(1 for _ in tensor.shape[1:]))[:batch]
    return torch.cat([window.cut(tensor, ratio) for window in group])  # (windows B, C, h, w)


# Control branches


class _NoControl:
    """Stands where a control network does, so that ComfyUI prepares its hint and computes nothing."""

    def __init__(self, network: Any):
        self.dtype = network.dtype

    def __call__(self, **_: Any) -> dict[str, list]:
        return {}


def _prepare_hints(
    entry: dict[str, Any], x: Tensor, timestep: Tensor, model_options: dict[str, Any]
) -> None:
    """Let every control of an entry prepare its hint for the whole latent, once for the run.

    ComfyUI would scale a hint to whatever it meets, a tile included. It drops the hints at the end
    of a run.
    """
    control = entry.get("control")
    options = model_options.get("transformer_options", {})
    conditioning = {name: cond.cond for name, cond in entry["model_conds"].items()}
    while control is not None:
        ratio = control.compression_ratio
        wanted = tuple(side * ratio for side in x.shape[-2:])
        if control.cond_hint is None or tuple(control.cond_hint.shape[-2:]) != wanted:
            probe = copy.copy(control)
            probe.previous_controlnet = None
            probe.cond_hint = None
            if hasattr(probe, "control_model"):
                probe.control_model = _NoControl(control.control_model)
            probe.get_control(x, timestep, conditioning, 1, options)
            control.cond_hint = probe.cond_hint
        control = control.previous_controlnet


def _window_control(control: Any, group: list[Window], batch: int) -> Any:
    """Return a control, and those before it, whose hint is the windows' part."""
    own = copy.copy(control)
    if own.cond_hint is not None:
        own.cond_hint = _cut_all(control.cond_hint, group, batch, control.compression_ratio)
    if hasattr(own, "control_input"):  # a T2I adapter keeps the features of its last hint
        own.control_input = None
    if control.previous_controlnet is not None:
        own.previous_controlnet = _window_control(control.previous_controlnet, group, batch)
    own.multigpu_clones = {
        device: _on_device(clone, own, device)
        for device, clone in getattr(control, "multigpu_clones", {}).items()
    }
    return own


def _on_device(clone: Any, window: Any, device: torch.device) -> Any:
    """Return what ComfyUI runs on another device in the place of a windows' control."""
    own = copy.copy(clone)
    if window.cond_hint is not None:
        own.cond_hint = window.cond_hint.to(device)
    if hasattr(own, "control_input"):
        own.control_input = None
    if window.previous_controlnet is not None:
        own.previous_controlnet = window.previous_controlnet.get_instance_for_device(device)
    return own
