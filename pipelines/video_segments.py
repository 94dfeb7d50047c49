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

from ..videos.reading import Look
from ..videos.writing import SegmentWriter

NAME = re.compile(r"(\d{8})-(\d{8})\.mp4")
UNFINISHED = "unfinished.mp4"


@dataclass(frozen=True)
class Before:
    """The frame before some others, and what it became.

    Attributes:
        frame: `(1, h, w, C)` IMAGE.
        restored: `(1, H, W, 3)` IMAGE.
    """

    frame: Tensor
    restored: Tensor


@dataclass(frozen=True)
class Restored:
    """Some frames of a video that have been restored.

    Attributes:
        images: `(N, H, W, 3)` IMAGE.
        last: The last of them, before and after.
    """

    images: Tensor
    last: Before


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

    def before(self) -> Before | None:
        """Return the last frame that is there; None at the beginning."""
        if not self.frames:
            return None
        state = torch.load(self._state(self.frames), weights_only=True)
        return Before(state["frame"], state["restored"])

    def add(self, parts: Iterable[Restored]) -> None:
        """Write a segment of parts; what came before an error or an interrupt stays.

        Args:
            parts: One part or more.
        """
        unfinished = self._folder / UNFINISHED
        writer = SegmentWriter(unfinished, self._look, self._crf)
        last: Before | None = None
        try:
            for part in parts:
                last = None  # until all of the part is in
                writer.add(part.images.cpu().float().numpy())
                last = part.last
        finally:
            writer.finish()
            if last is not None:
                self._keep(unfinished, writer.frames, last)
            unfinished.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _keep(self, unfinished: Path, frames: int, last: Before) -> None:
        end = self.frames + frames
        torch.save(
            {"frame": last.frame.clone(), "restored": last.restored.clone()}, self._state(end)
        )
        path = self._folder / f"{self.frames:08}-{end:08}.mp4"
        unfinished.replace(path)
        if self.frames:
            self._state(self.frames).unlink()
        self.paths.append(path)
        self.frames = end

    def _state(self, frames: int) -> Path:
        return self._folder / f"{frames:08}.pt"
