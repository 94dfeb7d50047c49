"""Copies of the pack as a clone and as the registry's archive would hold it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACK_ROOT = Path(__file__).resolve().parents[2]


def pack_files() -> list[str]:
    """Return the paths of all files that are in git or would be with the next commit."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PACK_ROOT, check=True, capture_output=True, text=True)
    paths = {name for name in listed.stdout.split("\0") if name}
    return sorted(name for name in paths if (PACK_ROOT / name).is_file())


def copy_pack(target: Path) -> Path:
    """Copy those files to a folder and return it."""
    for name in pack_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACK_ROOT / name, target / name)
    return target


def make_checkout(target: Path) -> Path:
    """Make a git checkout of those files, as the registry's tool wants it, and return it."""
    copy_pack(target)
    for command in (["init", "--quiet"], ["add", "--all", "--force"]):
        subprocess.run(["git", *command], cwd=target, check=True, capture_output=True)
    return target


def run_registry_tool(checkout: Path, *arguments: str) -> str:
    """Run comfy-cli in a checkout, without its telemetry, and return all it printed.

    Args:
        checkout: Where it runs; its settings go into the folder around.
        arguments: Its command.
    """
    command = [sys.executable, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry"]
    home = {"HOME": str(checkout.parent), "USERPROFILE": str(checkout.parent)}
    quiet = {"DO_NOT_TRACK": "1", "COMFY_NO_UPDATE_CHECK": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [*command, "--no-json", *arguments], cwd=checkout, env={**os.environ, **home, **quiet},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=True,
    )  # fmt: skip
    return done.stdout


def pack_with_registry_tool(checkout: Path) -> Path:
    """Return the archive that the registry would hand out, made in the checkout."""
    run_registry_tool(checkout, "node", "pack")
    return checkout / "node.zip"
