"""Restores every picture of a folder with a workflow in API form, and goes on where it stopped."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import itertools
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .arguments import parse_arguments
from .engines import Engine, LocalEngine
from .errors import FolderError, is_disk_full
from .job import PARTIAL, Encoding, Job
from .listing import Choice, Picture, Shard, list_pictures
from .locking import alone
from .manifest import Done, adding_lines, manifest_name
from .progress import Progress
from .workflow import read_workflow, settings_key

PACK = Path(__file__).absolute().parents[1]
SOME_FAILED = 3
GO_ON = "Run the same command again to go on."


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit status: 0, 1 if it cannot go on, 3 if some failed."""
    # Also when started in the background. Python's own handler asyncio would replace by one that
    # waits until the workflow, which it runs for ComfyUI, has come to its end.
    signal.signal(signal.SIGINT, lambda number, at: signal.default_int_handler(number, at))
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    arguments = parse_arguments(argv)
    try:
        return restore_folder(arguments)
    except FolderError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except OSError as error:
        if not is_disk_full(error):
            raise
        print(f"\n{error}. Free some space. {GO_ON}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nStopped. {GO_ON}", file=sys.stderr)
        return 130


def restore_folder(arguments: argparse.Namespace) -> int:
    """Do what the command line says and return the exit status."""
    job = make_job(arguments)
    shard: Shard = arguments.shard
    with contextlib.ExitStack() as stack:
        if not arguments.dry_run:
            _make_folder(job.target / PARTIAL)
            stack.enter_context(alone(job.target / PARTIAL / "lock", shard))
            shutil.rmtree(job.partial, ignore_errors=True)  # of a command that was killed
            job.partial.mkdir()
            stack.callback(shutil.rmtree, job.partial, ignore_errors=True)
        done = stack.enter_context(contextlib.closing(Done(job.target)))
        choice = Choice(tuple(arguments.include), tuple(arguments.exclude), job.target)
        plan = Plan(job, choice, shard, done, arguments.checksum, arguments.limit)
        if arguments.dry_run:
            return tell_plan(plan)
        return run(job, plan, choose_engine(arguments), shard)


def make_job(arguments: argparse.Namespace) -> Job:
    """Return what is to be done with every picture.

    Raises:
        FolderError: A folder or the workflow is not what it has to be.
    """
    source, target = arguments.source.absolute(), arguments.target.absolute()
    if not source.is_dir():
        raise FolderError(f"{source} is no folder. Name the folder that holds the pictures.")
    real_source, real_target = source.resolve(), target.resolve()
    if real_source == real_target or real_target in real_source.parents:
        raise FolderError(
            f"The results would lie among the pictures of {source}. Choose an output folder that"
            " is neither this one nor around it."
        )
    workflow = read_workflow(
        arguments.workflow, arguments.set, arguments.input_node, arguments.output_node
    )
    encoding = Encoding(arguments.format, arguments.quality, arguments.keep_metadata)
    of_pictures, of_videos = _deciding_options(arguments)
    part = f"{arguments.shard.number}-of-{arguments.shard.count}"
    return Job(
        workflow=workflow,
        source=real_source,
        target=real_target,
        partial=real_target / PARTIAL / part,
        encoding=encoding,
        same_seed=arguments.same_seed,
        frames_at_once=arguments.frames_at_once,
        picture_settings=settings_key(workflow, of_pictures),
        video_settings=settings_key(workflow, of_videos),
        comfyui=find_comfyui(),
        comfyui_arguments=arguments.comfyui_arguments,
    )


