"""Sampling in tiles: every step denoises overlapping windows of the latent and blends them.

The windows are cut where ComfyUI calls the model for the conditional and the unconditional branch,
so everything before it (sampler, noise, masks) and after it (CFG, guidance) sees the whole latent.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import comfy.conds
import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..model_loaders.resshift_model import ResShiftModel
from ..samplers.tiles import TileBlend, blend_weights, sliding_windows

logger = logging.getLogger("resshift-diffbir")

Tiling = Literal["per step", "official chop", "off"]
TILINGS: tuple[str, ...] = get_args(Tiling)

KEY = "restoration_tiles"
# Latents of diffusion UNets are halved three times.
UNET_MULTIPLE = 8


@dataclass(frozen=True)
class TileSettings:
    """How a large picture is cut.

    Attributes:
        tiling: `per step` denoises tiles of one latent at every step; `official chop` restores
            pieces of the picture one by one and averages them, as the reference does; `off` takes
            the picture whole.
        tile: Side of a tile in pixels of the result. Whatever is not larger is not cut.
        overlap: Pixels of the result that tiles share, for `per step`; `official chop` takes an
            eighth of the tile, as the reference does.
    """

    tiling: Tiling = "per step"
    tile: int = 1024
    overlap: int = 256


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


def patch_tiles(model: Any, tile: int, overlap: int, blend: TileBlend = "linear") -> Any:
    """Return a clone of a MODEL that denoises in tiles.

    A latent that is not larger than a tile is denoised whole, exactly as without the patch. One
    noise field serves the whole latent, guidance and CFG act on the whole latent.

    Args:
        model: Any MODEL of 4-D latents.
        tile: Side of a tile in output pixels, rounded up to what the network needs.
        overlap: Overlap of neighbouring tiles in output pixels, rounded likewise; less than a tile.
        blend: How overlapping tiles are weighted.
    Raises:
        ValueError: If the overlap is not smaller than the tile.

    Source: Lin et al. 2023 (arXiv 2308.15070), patch-based sampling; for ResShift by analogy.
    """
    if not 0 <= overlap < tile:
        raise ValueError(
            f"the overlap ({overlap}) must be smaller than the tile ({tile}); a quarter of it is a"
            " good value."
        )
    ratio, multiple = _grid(model.model)
    side = _round_up(-(-tile // ratio), multiple)
    patched = model.clone()
    tiles = _Tiles(side, side - -(-overlap // ratio), multiple, blend)
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, tiles.calc_cond_batch)
    patched.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, tiles.prepare_sampling)
    return patched


class TiledVAE:
    """A VAE that encodes and decodes in tiles what is larger than one, with ComfyUI's own tiling.

    Args:
        vae: The VAE.
        tile: Side of a tile in pixels.
        overlap: Pixels that neighbouring tiles share.
    """

    def __init__(self, vae: Any, tile: int, overlap: int):
        self.vae = vae
        self.tile = tile
        self.overlap = overlap

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vae, name)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the latent of an IMAGE."""
        if max(pixels.shape[1:3]) <= self.tile or not self._has_weights():
            return self.vae.encode(pixels)
        return self.vae.encode_tiled(
            pixels[..., :3], tile_x=self.tile, tile_y=self.tile, overlap=self.overlap
        )

    def decode(self, samples: Tensor) -> Tensor:
        """Return the IMAGE of a latent."""
        ratio = self.vae.spacial_compression_decode()
        if max(samples.shape[2:]) * ratio <= self.tile or not self._has_weights():
            return self.vae.decode(samples)
        side, overlap = max(1, self.tile // ratio), self.overlap // ratio
        return self.vae.decode_tiled(samples, tile_x=side, tile_y=side, overlap=overlap)

    def _has_weights(self) -> bool:
        """Return whether it is a network; what only folds pixels needs no tiles."""
        return any(True for _ in self.vae.first_stage_model.parameters())


def _grid(model: Any) -> tuple[int, int]:
    """Return output pixels per latent pixel and what the sides of a tile are multiples of."""
    ratio = getattr(model.latent_format, "spacial_downscale_ratio", 8)
    multiple = UNET_MULTIPLE
    if isinstance(model, ResShiftModel):
        multiple = model.network_config.size_multiple
    return ratio, multiple


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class _Tiles:
    """The wrappers of one patched MODEL."""

    def __init__(self, side: int, stride: int, multiple: int, blend: TileBlend):
        self.side = side
        self.stride = stride
        self.multiple = multiple
        self.blend: TileBlend = blend
        # The run that ran out of memory, by its sigmas, and the side it goes on with.
        self.smaller: tuple[Tensor | None, int] | None = None

    def prepare_sampling(
        self,
        executor: Callable[..., Any],
        model: Any,
        noise_shape: list[int],
        *args: Any,
        **kw: Any,
    ) -> Any:
        """Let ComfyUI make room for a tile rather than for the whole latent."""
        shape = [*noise_shape[:-2], *(min(side, self.side) for side in noise_shape[-2:])]
        return executor(model, shape, *args, **kw)

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
        run = model_options.get("transformer_options", {}).get("sample_sigmas")
        side, stride = self.side, self.stride
        if self.smaller is not None and self.smaller[0] is run and run is not None:
            side, stride = self._halved(self.smaller[1])
        try:
            return self._in_tiles(
                executor, model, conds, x_in, timestep, model_options, side, stride
            )
        except comfy.model_management.OOM_EXCEPTION:
            if side != self.side or side <= self.multiple:
                raise
            logger.warning(
                "Out of memory with tiles of %d latent pixels; this run goes on with %d.",
                side,
                self._halved(side)[0],
            )
        comfy.model_management.soft_empty_cache()
        self.smaller = (run, side)
        side, stride = self._halved(side)
        return self._in_tiles(executor, model, conds, x_in, timestep, model_options, side, stride)

    def _halved(self, side: int) -> tuple[int, int]:
        half = _round_up(max(self.multiple, side // 2), self.multiple)
        return half, max(1, half * self.stride // self.side)

    def _in_tiles(
        self,
        executor: Callable[..., list[Tensor]],
        model: Any,
        conds: list[list[dict[str, Any]] | None],
        x_in: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
        side: int,
        stride: int,
    ) -> list[Tensor]:
        if x_in.ndim != 4:
            raise ValueError("tiles work on pictures; this model's latents have another shape.")
        windows = list(_windows(x_in, side, stride))
        if len(windows) == 1:
            return executor(model, conds, x_in, timestep, model_options)
        for entry in (entry for branch in conds if branch is not None for entry in branch):
            _prepare_hints(entry, x_in, timestep, model_options)
        height, width = windows[0].height, windows[0].width
        weights = blend_weights(height, width, side - stride, self.blend).float().to(x_in.device)
        totals = [torch.zeros(x_in.shape, device=x_in.device) for _ in conds]
        counts = torch.zeros(x_in.shape[-2:], device=x_in.device)
        for group in _groups(windows, model, conds, x_in):
            comfy.model_management.throw_exception_if_processing_interrupted()
            controls: dict[int, Any] = {}
            cut = [_cut_branch(branch, group, x_in, controls) for branch in conds]
            x = torch.cat([window.cut(x_in) for window in group])
            predicted = executor(model, cut, x, timestep.repeat(len(group)), model_options)
            for total, branch in zip(totals, predicted, strict=True):
                for window, tile in zip(group, branch.chunk(len(group)), strict=True):
                    window.cut(total).add_(tile * weights)
            for window in group:
                window.cut(counts).add_(weights)
        return [(total / counts).to(x_in.dtype) for total in totals]


def _windows(x: Tensor, side: int, stride: int) -> Iterator[Window]:
    height, width = (min(side, length) for length in x.shape[-2:])
    for top in sliding_windows(x.shape[-2], height, stride):
        for left in sliding_windows(x.shape[-1], width, stride):
            yield Window(top, left, height, width)


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
    # ComfyUI joins the branches where one and a half times the estimate is free.
    free = comfy.model_management.get_free_memory(device)
    return max(1, int(free // (1.5 * model.memory_required(shape))))


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
    return cond._copy_with(_cut_all(tensor, group, len(x)))


def _cut_all(tensor: Tensor, group: list[Window], batch: int, ratio: int = 1) -> Tensor:
    """Return the windows of a map one after another, each for the whole batch."""
    if len(group) > 1 and len(tensor) != batch:
        repeats = -(-batch // len(tensor))
        tensor = tensor.repeat(repeats, *(1 for _ in tensor.shape[1:]))[:batch]
    return torch.cat([window.cut(tensor, ratio) for window in group])


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
    return own
