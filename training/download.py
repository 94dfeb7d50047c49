"""Packages fetched by name and version with the ordinary clients, and checked by SHA-256.

pip, npm and apt find their servers, mirrors and proxies in their own settings.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Environment variable with a source of Ubuntu's packages, as apt's lists have it after "deb":
# address, release, components. For systems whose own sources are another distribution's.
UBUNTU_SOURCE = "PACK_UBUNTU_SOURCE"
SOURCE_LIST = "ubuntu.list"


class FetchError(RuntimeError):
    """A package could not be fetched, or is another one; the message says what to do."""


@dataclass(frozen=True)
class Package:
    """A file of a package registry.

    Attributes:
        client: Whose package it is: `pip`, `npm`, `apt` (this system's) or `ubuntu`.
        name: Name of the package.
        version: Its version.
        file: What the client calls the file that it downloads.
        sha256: Of the file.
    """

    client: Literal["pip", "npm", "apt", "ubuntu"]
    name: str
    version: str
    file: str
    sha256: str


def fetch(package: Package, folder: Path) -> Path:
    """Return the path of a package's file in `folder`, downloaded if it is missing.

    Raises:
        FetchError: If the client is missing or fails, or the file's SHA-256 is another one.
    """
    folder = folder.resolve()  # the clients run in another folder
    path = folder / package.file
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    print(f"fetching {package.name} {package.version}", flush=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetching-") as created:
        target = Path(created)
        lists = None
        if package.client == "ubuntu" and os.environ.get(UBUNTU_SOURCE):
            lists = folder / "apt"
            _write_source(lists, os.environ[UBUNTU_SOURCE])
        for command in fetch_commands(package, target, lists):
            _run(command, target, package)
        found = target / package.file
        if not found.is_file():
            raise FetchError(f"{package.name} {package.version}: there is no {package.file} in it.")
        check_sha256(found, package.sha256)
        os.replace(found, path)
    return path


def fetch_commands(package: Package, target: Path, lists: Path | None = None) -> list[list[str]]:
    """Return the commands that download a package, to be run in `target`.

    Args:
        package: The package.
        target: The folder that receives the file.
        lists: Folder of apt's lists of another source; None takes this system's sources.
    """
    if package.client == "pip":
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--dest", str(target), *_wheel_options(package.file)]
        return [[*command, f"{package.name}=={package.version}"]]
    if package.client == "npm":
        exact = f"{package.name}@{package.version}"
        return [["npm", "pack", "--pack-destination", str(target), exact]]
    exact = f"{package.name}={package.version}"
    if lists is None:
        return [["apt-get", "download", exact]]
    options = _apt_options(lists)
    return [["apt-get", *options, "update"], ["apt-get", *options, "download", exact]]


def check_sha256(path: Path, expected: str) -> None:
    """Raise `FetchError` unless the file has this SHA-256."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise FetchError(
            f"{path.name}: SHA-256 is {digest}, expected {expected}. The server has another file of"
            " this name and version, or the download is damaged; nothing of it was used."
        )


def _wheel_options(file: str) -> list[str]:
    """Return pip's options that ask for this very wheel, whatever this machine is."""
    python, abi, platform = file.removesuffix(".whl").split("-")[-3:]
    if platform == "any":
        return []
    options = ["--python-version", python[2:], "--implementation", python[:2]]
    return [*options, "--abi", abi, "--platform", platform]


def _apt_options(lists: Path) -> list[str]:
    """Return apt's options that make it read the one source in `lists`, and keep its lists there."""
    settings = {
        "Dir::Etc::SourceList": lists / SOURCE_LIST,
        "Dir::Etc::SourceParts": os.devnull,
        "Dir::State::Lists": lists / "lists",
        "Dir::Cache": lists / "cache",
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def _write_source(lists: Path, source: str) -> None:
    """Write `source` as apt's list; SHA-256 is checked here, so its keys need not be known."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (lists / folder).mkdir(parents=True, exist_ok=True)
    (lists / SOURCE_LIST).write_text(f"deb [trusted=yes] {source}\n", encoding="utf-8")


def _run(command: list[str], target: Path, package: Package) -> None:
    program = shutil.which(command[0])
    if program is None:
        raise FetchError(
            f"{package.name} {package.version} is fetched with {command[0]}, which is not installed."
        )
    done = subprocess.run(
        [program, *command[1:]], cwd=target, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        advice = ""
        if package.client == "ubuntu":
            advice = (
                f" It is a package of Ubuntu: elsewhere set {UBUNTU_SOURCE} to a source of its"
                " packages as in apt's lists: address, release, components."
            )
        told = (done.stderr or done.stdout).strip()[-600:]
        raise FetchError(f"{' '.join(command)} failed.{advice}\n{told}")
