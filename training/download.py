"""Downloads checked by SHA-256 and kept in a cache folder."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path


def fetch(url: str, sha256: str, folder: Path) -> Path:
    """Return the path of `url`'s file in `folder`, downloaded if it is missing.

    Raises:
        ValueError: If the download's SHA-256 is another one.
    """
    path = folder / url.rsplit("/", 1)[-1]
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    print(f"downloading {url}", flush=True)
    with urllib.request.urlopen(url, timeout=120) as response:
        content = response.read()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ValueError(f"{url}: SHA-256 is {digest}, expected {sha256}")
    partial = path.with_suffix(path.suffix + ".part")
    partial.write_bytes(content)
    os.replace(partial, path)
    return path
