"""What is already restored of a video, in ComfyUI's temporary folder, so that a run can go on."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..samplers.moved_noise import NoisePlaces
from ..videos.reading import Look
from ..videos.writing import SegmentWriter
from .clip_motion import ClipMemory

NAME = re.compile(r"(\d{8})-(\d{8})\.mp4")
UNFINISHED = "unfinished.mp4"


@dataclass(frozen=True)
class Restored:
    """Some frames of a video that have been restored.

    Attributes:
        images: `(N, H, W, 3)` IMAGE.
        memory: What is kept of the video after the last of them.
    """

    images: Tensor
    memory: ClipMemory


def run_key(prompt: dict[str, Any] | None, node: str | None, digest: str) -> str | None:
    """Return what tells a run from others: the frames, the node and all that leads to it.

    ComfyUI empties its temporary folder when it starts, so a key need not tell model files of one
    name apart: until then ComfyUI takes them for one, too.

    Args:
        prompt: The workflow as ComfyUI runs it.
        node: The node's id in it.
        digest: Of the frames.
    Returns:
        None where the workflow is unknown.
    """
    if prompt is None or node not in prompt:
        return None
    wanted, seen = [node], {}
    while wanted:
        name = wanted.pop()
        if name not in seen and name in prompt:
            inputs = prompt[name]["inputs"]
            seen[name] = (prompt[name]["class_type"], inputs)
            wanted += [value[0] for value in inputs.values() if _is_link(value)]
    told = json.dumps([node, digest, seen], sort_keys=True, default=repr)
    return hashlib.sha256(told.encode()).hexdigest()


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


class Segments:
    """Restored frames as short videos that follow one another."""

    def __init__(self, folder: Path, look: Look, crf: float):
        """Find what is there.

        Args:
            folder: Where they lie; made where there is none.
            look: How the frames are shown.
            crf: x264's constant rate factor.
        """
        self._folder = folder
        self._look = look
        self._crf = crf
        folder.mkdir(parents=True, exist_ok=True)
        self.paths: list[Path] = []
        self.frames = 0
        found = {path.name: NAME.fullmatch(path.name) for path in folder.iterdir()}
        for name in sorted(found):
            if (match := found[name]) and int(match[1]) == self.frames:
                self.paths.append(folder / name)
                self.frames = int(match[2])

    def memory(self) -> ClipMemory:
        """Return what is kept of the video after the last frame that is there."""
        if not self.frames:
            return ClipMemory()
        kept = torch.load(self._state(self.frames), weights_only=True)
        places = kept.pop("places")
        return ClipMemory(**kept, places=places and NoisePlaces(**places))

    def add(self, parts: Iterable[Restored]) -> None:
        """Write a segment of parts; what came before an error or an interrupt stays.

        Args:
            parts: One part or more.
        """
        unfinished = self._folder / UNFINISHED
        writer = SegmentWriter(unfinished, self._look, self._crf)
        memory: ClipMemory | None = None
        try:
            for part in parts:
                memory = None  # until all of the part is in
                writer.add(part.images.cpu().float().numpy())
                memory = part.memory
                del part  # before the next one is made
        finally:
            writer.finish()
            if memory is not None:
                self._keep(unfinished, writer.frames, memory)
            unfinished.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _keep(self, unfinished: Path, frames: int, memory: ClipMemory) -> None:
        end = self.frames + frames
        kept = {name: _alone(getattr(memory, name)) for name in ("frame", "latent")}
        places = memory.places and {
            "sources": _alone(memory.places.sources),
            "offsets": _alone(memory.places.offsets),
        }
        torch.save({**kept, "places": places}, self._state(end))
        path = self._folder / f"{self.frames:08}-{end:08}.mp4"
        unfinished.replace(path)
        if self.frames:
            self._state(self.frames).unlink()
        self.paths.append(path)
        self.frames = end

    def _state(self, frames: int) -> Path:
        return self._folder / f"{frames:08}.pt"


def _alone(tensor: Tensor | None) -> Tensor | None:
    """Return a tensor without the larger one that it may be a part of."""
    return None if tensor is None else tensor.clone()
