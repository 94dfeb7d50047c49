"""Where pictures are restored: an engine takes them one after another and yields what came of each."""

from __future__ import annotations

import collections
import contextlib
import importlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

from .comfyui import make_temporary_folder, start_comfyui
from .job import Job, Outcome
from .listing import Picture

if TYPE_CHECKING:
    from .restorer import Restorer

AHEAD = 2  # pictures that are read, and results that are written, while one is restored
Given = TypeVar("Given")
Made = TypeVar("Made")


class Engine(Protocol):
    """Restores pictures."""

    def run(self, job: Job, pictures: Iterable[Picture]) -> Iterator[Outcome]:
        """Yield what came of each picture, in any order.

        Raises:
            FolderError: It cannot start.
        """
        ...


class LocalEngine:
    """Restores in this process, on the device that ComfyUI chooses."""

    def run(self, job: Job, pictures: Iterable[Picture]) -> Iterator[Outcome]:
        """Yield what came of each picture, in their order."""
        temporary = make_temporary_folder()
        try:
            server = start_comfyui(job.comfyui, job.comfyui_arguments, temporary)
            # It imports ComfyUI, which chooses its device when it is imported.
            restorer = importlib.import_module(".restorer", __package__).Restorer(job, server)
            yield from restore_all(restorer, pictures)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def restore_all(restorer: Restorer, pictures: Iterable[Picture]) -> Iterator[Outcome]:
    """Yield what came of each picture; the next are read and the last written meanwhile."""
    with (
        contextlib.closing(restorer),
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
    ):
        read = in_order(reader, restorer.read, pictures, AHEAD)
        yield from in_order(writer, restorer.write, map(restorer.restore, read), AHEAD)


def in_order(
    pool: ThreadPoolExecutor, call: Callable[[Given], Made], items: Iterable[Given], ahead: int
) -> Iterator[Made]:
    """Yield the results of calls in another thread, of which a few are made in advance.

    Args:
        pool: The threads.
        call: What is called.
        items: Its arguments, taken one after another in this thread.
        ahead: How many results may wait.
    """
    waiting: collections.deque[Future[Made]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            # What is ready is told at once: it is done, whatever happens next.
            while len(waiting) > ahead or (waiting and waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
