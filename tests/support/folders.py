"""Folders of small pictures, workflows for them, and the folder command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pack.folders.job import Encoding, Job, Outcome
from pack.folders.listing import Choice, Picture, list_pictures
from pack.folders.workflow import Workflow, read_workflow

PACK_ROOT = Path(__file__).resolve().parents[2]
BARE = ["--cpu", "--disable-all-custom-nodes", "--disable-api-nodes"]  # starts fastest
SECONDS = 300


def inverting(**more: Any) -> dict[str, Any]:
    """Return a workflow of ComfyUI's own nodes that inverts a picture, in API form."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
        **more,
    }


def write_workflow(path: Path, prompt: dict[str, Any]) -> Path:
    """Write a workflow file and return it."""
    path.write_text(json.dumps(prompt), encoding="utf-8")
    return path


def write_pictures(folder: Path, names: Iterable[str], side: int = 16) -> dict[str, np.ndarray]:
    """Write pictures of random pixels and return them by their name, `(side, side, 3)` bytes."""
    random = np.random.default_rng(0)
    pictures = {name: random.integers(0, 256, (side, side, 3), np.uint8) for name in names}
    for name, pixels in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return pictures


def make_job(base: Path, prompt: dict[str, Any], **changed: Any) -> Job:
    """Return a job on `base/in` and `base/out`, whose folders are made."""
    for name in ("in", "out", "out/.partial/1-of-1"):
        (base / name).mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {
        "workflow": read_workflow(write_workflow(base / "workflow.json", prompt), [], None, []),
        "source": base / "in",
        "target": base / "out",
        "partial": base / "out" / ".partial" / "1-of-1",
        "encoding": Encoding("png", 92, False),
        "same_seed": False,
        "frames_at_once": 2,
        "settings": "these",
        "comfyui": Path("not used"),
        "comfyui_arguments": (),
    }
    return Job(**{**told, **changed})


def all_of(folder: Path) -> list[Picture]:
    """Return every picture of a folder."""

    def fail(path: str, error: OSError) -> None:
        raise AssertionError(path) from error

    return list(list_pictures(folder, Choice(), fail))


def restore_here(job: Job) -> dict[str, Outcome]:
    """Restore a job's pictures in the ComfyUI of this process; return what came of each."""
    return {outcome.input: outcome for outcome in EngineHere().run(job, all_of(job.source))}


class EngineHere:
    """An engine in the ComfyUI of this process, which cannot be started twice."""

    def run(self, job: Job, pictures: Iterable[Picture]) -> Iterator[Outcome]:
        """Yield what came of each picture."""
        from pack.folders.engines import restore_all
        from pack.folders.restorer import Restorer
        from pack.tests.support.running import MessageRecorder

        yield from restore_all(Restorer(job, MessageRecorder()), pictures)


def command(*arguments: object, comfyui: list[str] = BARE) -> list[str]:
    """Return the command line of the folder command."""
    run = PACK_ROOT / "folders" / "run.py"
    return [sys.executable, str(run), *map(str, arguments), "--", *comfyui]


def environment(base: Path) -> dict[str, str]:
    """Return the environment for it; one thread, for the same bits wherever it runs."""
    home = base / "home"
    home.mkdir(exist_ok=True)
    return {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(home)}


def run_command(base: Path, *arguments: object, **more: Any) -> subprocess.CompletedProcess:
    """Run the folder command to its end."""
    return subprocess.run(
        command(*arguments, **more), capture_output=True, text=True, timeout=SECONDS,
        env=environment(base), errors="surrogateescape",
    )  # fmt: skip


def manifest_of(target: Path) -> list[Outcome]:
    """Return every line of a folder's manifests."""
    return list(_lines(target.glob("manifest*.jsonl")))


def _lines(paths: Iterable[Path]) -> Iterator[Outcome]:
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            yield Outcome.from_line(line)


def nothing_partial(target: Path) -> bool:
    """Return whether no file is left in a folder that was being written, or counted as begun."""
    partial = target / ".partial"
    return not [path for path in partial.rglob("*") if path.is_file() and path.name != "lock"]


def contents(target: Path) -> dict[str, bytes]:
    """Return every result of a folder by its path."""
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in sorted(target.rglob("*"))
        if ".partial" not in path.parts
        if path.is_file() and path.suffix in (".png", ".jpg", ".webp", ".mp4", ".mkv")
    }


def workflow_of(prompt: dict[str, Any], base: Path, *arguments: Any) -> Workflow:
    """Return what `read_workflow` makes of a workflow."""
    path = write_workflow(base / "workflow.json", prompt)
    return read_workflow(path, *(arguments or ([], None, [])))
