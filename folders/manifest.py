"""What is done and what failed: lines that are only ever added, and an index of them on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .job import Outcome
from .listing import Picture, Shard

BLOCK_BYTES = 1 << 20


def manifest_name(kind: str, shard: Shard) -> str:
    """Return a file's name: `manifest.jsonl`, or `manifest.2-of-3.jsonl` for a shard."""
    part = "" if shard.count == 1 else f".{shard.number}-of-{shard.count}"
    return f"{kind}{part}.jsonl"


@contextlib.contextmanager
def adding_lines(path: Path, anew: bool = False) -> Iterator[BinaryIO]:
    """Open a file for whole lines; what a kill left of a last one is ended first."""
    with path.open("wb" if anew else "a+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            with path.open("rb") as written:
                written.seek(-1, os.SEEK_END)
                if written.read(1) != b"\n":
                    file.write(b"\n")
        yield file


class Done:
    """The results that earlier commands left in a folder.

    The index is a temporary database, so memory does not grow with the number of pictures.
    """

    def __init__(self, target: Path):
        """Read every manifest of the folder; a line that is cut short does not count."""
        self._target = target
        self._one_at_a_time = threading.Lock()  # the count of what is left asks beside the work
        self._index = sqlite3.connect("", check_same_thread=False)
        self._index.execute(
            "CREATE TABLE done (input BLOB PRIMARY KEY, line BLOB, finished REAL) WITHOUT ROWID"
        )
        for path in sorted(target.glob("manifest*.jsonl")):
            with path.open("rb") as lines:
                self._index.executemany(
                    "INSERT INTO done VALUES (?, ?, ?) ON CONFLICT (input) DO UPDATE SET"
                    " line = excluded.line, finished = excluded.finished"
                    " WHERE excluded.finished >= finished",
                    _rows(lines),
                )

    def has(self, picture: Picture, source: Path, settings: str, compare_content: bool) -> bool:
        """Return whether a picture's results are there, from this content and these settings.

        Args:
            picture: The picture.
            source: The folder that its path begins in.
            settings: What it would be restored with now.
            compare_content: Read it even where size and time are the same.
        """
        with self._one_at_a_time:
            row = self._index.execute(
                "SELECT line FROM done WHERE input = ?", (os.fsencode(picture.path),)
            ).fetchone()
        if row is None:
            return False
        outcome = Outcome.from_line(row[0])
        if outcome.settings != settings or outcome.bytes != picture.size:
            return False
        if not all(_size(self._target / path) == size for path, size in outcome.outputs):
            return False
        if outcome.modified_ns == picture.modified_ns and not compare_content:
            return True
        return content_sha256(source / picture.path) == outcome.sha256

    def close(self) -> None:
        """Let go of the index."""
        self._index.close()


def content_sha256(path: Path) -> str | None:
    """Return a file's SHA-256, or None where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    except OSError:  # said when it is restored
        return None
    return digest.hexdigest()


def _rows(lines: BinaryIO) -> Iterator[tuple[bytes, bytes, float]]:
    for line in lines:
        try:
            outcome = Outcome.from_line(line)
        except ValueError:
            continue
        if outcome.state == "done":
            yield os.fsencode(outcome.input), line, outcome.finished


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
