"""The model files that this pack can use: where they come from and where they belong."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..model_loaders.released import own_command

MANIFEST = Path(__file__).with_name("manifest.json")
PACK_ROOT = Path(__file__).resolve().parents[1]

# Folders of a category that ComfyUI searches besides the one named like it.
ALSO_SEARCHED = {"diffusion_models": ("unet",), "controlnet": ("t2i_adapter",)}


class ModelFilesError(Exception):
    """A failure whose message tells the reader what to do."""


@dataclass(frozen=True)
class Licence:
    """Under which terms a file may be used, as its project states them.

    Attributes:
        title: Its name.
        terms: What it allows, in a few words.
        page: Where to read it.
    """

    title: str
    terms: str
    page: str


@dataclass(frozen=True)
class ModelFile:
    """A file that can be downloaded.

    Attributes:
        name: File name.
        folder: Folder of ComfyUI's models folder.
        licences: Terms of everything in it.
        mirrors: Addresses, the one to try first first.
        tasks: Tasks that need it; none for a variant that is only got by name.
        size_bytes: Its size where known.
        sha256: Its checksum where known, in small letters.
    """

    name: str
    folder: str
    licences: tuple[Licence, ...]
    mirrors: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    size_bytes: int | None = None
    sha256: str | None = None

    @property
    def converted_name(self) -> str:
        """Name of the file that conversion writes."""
        return PurePath(self.name).stem + ".safetensors"


@dataclass(frozen=True)
class Manifest:
    """All files and tasks.

    Attributes:
        files: Every file.
        tasks: What a task does, by its name.
    """

    files: tuple[ModelFile, ...]
    tasks: dict[str, str]

    def files_of(self, task: str) -> tuple[ModelFile, ...]:
        """Return the files that a task needs."""
        return tuple(file for file in self.files if task in file.tasks)

    def choose(self, names: Iterable[str]) -> list[ModelFile]:
        """Return the files that names stand for, each once, in the order they are named.

        Args:
            names: Tasks, file names, or file names without their suffix; case does not matter.
        Raises:
            ModelFilesError: If a name stands for nothing.
        """
        known = {task.lower(): self.files_of(task) for task in self.tasks}
        known |= {PurePath(file.name).stem.lower(): (file,) for file in self.files}
        known |= {file.name.lower(): (file,) for file in self.files}
        chosen: dict[str, ModelFile] = {}
        for name in names:
            if name.lower() not in known:
                near = difflib.get_close_matches(name.lower(), known, n=3)
                hint = f" Did you mean {' or '.join(near)}?" if near else ""
                raise ModelFilesError(
                    f"There is no task or file '{name}'.{hint} {own_command()} lists all."
                )
            chosen |= {file.name: file for file in known[name.lower()]}
        return list(chosen.values())


def models_around() -> Path:
    """Return the models folder of the ComfyUI whose custom_nodes holds the pack, else `models`."""
    parent = PACK_ROOT.parent
    return parent.parent / "models" if parent.name == "custom_nodes" else Path("models")


def read_manifest(path: Path = MANIFEST) -> Manifest:
    """Return the manifest that ships with the pack, or another."""
    content = json.loads(path.read_text(encoding="utf-8"))
    licences = {key: Licence(**values) for key, values in content["licences"].items()}
    files = tuple(
        ModelFile(
            name=entry["name"],
            folder=entry["folder"],
            licences=tuple(licences[key] for key in entry["licences"]),
            mirrors=tuple(entry["mirrors"]),
            tasks=tuple(entry["tasks"]),
            size_bytes=entry.get("size_bytes"),
            sha256=entry.get("sha256"),
        )
        for entry in content["files"]
    )
    return Manifest(files, content["tasks"])


def find_installed(file: ModelFile, models: Path) -> Path | None:
    """Return where a file or its conversion lies below a models folder, None if nowhere.

    Subfolders count, as in ComfyUI's lists.
    """
    for name in (file.name, file.converted_name):
        for folder in (file.folder, *ALSO_SEARCHED.get(file.folder, ())):
            found = _find_below(models / folder, name)
            if found:
                return found
    return None


def size_complaint(file: ModelFile, path: Path) -> str | None:
    """Return what is wrong with the size of an installed file, None if nothing is known to be."""
    size = path.stat().st_size
    if path.name != file.name or file.size_bytes in (None, size):
        return None
    return f"has {size:,} bytes, expected {file.size_bytes:,}"


def distinct_licences(files: Sequence[ModelFile]) -> dict[Licence, list[ModelFile]]:
    """Return the files under each licence."""
    by_licence: dict[Licence, list[ModelFile]] = {}
    for file in files:
        for licence in file.licences:
            by_licence.setdefault(licence, []).append(file)
    return by_licence


def _find_below(folder: Path, name: str) -> Path | None:
    for parent, _, names in os.walk(folder, followlinks=True):
        if name in names:
            return Path(parent, name)
    return None
