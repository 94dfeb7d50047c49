"""Failures of the folder command whose message tells the reader what to do."""

from __future__ import annotations

import errno


class FolderError(Exception):
    """The command cannot start or go on."""


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error says that a disk or a quota has no room left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
