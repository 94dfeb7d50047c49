"""How often a picture was begun and never ended, because the process ended before."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

MOST = 4


class Tries:
    """Remembers in a folder what is being restored, for whoever comes after a crash.

    Ray can count the tries of a task too, but takes a worker that is just starting again for one.
    """

    def __init__(self, folder: Path):
        """Keep the folder, which is made."""
        self._folder = folder
        self._begun: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def count(self, path: str) -> int:
        """Return how often a picture was begun without an end."""
        try:
            return self._file(path).stat().st_size
        except FileNotFoundError:
            return 0

    def begin(self, path: str) -> None:
        """Count a try."""
        self._begun.add(path)
        with self._file(path).open("ab") as file:
            file.write(b".")

    def end(self, path: str) -> None:
        """Forget a picture's tries: what came of it is known."""
        self._file(path).unlink(missing_ok=True)
        self._begun.discard(path)

    def stop(self) -> None:
        """Forget what this process has begun: it ends in order, so none of it is to blame."""
        for path in list(self._begun):
            self.end(path)

    def _file(self, path: str) -> Path:
        return self._folder / hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
