"""Download of one file: resumed where it broke, checked, and in place only when it is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .manifest import ModelFile, ModelFilesError

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30
ATTEMPTS = 4  # at one address, without getting further
WORTH_REPEATING = (408, 416, 425, 429, 500, 502, 503, 504)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
HEADERS = {"User-Agent": "resshift-diffbir", "Accept-Encoding": "identity"}


class DownloadError(ModelFilesError):
    """A download that did not come about; the message says why and what to do."""


class _MirrorError(Exception):
    """One address cannot give the file."""


class _BrokenError(Exception):
    """A transfer ended early; another attempt may get further."""


@dataclass(frozen=True)
class Progress:
    """How far a transfer is.

    Attributes:
        received_bytes: What has arrived, in earlier runs as well.
        total_bytes: Size of the file if the server states it.
        bytes_per_s: Mean speed of this transfer.
    """

    received_bytes: int
    total_bytes: int | None
    bytes_per_s: float


@dataclass(frozen=True)
class _Origin:
    """Which content a partial file is of: sent back to the server, it tells whether that changed.

    Attributes:
        url: The address it was asked from.
        validator: The server's strong ETag, else its date of last change.
        total_bytes: Size of the whole if the server states it.
    """

    url: str
    validator: str
    total_bytes: int | None


class _PartialFile:
    """What has arrived so far, `<name>.part`, and its origin, `<name>.part.json`."""

    def __init__(self, target: Path):
        self.path = target.with_name(target.name + ".part")
        self._origin_path = target.with_name(target.name + ".part.json")

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def origin(self) -> _Origin | None:
        """What the content is of; None if that is not known, so that nothing can be resumed."""
        try:
            return _Origin(**json.loads(self._origin_path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def start_over(self, origin: _Origin | None) -> None:
        # In this order: a stop in between leaves an empty file, which resumes nothing.
        self.path.write_bytes(b"")
        self._origin_path.unlink(missing_ok=True)
        if origin:
            self._origin_path.write_text(json.dumps(asdict(origin)), encoding="utf-8")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._origin_path.unlink(missing_ok=True)

    def move_to(self, target: Path) -> None:
        os.replace(self.path, target)
        self._origin_path.unlink(missing_ok=True)


def free_bytes_at(folder: Path) -> int:
    """Return the free space of the disk that holds a folder."""
    return shutil.disk_usage(folder).free


def download(
    file: ModelFile,
    target: Path,
    *,
    on_progress: Callable[[Progress], None],
    free_bytes: Callable[[Path], int] = free_bytes_at,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Download a file; `target` is there only when all of it has arrived and its checks passed.

    What arrives is kept in `<name>.part`; a later call continues it if the server still has the
    same content, and starts over if not.

    Args:
        file: What to download; the first of its mirrors that can give it is taken.
        target: Where it goes; a file there is replaced.
        on_progress: Called after every piece.
        free_bytes: Free space of the disk that holds a folder.
        pause: Waits a number of seconds between attempts.
    Raises:
        DownloadError: If no mirror gives the file, the disk has no room or cannot be written.
    """
    reasons = []
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _PartialFile(target)
        begun = part.origin
        # A partial file is continued where it was begun before another mirror starts over.
        for url in sorted(file.mirrors, key=lambda url: begun is None or url != begun.url):
            try:
                _fetch(url, part, file, on_progress, free_bytes, pause)
                _check(file, part)
            except _MirrorError as error:
                reasons.append(f"  {url}\n    {error}")
                continue
            part.move_to(target)
            return
        kept = ""
        if part.size_bytes and part.origin:
            kept = (
                f" {part.path.name} keeps the {part.size_bytes:,} bytes that have arrived: the same"
                " command continues from there."
            )
    raise DownloadError(
        f"{file.name} could not be downloaded:\n" + "\n".join(reasons) + "\nIf this machine is"
        " offline or behind a proxy (set HTTPS_PROXY), download the file elsewhere and put it into"
        f" {target.parent}.{kept}"
    )


def _fetch(
    url: str,
    part: _PartialFile,
    file: ModelFile,
    on_progress: Callable[[Progress], None],
    free_bytes: Callable[[Path], int],
    pause: Callable[[float], None],
) -> None:
    furthest, failures = part.size_bytes, 0
    while True:
        try:
            _transfer(url, part, file, on_progress, free_bytes)
            return
        except _BrokenError as error:
            failures = 1 if part.size_bytes > furthest else failures + 1
            furthest = max(furthest, part.size_bytes)
            if failures == ATTEMPTS:
                raise _MirrorError(f"{error} ({ATTEMPTS} attempts)") from error
        pause(2.0 ** (failures - 1))


