"""Keeps two commands from working on the same part of one output folder."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import FolderError
from .listing import Shard

if os.name == "nt":
    import msvcrt
else:
    import fcntl

SPAN = 1 << 20  # bytes that stand for all pictures; the file itself stays empty


@contextlib.contextmanager
def alone(file: Path, shard: Shard) -> Iterator[None]:
    """Hold a shard of a folder for this process while the block runs.

    A shard is a range of bytes of the file, so shards exclude each other where they share
    pictures, whatever their count. The system lets go of it when the process ends.

    Raises:
        FolderError: Another process holds some of the shard.
    """
    start = SPAN * (shard.number - 1) // shard.count
    stop = SPAN * shard.number // shard.count
    with file.open("a+b") as opened:
        if not _takes(opened.fileno(), start, stop - start):
            raise FolderError(
                f"Another command restores into {file.parent.parent} already. Wait until it has"
                " ended, or stop it; to share the work, give each command its --shard."
            )
        yield


def _takes(descriptor: int, start: int, length: int) -> bool:
    try:
        if os.name == "nt":
            os.lseek(descriptor, start, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, length)
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise
        return False
    return True