def _deciding_options(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options that decide pictures, and those that decide videos."""
    pictures = {"format": arguments.format, "keep_metadata": arguments.keep_metadata}
    if arguments.format != "png":
        pictures["quality"] = arguments.quality
    videos = {"quality": arguments.quality, "frames_at_once": arguments.frames_at_once}
    always = {"same_seed": arguments.same_seed}
    return {**always, **pictures}, {**always, **videos}


def find_comfyui() -> Path:
    """Return the ComfyUI that COMFYUI_PATH names, or whose custom_nodes holds the pack.

    Raises:
        FolderError: There is none.
    """
    places = [Path(path).absolute() for path in [os.environ.get("COMFYUI_PATH")] if path]
    places += [
        folder.parent
        for folder in (*PACK.parents, *PACK.resolve().parents)
        if folder.name == "custom_nodes"
    ]
    for place in places:
        if (place / "main.py").is_file() and (place / "comfy").is_dir():
            return place
    raise FolderError(
        "No ComfyUI was found around this pack. Install the pack into custom_nodes of ComfyUI, or"
        " name ComfyUI's folder in the environment variable COMFYUI_PATH."
    )


def choose_engine(arguments: argparse.Namespace) -> Engine:
    """Return what restores."""
    if arguments.ray or arguments.ray_address:
        ray_engine = importlib.import_module(".ray_engine", __package__)
        return ray_engine.RayEngine(
            arguments.ray_address,
            *arguments.workers,
            arguments.gpus_per_worker,
            arguments.cpus_per_worker,
        )
    if importlib.util.find_spec("torch") is None:
        raise FolderError(f"{sys.executable} has no torch. Use the Python that runs ComfyUI.")
    return LocalEngine()


class Plan:
    """The pictures that are left, found anew each time they are asked for."""

    def __init__(
        self, job: Job, choice: Choice, shard: Shard, done: Done, checksum: bool, limit: int | None
    ):
        """Keep what decides."""
        self._job = job
        self._choice = choice
        self._shard = shard
        self._done = done
        self._checksum = checksum
        self._limit = limit
        self.seen = 0
        self.unreadable: dict[str, OSError] = {}

    def left(self) -> Iterator[Picture]:
        """Yield the pictures that are still to be restored."""
        self.seen = 0
        return itertools.islice(self._left(), self._limit)

    def _left(self) -> Iterator[Picture]:
        job = self._job
        listed = list_pictures(job.source, self._choice, self.unreadable.__setitem__)
        for picture in listed:
            if self._shard.holds(picture.path):
                self.seen += 1
                settings = job.settings_of(picture)
                if not self._done.has(picture, job.source, settings, self._checksum):
                    yield picture


def tell_plan(plan: Plan) -> int:
    """Print every picture that is left and where its result goes."""
    count = size = 0
    for count, picture in enumerate(plan.left(), 1):  # noqa: B007 - the last count is told
        size += max(picture.size, 0)
        print(_printable(f"{picture.path} -> {picture.target}"))
    print(f"{count:,} to restore ({size / 1e6:,.1f} MB), {plan.seen - count:,} done already")
    return _tell_unreadable(plan)


def run(job: Job, plan: Plan, engine: Engine, shard: Shard) -> int:
    """Restore what is left and return the exit status."""
    progress = Progress(sys.stderr)
    failures = job.target / manifest_name("failures", shard)
    with contextlib.ExitStack() as stack:
        counting = Counting(plan, progress)
        manifest = stack.enter_context(adding_lines(job.target / manifest_name("manifest", shard)))
        failed = stack.enter_context(adding_lines(failures, anew=True))
        stack.callback(progress.show)
        stack.enter_context(counting)
        left = plan.left()
        first = list(itertools.islice(left, 1))  # without any, no engine has to start
        for outcome in engine.run(job, itertools.chain(first, left)) if first else ():
            if outcome.state == "stopped":
                raise FolderError(outcome.reason)
            line = f"{outcome.to_line()}\n".encode()
            manifest.write(line)
            if outcome.state == "failed":
                failed.write(line)
                print(_printable(f"\n{outcome.input}: {outcome.reason}"), file=sys.stderr)
            progress.count(outcome.state == "failed")
    status = _tell_unreadable(plan)
    if progress.failed:
        print(f"{progress.failed:,} failed; {failures} names them and says why.", file=sys.stderr)
        return SOME_FAILED
    failures.unlink()
    return status


class Counting(threading.Thread):
    """Counts what is left beside the work, so that the first picture need not wait for the last."""

    def __init__(self, plan: Plan, progress: Progress):
        """Keep whom to tell."""
        super().__init__(daemon=True)
        self._plan = plan
        self._progress = progress
        self._stopped = False

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *error: object) -> None:
        self._stopped = True
        self.join()

    def run(self) -> None:
        """Count."""
        count = 0
        for _ in self._plan.left():
            count += 1
            if self._stopped:
                return
        self._progress.total = count


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise FolderError(f"{error}. Name an output folder that can be written.") from error


def _tell_unreadable(plan: Plan) -> int:
    for folder, error in plan.unreadable.items():
        print(_printable(f"{folder} could not be listed: {error}"), file=sys.stderr)
    return SOME_FAILED if plan.unreadable else 0


def _printable(text: str) -> str:
    """Return text that any terminal takes: names may be no Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()
