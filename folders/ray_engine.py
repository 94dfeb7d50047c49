"""Restores on every card of every machine of a Ray cluster; Ray places, retries and scales."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import pickle
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .comfyui import make_temporary_folder, start_comfyui
from .errors import FolderError
from .job import Job, Outcome
from .listing import Picture

PACK = Path(__file__).absolute().parents[1]
REQUIREMENT = "ray[data]>=2.60"
CALLS_AT_ONCE = 3  # one picture is read, one restored, one written


class NoRestorer:
    """Says for every picture why none can be restored."""

    def __init__(self, reason: str):
        """Keep the reason."""
        self.reason = reason


@dataclass(frozen=True)
class RayEngine:
    """Restores on a cluster.

    Attributes:
        address: Of the cluster's head; None: a cluster of this machine alone.
        smallest: How many workers there are at least.
        largest: And at most; None: one for each card, or for each machine without cards.
        gpus: Cards of a worker, 0.5 puts two on one; None: one where the cluster has cards.
        cpus: Processor cores of a worker.
    """

    address: str | None
    smallest: int
    largest: int | None
    gpus: float | None
    cpus: float

    def run(self, job: Job, pictures: Iterable[Picture]) -> Iterator[Outcome]:
        """Yield what came of each picture as they are done.

        A worker or machine that goes away loses nothing: Ray gives its pictures to others, as
        often as it takes. A picture that ends its worker every time is told as failed.

        Raises:
            FolderError: Ray is not installed, or has no such cluster.
        """
        if importlib.util.find_spec("ray") is None or not importlib.util.find_spec("pyarrow"):
            raise FolderError(
                "--ray needs Ray, which this Python lacks. Install it:\n"
                f'{sys.executable} -m pip install "{REQUIREMENT}"'
            )
        ray = importlib.import_module("ray")
        data = importlib.import_module("ray.data")
        _connect(ray, self.address)
        todo = job.partial / "pictures.jsonl"
        count = _write_lines(todo, pictures)
        told = bytearray(count)
        try:
            for row in self._restore(ray, data, job, todo).iter_rows():
                number, line = json.loads(row["text"])
                told[number] = 1
                yield Outcome.from_line(line)
            yield from _untold(todo, told)
        finally:
            todo.unlink(missing_ok=True)

    def _restore(self, ray: Any, data: Any, job: Job, todo: Path) -> Any:
        """Return the dataset of outcomes, which is made while it is read."""
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        context = data.DataContext.get_current()
        context.print_on_execution_start = False
        context.max_errored_blocks = -1  # what is missing in the end is told as failed
        context.enable_progress_bars = False
        cards = ray.cluster_resources().get("GPU", 0)
        gpus = self.gpus if self.gpus is not None else float(cards > 0)
        machines = sum(node["Alive"] for node in ray.nodes())
        places = int(cards / gpus) if gpus else machines
        worker = importlib.import_module(".ray_worker", __package__)
        ray.cloudpickle.register_pickle_by_value(worker)
        return (
            data.read_text(str(todo))
            .repartition(target_num_rows_per_block=1)
            .map_batches(
                worker.RayWorker,
                batch_size=1,
                compute=data.ActorPoolStrategy(
                    min_size=self.smallest,
                    max_size=max(self.smallest, self.largest or places),
                    max_tasks_in_flight_per_actor=CALLS_AT_ONCE + 1,
                    max_concurrent_calls_per_actor=CALLS_AT_ONCE,
                    enable_true_multi_threading=True,
                ),
                num_gpus=gpus,
                num_cpus=self.cpus,
                fn_constructor_args=[str(PACK), pickle.dumps(job)],
            )
        )


def start_restorer(pickled: bytes) -> Any:
    """Return what restores in an actor's process, from a pickled job, or what says why it cannot."""
    job: Job = pickle.loads(pickled)  # noqa: S301 - from this command's own process
    # Ray ends its actors without notice; a later worker takes the folder away.
    server = start_comfyui(job.comfyui, job.comfyui_arguments, make_temporary_folder())
    try:
        return importlib.import_module(".restorer", __package__).Restorer(job, server)
    except FolderError as error:
        return NoRestorer(str(error))


def restore_line(restorer: Any, line: str, one_at_a_time: threading.Lock) -> str:
    """Return what came of one picture, a line of JSON with its number.

    Args:
        restorer: What `start_restorer` returned.
        line: Its number and itself, as `RayEngine` writes them.
        one_at_a_time: Held while the workflow runs, but not while files are read and written.
    """
    number, told = json.loads(line)
    picture = Picture(**told)
    if isinstance(restorer, NoRestorer):
        outcome = Outcome(picture.path, "stopped", restorer.reason)
    elif restorer.tries.count(picture.path):
        with one_at_a_time:  # alone, so that no other is counted if it ends the process again
            outcome = restorer.write(restorer.restore(restorer.read(picture)))
    else:
        work = restorer.read(picture)
        with one_at_a_time:
            work = restorer.restore(work)
        outcome = restorer.write(work)
    return json.dumps([number, outcome.to_line()])


def _connect(ray: Any, address: str | None) -> None:
    try:
        ray.init(
            address=address or "local",
            ignore_reinit_error=True,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except (ConnectionError, ValueError) as error:
        raise FolderError(
            f"There is no Ray cluster at {address}: {error}. On its first machine run"
            " `ray start --head`, which prints the address; on it --ray-address auto finds it."
        ) from error


def _write_lines(file: Path, pictures: Iterable[Picture]) -> int:
    number = 0
    with file.open("w", encoding="ascii") as lines:
        for picture in pictures:
            lines.write(json.dumps([number, asdict(picture)]) + "\n")
            number += 1
    return number


def _untold(todo: Path, told: bytearray) -> Iterator[Outcome]:
    """Yield a failure for every picture of which no worker could tell what came of it."""
    with todo.open(encoding="ascii") as lines:
        for line in lines:
            number, picture = json.loads(line)
            if not told[number]:
                yield Outcome(picture["path"], "failed", "Ray lost it; its log says why.")