def _transfer(
    url: str,
    part: _PartialFile,
    file: ModelFile,
    on_progress: Callable[[Progress], None],
    free_bytes: Callable[[Path], int],
) -> None:
    request = urllib.request.Request(url, headers=HEADERS)
    known, offset = part.origin, 0
    if known and known.url == url and part.size_bytes:
        offset = part.size_bytes
        if offset == known.total_bytes:
            return
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", known.validator)
    with _open(request, part) as response:
        if response.status == 200:
            offset = 0
        total = _stated_size(response)
        _check_answer(response, total, file)
        origin = _origin_of(response, url, total)
        if response.status == 206 and (origin != known or _start_of(response) != offset):
            part.discard()
            raise _BrokenError("the file changed on the server while it was downloaded")
        if total is not None:
            _check_space(total - part.size_bytes, part.path.parent, free_bytes, file)
        if not offset:
            part.start_over(origin)
        received, start = offset, time.monotonic()
        with part.path.open("ab") as output:
            while chunk := _read(response, received):
                output.write(chunk)
                received += len(chunk)
                seconds = max(time.monotonic() - start, 1e-6)
                on_progress(Progress(received, total, (received - offset) / seconds))
    if total is not None and received != total:
        raise _BrokenError(f"the connection broke after {received:,} of {total:,} bytes")


def _open(request: urllib.request.Request, part: _PartialFile) -> http.client.HTTPResponse:
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the file on the server is shorter than what has arrived
            part.discard()
        if error.code in WORTH_REPEATING:
            raise _BrokenError(f"the server answers HTTP {error.code} ({error.reason})") from error
        meaning = {401: "wants a login", 403: "refuses access", 404: "has no such file"}
        meaning[410] = meaning[404]
        told = meaning.get(error.code, f"says '{error.reason}'")
        raise _MirrorError(f"the server {told} (HTTP {error.code})") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _BrokenError(f"cannot be reached ({reason})") from error


def _read(response: http.client.HTTPResponse, received: int) -> bytes:
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"the connection broke after {received:,} bytes ({error})") from error


def _check_answer(response: http.client.HTTPResponse, total: int | None, file: ModelFile) -> None:
    if response.status not in (200, 206):
        raise _MirrorError(f"the server answers HTTP {response.status}, which is no file")
    if response.headers.get_content_type() == "text/html":
        raise _MirrorError("the server sends a web page instead of the file")
    if file.size_bytes is not None and total not in (None, file.size_bytes):
        raise _MirrorError(f"the file there has {total:,} bytes, expected {file.size_bytes:,}")


def _stated_size(response: http.client.HTTPResponse) -> int | None:
    if response.status == 206:
        match = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
        return int(match[1]) if match else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _start_of(response: http.client.HTTPResponse) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _origin_of(response: http.client.HTTPResponse, url: str, total: int | None) -> _Origin | None:
    etag = response.headers.get("ETag")
    # A weak ETag promises the same meaning, not the same bytes.
    strong = etag if etag and not etag.startswith("W/") else None
    validator = strong or response.headers.get("Last-Modified")
    return _Origin(url, validator, total) if validator else None


def _check_space(
    needed: int, folder: Path, free_bytes: Callable[[Path], int], file: ModelFile
) -> None:
    free = free_bytes(folder)
    if needed > free:
        raise DownloadError(
            f"{file.name} needs {needed:,} more bytes, but the disk that holds {folder} has only"
            f" {free:,} left. Free {needed - free:,} bytes, or choose a folder on another disk with"
            " --folder."
        )


def _check(file: ModelFile, part: _PartialFile) -> None:
    if file.size_bytes not in (None, part.size_bytes):
        found = part.size_bytes
        part.discard()
        raise _MirrorError(
            f"the download has {found:,} bytes, expected {file.size_bytes:,}; it was deleted"
        )
    if file.sha256 is None:
        return
    digest = hashlib.sha256()
    with part.path.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != file.sha256:
        part.discard()
        raise _MirrorError(
            f"the download has the SHA-256 {digest.hexdigest()}, expected {file.sha256}; it was"
            " deleted. Try again: if the same sum comes, that address serves another file"
        )


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Say what to do about errors of the file system; those of the network do not come here."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            advice = "Make room, then run the same command again."
        else:
            advice = "Make the folder writable, or choose another with --folder."
        raise DownloadError(f"{target} cannot be written: {error.strerror}. {advice}") from error
