"""The pictures of a folder, one after another in a fixed order, with the names of their results."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import sqlite3
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PICTURES = frozenset(
    [".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".jfif", ".png", ".tga", ".tif", ".tiff", ".webp"]
)  # fmt: skip
VIDEOS = frozenset([".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"])
LONGEST_NAME_BYTES = 240  # of the 255 that file systems take: room for an extension


@dataclass(frozen=True)
class Picture:
    """A file to restore.

    Attributes:
        path: Its path below the input folder, with "/".
        target: Its result's path below the output folder, with "/" and without an extension.
        size: Its size in bytes.
        modified_ns: When it was changed last.
    """

    path: str
    target: str
    size: int
    modified_ns: int

    @property
    def is_video(self) -> bool:
        """Whether it is read as a video."""
        return os.path.splitext(self.path)[1].lower() in VIDEOS


@dataclass(frozen=True)
class Shard:
    """The k-th of n equal parts of all paths, by their SHA-256.

    Attributes:
        number: k, from 1.
        count: n.
    """

    number: int
    count: int

    def holds(self, path: str) -> bool:
        """Return whether a picture belongs to this part."""
        place = int.from_bytes(_digest(path)[:4], "big")  # in [0, 2**32)
        return (place * self.count) >> 32 == self.number - 1


@dataclass(frozen=True)
class Choice:
    """Which files count.

    Attributes:
        include: Patterns of which one has to fit; none: every known picture and video.
        exclude: Patterns of which none may fit.
        left_out: A folder that is not looked into: the output folder, where it lies inside.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    left_out: Path | None = None

    def takes(self, path: str) -> bool:
        """Return whether a file is chosen: patterns with "/" see its whole path, others its name."""
        if _fits(path, self.exclude):
            return False
        return _fits(path, self.include) if self.include else is_known(path)


def is_known(path: str) -> bool:
    """Return whether a file's name is that of a picture or a video."""
    return os.path.splitext(path)[1].lower() in PICTURES | VIDEOS


def list_pictures(
    source: Path, choice: Choice, unreadable: Callable[[str, OSError], None]
) -> Iterator[Picture]:
    """Yield the chosen files below a folder, folder by folder, each in the order of its names.

    Names that start with a dot are passed over, links to folders are not followed. The names of
    one folder lie in a temporary database, so memory does not grow with their number.

    Args:
        source: The folder.
        choice: Which files count.
        unreadable: Is told every folder that could not be listed.
    """
    folders = [("", "")]
    with contextlib.closing(sqlite3.connect("")) as names:
        names.execute(
            "CREATE TABLE entry"
            " (name BLOB, key BLOB, is_folder INTEGER, is_chosen INTEGER, is_known INTEGER)"
        )
        while folders:
            folder, target = folders.pop()
            try:
                _collect(names, source, folder, choice)
            except OSError as error:
                unreadable(folder or ".", error)
                continue
            below = []
            for name, is_folder, is_alone in _entries(names):
                path = f"{folder}/{name}" if folder else name
                result = _result_name(path, is_folder, is_alone)
                result = f"{target}/{result}" if target else result
                if is_folder:
                    below.append((path, result))
                else:
                    size, modified_ns = _facts(source / path)
                    yield Picture(path, result, size, modified_ns)
            folders += reversed(below)


def _collect(names: sqlite3.Connection, source: Path, folder: str, choice: Choice) -> None:
    """Put the entries of one folder into the database.

    What is not chosen is among them: another command may have chosen it, or will.
    """
    names.execute("DELETE FROM entry")

    def rows() -> Iterator[tuple[bytes, bytes, bool, bool, bool]]:
        with os.scandir(source / folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder and choice.left_out and Path(entry.path) == choice.left_out:
                    continue
                is_chosen = is_folder
                if not is_folder:
                    is_chosen = choice.takes(f"{folder}/{entry.name}" if folder else entry.name)
                    # A link that leads nowhere is kept, to be named as a failure; a pipe is not.
                    if not entry.is_file() and (not entry.is_symlink() or entry.is_dir()):
                        continue
                stem = entry.name if is_folder else os.path.splitext(entry.name)[0]
                known = is_folder or is_known(entry.name)
                yield os.fsencode(entry.name), _key(stem), is_folder, is_chosen, known

    names.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", rows())


def _entries(names: sqlite3.Connection) -> Iterator[tuple[str, bool, bool]]:
    """Yield the chosen: name, whether it is a folder, whether its result alone has its stem.

    A picture is marked beside other pictures; a file that only a pattern makes one beside any.
    """
    rows = names.execute(
        "SELECT name, is_folder, is_chosen, is_known,"
        " count(*) OVER (PARTITION BY key), sum(is_known) OVER (PARTITION BY key)"
        " FROM entry ORDER BY name"
    )
    for name, is_folder, is_chosen, known, count, known_count in rows:
        if is_chosen:
            yield os.fsdecode(name), bool(is_folder), (known_count if known else count) == 1


def _key(stem: str) -> bytes:
    """Return what two names share that are one on some file system: case and accents' spelling."""
    return unicodedata.normalize("NFC", stem).casefold().encode("utf-8", "surrogateescape")


def _result_name(path: str, is_folder: bool, is_alone: bool) -> str:
    """Return a name that no other result of its folder has, whatever else lies there."""
    name = path.rpartition("/")[2]
    stem = name if is_folder else os.path.splitext(name)[0]
    if is_alone and len(os.fsencode(stem)) <= LONGEST_NAME_BYTES:
        return stem
    mark = f"~{_digest(path).hex()[:8]}"
    room = LONGEST_NAME_BYTES - len(mark)
    while len(os.fsencode(name)) > room:
        name = name[:-1]
    return name + mark


def _facts(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:  # said when it is read
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _fits(path: str, patterns: Sequence[str]) -> bool:
    name = path.rpartition("/")[2]
    return any(
        fnmatch.fnmatchcase((path if "/" in pattern else name).lower(), pattern.lower())
        for pattern in patterns
    )


def _digest(path: str) -> bytes:
    return hashlib.sha256(os.fsencode(path)).digest()
