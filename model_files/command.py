"""`python dev.py models`: lists the model files, downloads and converts those that are named."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .download import Progress, download
from .manifest import (
    Manifest,
    ModelFile,
    ModelFilesError,
    distinct_licences,
    find_installed,
    models_around,
    own_command,
    read_manifest,
    size_complaint,
)

REPORT_INTERVAL_S = 10  # where the output is no terminal
EXAMPLE = "get diffbir-v2.1"


def main(argv: Sequence[str], manifest: Manifest | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        argv: Its arguments.
        manifest: The files to offer; by default those of the pack.
    """
    # Ctrl-C interrupts the transfer, also where the shell had it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = parse_arguments(argv)
    manifest = manifest or read_manifest()
    try:
        if not arguments.folder.is_dir():
            raise ModelFilesError(
                f"{arguments.folder} is no folder. Name ComfyUI's models folder with --folder."
            )
        if arguments.command == "get":
            get_models(manifest, arguments)
        else:
            list_models(manifest, arguments.folder)
    except ModelFilesError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nInterrupted. What has arrived is kept: run the same command again to continue.",
            file=sys.stderr,
        )
        return 130
    return 0


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog=own_command(), description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="get")
    get = commands.add_parser("get", help="download what tasks or files need")
    get.add_argument("names", nargs="+", metavar="NAME", help="a task or a file, as listed")
    get.add_argument(
        "--accept-licence", action="store_true", help="agree to the licences without being asked"
    )
    get.add_argument("--convert", action="store_true", help="also write .safetensors; needs torch")
    text = "models folder (default: that of the ComfyUI that dev.py finds or that holds the pack)"
    parser.add_argument("--folder", type=Path, default=models_around(), help=text)
    get.add_argument("--folder", type=Path, default=argparse.SUPPRESS, help=text)
    return parser.parse_args(argv)


def list_models(manifest: Manifest, models: Path) -> None:
    """Print every task and file and where it is installed."""
    installed = {file.name: find_installed(file, models) for file in manifest.files}
    print(f"Models folder: {models}")
    _mention_other_folders(models)
    print("\nTasks")
    width = max(map(len, manifest.tasks))
    for task, description in manifest.tasks.items():
        files = manifest.files_of(task)
        missing = sum(not _is_whole(file, installed[file.name]) for file in files)
        state = f"{missing} of {len(files)} missing" if missing else "installed"
        print(f"  {task:{width}}  {state:14}  {description}")
    print("\nFiles")
    width = max(len(file.name) for file in manifest.files)
    for file in manifest.files:
        path = installed[file.name]
        licence = " and ".join(licence.title for licence in file.licences)
        print(f"  {file.name:{width}}  {_describe(file, path, models)}  [{licence}]")
    print(f"\nDownload with, for example: {own_command()} {EXAMPLE}")


def get_models(manifest: Manifest, arguments: argparse.Namespace) -> None:
    """Download, and convert if asked, what the command line names."""
    models: Path = arguments.folder
    files = manifest.choose(arguments.names)
    if arguments.convert:
        _require_torch()
    present: dict[str, Path] = {}
    for file in files:
        path = find_installed(file, models)
        complaint = path and size_complaint(file, path)
        if complaint:
            print(f"{path} {complaint}: it is downloaded again.")
        elif path:
            print(f"{file.name} is there: {path}")
            present[file.name] = path
    missing = [file for file in files if file.name not in present]
    if missing:
        _agree_to_licences(missing, arguments.accept_licence)
    for file in missing:
        target = _target(file, models)
        print(f"Downloading {file.name} to {target.parent}", flush=True)
        download(file, target, on_progress=_progress_line())
        _show("")
        checks = "its SHA-256 is right" if file.sha256 else "no SHA-256 is known to compare with"
        print(f"  done: {target.stat().st_size:,} bytes; {checks}", flush=True)
        present[file.name] = target
    if arguments.convert:
        for file in files:
            _convert(file, present[file.name])


def _target(file: ModelFile, models: Path) -> Path:
    """Return where a file goes: over a damaged one of its name, else into its folder."""
    there = find_installed(file, models)
    return there if there and there.name == file.name else models / file.folder / file.name


def _agree_to_licences(files: Sequence[ModelFile], accepted: bool) -> None:
    print("\nThese files come from their authors, under licences of their own:")
    for licence, under in distinct_licences(files).items():
        print(f"  {licence.title}: {licence.terms}")
        print(f"    {licence.page}")
        print(f"    {', '.join(file.name for file in under)}")
    if accepted:
        print("Accepted with --accept-licence.\n", flush=True)
        return
    if not sys.stdin.isatty():
        raise ModelFilesError(
            "Nothing was downloaded. Read the licences, then run the same command with"
            " --accept-licence."
        )
    if input("Do you accept them? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ModelFilesError("Nothing was downloaded.")


def _require_torch() -> None:
    lacking = [name for name in ("torch", "safetensors") if not importlib.util.find_spec(name)]
    if lacking:
        raise ModelFilesError(
            f"--convert needs {' and '.join(lacking)}, which {sys.executable} lacks. Use the Python"
            ' that runs ComfyUI, or, from a clone, run "python dev.py demo" once, which makes an'
            " environment that has both."
        )


def _convert(file: ModelFile, path: Path) -> None:
    # Imported here because it needs torch, which downloading does not.
    from .convert import convert_checkpoint

    if path.suffix == ".safetensors":
        print(f"{path.name} is a safetensors file already.")
        return
    if path.with_name(file.converted_name).exists():
        print(f"{file.converted_name} is there already.")
        return
    try:
        target = convert_checkpoint(file, path)
    except (ValueError, OSError) as error:
        raise ModelFilesError(f"{file.name} could not be converted: {error}") from error
    print(f"Converted to {target}; {path.name} is no longer needed if you choose the new file.")


def _is_whole(file: ModelFile, path: Path | None) -> bool:
    return path is not None and size_complaint(file, path) is None


def _describe(file: ModelFile, path: Path | None, models: Path) -> str:
    if path is None:
        return f"missing, belongs into {file.folder}"
    complaint = size_complaint(file, path)
    state = f"damaged: {complaint}" if complaint else "installed"
    return f"{state} ({path.relative_to(models).as_posix()})"


def _mention_other_folders(models: Path) -> None:
    extra = models.parent / "extra_model_paths.yaml"
    if extra.is_file():
        print(f"Folders named in {extra} are not searched; give one with --folder.")


def _progress_line() -> Callable[[Progress], None]:
    """Return a function that keeps one line up to date, or reports now and then to a file."""
    interval = 0.1 if sys.stdout.isatty() else REPORT_INTERVAL_S
    last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= interval:
            last = time.monotonic()
            _show(describe_progress(progress))

    return report


def describe_progress(progress: Progress) -> str:
    """Return a line such as `12.0 MB of 34.0 MB, 35 %, 5.6 MB/s, 4 s left`."""
    received = progress.received_bytes
    speed = f"{_megabytes(progress.bytes_per_s)}/s"
    if progress.total_bytes is None:
        return f"{_megabytes(received)}, {speed}"
    percent = 100 * received // max(progress.total_bytes, 1)
    line = f"{_megabytes(received)} of {_megabytes(progress.total_bytes)}, {percent} %, {speed}"
    if progress.bytes_per_s > 0:
        line += f", {(progress.total_bytes - received) / progress.bytes_per_s:.0f} s left"
    return line


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def _show(line: str) -> None:
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r" + f"  {line}"[:width].ljust(width), end="\r", flush=True)
    elif line:
        print(f"  {line}", flush=True)
