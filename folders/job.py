"""What is to be done with every picture, and what came of one; both travel between machines."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from .workflow import Workflow

State = Literal["done", "failed", "stopped"]
PARTIAL = ".partial"  # in the output folder: what is being written, and the lock


@dataclass(frozen=True)
class Encoding:
    """How results are written.

    Attributes:
        format: The file format of pictures.
        quality: 1 to 100 for jpg and webp; for videos too, where 100 is nearly without loss.
        keep_metadata: Take EXIF and ICC profile over from the picture.
    """

    format: Literal["png", "jpg", "webp"]
    quality: int
    keep_metadata: bool


@dataclass(frozen=True)
class Job:
    """What is to be done with every picture.

    Attributes:
        workflow: What is run.
        source: The folder of pictures.
        target: The folder of results.
        partial: A folder in `target` for what is being written.
        encoding: How results are written.
        same_seed: Use the workflow's seed for every picture.
        frames_at_once: How many frames of a video are one batch.
        settings: SHA-256 of all this but the folders.
        comfyui: The folder of ComfyUI.
        comfyui_arguments: What ComfyUI is started with.
    """

    workflow: Workflow
    source: Path
    target: Path
    partial: Path
    encoding: Encoding
    same_seed: bool
    frames_at_once: int
    settings: str
    comfyui: Path
    comfyui_arguments: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of one picture: a line of the manifest.

    Attributes:
        input: Its path below the input folder, with "/".
        state: "done"; "failed": this picture alone; "stopped": nothing more can be done.
        reason: Why it is not done.
        sha256: Of its content.
        bytes: Its size.
        modified_ns: When it was changed last.
        settings: What it was restored with (`Job.settings`).
        outputs: Path below the output folder and size in bytes of each result.
        seconds: How long reading, restoring and writing took, waiting left out.
        worker: The machine and process that restored it.
        finished: Seconds since 1970.
    """

    input: str
    state: State
    reason: str = ""
    sha256: str = ""
    bytes: int = -1
    modified_ns: int = -1
    settings: str = ""
    outputs: tuple[tuple[str, int], ...] = ()
    seconds: float = 0.0
    worker: str = ""
    finished: float = 0.0

    def to_line(self) -> str:
        """Return one line of JSON, in ASCII: names that are no Unicode come back as they were."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str | bytes) -> Outcome:
        """Return what `to_line` wrote.

        Raises:
            ValueError: It is something else.
        """
        told: Any = json.loads(line)
        try:
            outputs = tuple((str(path), int(size)) for path, size in told.pop("outputs"))
            return cls(outputs=outputs, **told)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"this is no line of a manifest: {line!r}") from error


def inside(folder: Path, path: str) -> Path:
    """Return `folder / path`, whose place is made.

    Raises:
        ValueError: It would lie outside of the folder, by ".." or by a link.
    """
    target = folder / path
    root = os.path.realpath(folder)
    place = os.path.realpath(target.parent)
    if os.path.commonpath([root, place]) != root or target.name in ("", ".", ".."):
        raise ValueError(
            f"{target} leads out of {folder}, by a link or by its name. Nothing was written:"
            " remove the link, or choose another output folder."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
