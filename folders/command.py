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
from dataclasses import asdict
from pathlib import Path

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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also when started in the background
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


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line; `comfyui_arguments` holds what follows `--`."""
    argv = list(argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog=os.environ.get("PACK_COMMAND", f'python "{sys.argv[0]}"'),
        description=__doc__,
        epilog="After -- come arguments for ComfyUI, such as --cpu.",
    )
    parser.add_argument("workflow", type=Path, help="a workflow that the page exported (API)")
    parser.add_argument("source", type=Path, metavar="in", help="the folder of pictures")
    parser.add_argument("target", type=Path, metavar="out", help="the folder of results")
    which = parser.add_argument_group("which pictures")
    text = "only files that fit, as in '*.tif' or 'box 1/*'; may be given several times"
    which.add_argument("--include", action="append", default=[], metavar="GLOB", help=text)
    which.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="not these")
    which.add_argument("--limit", type=_positive, metavar="N", help="at most N of what is left")
    text = "the K-th of N parts, for N commands on N machines"
    which.add_argument("--shard", type=_shard, default=Shard(1, 1), metavar="K/N", help=text)
    text = "read every picture to see whether it changed; otherwise size and time tell"
    which.add_argument("--checksum", action="store_true", help=text)
    text = "only tell what would be done"
    which.add_argument("--dry-run", action="store_true", help=text)
    how = parser.add_argument_group("the workflow")
    text = "loads the picture: id, title, or NODE.input (default: the one Load Image)"
    how.add_argument("--input-node", metavar="NODE", help=text)
    text = "its images are saved (default: every Save Image); may be given several times"
    how.add_argument("--output-node", action="append", default=[], metavar="NODE", help=text)
    text = "change a value, as in 5.steps=4; may be given several times"
    how.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help=text)
    text = "the workflow's seed for every picture; otherwise each has its own, made from it"
    how.add_argument("--same-seed", action="store_true", help=text)
    text = "frames of a video that are one batch (default: %(default)s)"
    how.add_argument("--frames-at-once", type=_positive, default=8, metavar="N", help=text)
    results = parser.add_argument_group("the results")
    text = "of pictures (default: %(default)s)"
    results.add_argument("--format", choices=("png", "jpg", "webp"), default="png", help=text)
    text = "1 to 100, of jpg, webp and videos (default: %(default)s)"
    results.add_argument("--quality", type=_quality, default=92, metavar="Q", help=text)
    text = "take EXIF and ICC profile over"
    results.add_argument("--keep-metadata", action="store_true", help=text)
    ray = parser.add_argument_group("many cards and machines, by Ray")
    text = 'restore with Ray, on this machine or at --ray-address; needs pip install "ray[data]"'
    ray.add_argument("--ray", action="store_true", help=text)
    text = "of a running cluster: HOST:PORT, or auto on one of its machines"
    ray.add_argument("--ray-address", metavar="ADDRESS", help=text)
    text = "at least and at most (default: from 1 to one for each card)"
    ray.add_argument("--workers", type=_workers, default=(1, None), metavar="N[:M]", help=text)
    text = "cards of a worker; 0.5 puts two on one (default: 1 where there are cards)"
    ray.add_argument("--gpus-per-worker", type=float, metavar="X", help=text)
    text = "processor cores of a worker (default: %(default)s)"
    ray.add_argument("--cpus-per-worker", type=float, default=1, metavar="X", help=text)
    arguments = parser.parse_args(argv[:cut])
    arguments.comfyui_arguments = tuple(argv[cut + 1 :])
    return arguments


def restore_folder(arguments: argparse.Namespace) -> int:
    """Do what the command line says and return the exit status."""
    job = make_job(arguments)
    shard: Shard = arguments.shard
    with contextlib.ExitStack() as stack:
        if not arguments.dry_run:
            (job.target / PARTIAL).mkdir(parents=True, exist_ok=True)
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
    others = {
        **asdict(encoding),
        "same_seed": arguments.same_seed,
        "frames_at_once": arguments.frames_at_once,
    }
    part = f"{arguments.shard.number}-of-{arguments.shard.count}"
    return Job(
        workflow=workflow,
        source=real_source,
        target=real_target,
        partial=real_target / PARTIAL / part,
        encoding=encoding,
        same_seed=arguments.same_seed,
        frames_at_once=arguments.frames_at_once,
        settings=settings_key(workflow, others),
        comfyui=find_comfyui(),
        comfyui_arguments=arguments.comfyui_arguments,
    )


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
                if not self._done.has(picture, job.source, job.settings, self._checksum):
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
        for outcome in engine.run(job, plan.left()):
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


def _tell_unreadable(plan: Plan) -> int:
    for folder, error in plan.unreadable.items():
        print(_printable(f"{folder} could not be listed: {error}"), file=sys.stderr)
    return SOME_FAILED if plan.unreadable else 0


def _printable(text: str) -> str:
    """Return text that any terminal takes: names may be no Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _quality(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 100")
    return number


def _shard(text: str) -> Shard:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text} is not K/N with K from 1 to N, as 1/3")
    return Shard(int(number), int(count))


def _workers(text: str) -> tuple[int, int]:
    smallest, colon, largest = text.partition(":")
    bounds = _positive(smallest), _positive(largest if colon else smallest)
    if bounds[0] > bounds[1]:
        raise argparse.ArgumentTypeError(f"{text} has more at least than at most")
    return bounds
