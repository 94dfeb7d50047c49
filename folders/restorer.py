"""Restores pictures with a workflow in the ComfyUI of this process; import it when that runs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import os
import platform
import time
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import execution
import folder_paths
import numpy as np
import torch
from comfy.cli_args import args
from comfy_execution.graph import get_input_info

from ..videos.reading import read_frames
from ..videos.writing import VideoWriter, crf_of_quality, video_suffix
from .errors import FolderError, is_disk_full
from .job import PARTIAL, Job, Outcome, inside
from .listing import Picture
from .manifest import BLOCK_BYTES
from .pictures import check_whole, read_metadata, write_picture
from .stand_ins import as_loaded, picture_node, result_node
from .tries import MOST, Tries
from .workflow import LARGEST_SEED, Place, Prompt

# ComfyUI's nodes, whose name ours have too.
NODE_CLASSES: dict[str, Any] = importlib.import_module("nodes").NODE_CLASS_MAPPINGS
PICTURE_NODE = "RestorationFolderPicture"
RESULT_NODE = "RestorationFolderResult"


@dataclass
class Work:
    """A picture on its way.

    Attributes:
        picture: Which one.
        outcome: What came of it so far.
        prompt: The workflow as the page would have it.
        loaded: What the loading node made of it; None for a video, which is read in parts.
        kept: Its metadata, if that is to be kept.
        results: For each result its images, one `(H, W, C)` in [0, 1] each.
        written: For each result that is already a file: its path below the output folder, and the file.
        staged: The copy that nodes read.
    """

    picture: Picture
    outcome: Outcome
    prompt: Prompt = field(default_factory=dict)
    loaded: tuple | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    results: dict[Place, list[np.ndarray]] = field(default_factory=dict)
    written: list[tuple[str, Path]] = field(default_factory=list)
    staged: Path | None = None


class Restorer:
    """Runs one workflow for picture after picture; what does not depend on them stays loaded.

    `read`, `restore` and `write` may run in three threads at once for different pictures.

    Attributes:
        tries: How often each picture was begun.
    """

    def __init__(self, job: Job, server: Any):
        """Check the workflow.

        Args:
            job: What is to be done.
            server: ComfyUI's PromptServer.
        Raises:
            FolderError: ComfyUI cannot run the workflow.
        """
        self._job = job
        self.tries = Tries(job.target / PARTIAL / "tries")
        self._server = server
        self._worker = f"{platform.node()}:{os.getpid()}"
        self._handed: dict[str, tuple] = {}
        self._taken: dict[str, list[torch.Tensor]] = {}
        self._check_workflow()
        self._largest_seeds = dict(self._find_largest_seeds())
        self._loader = NODE_CLASSES[self._node(job.workflow.picture)["class_type"]]
        NODE_CLASSES[PICTURE_NODE] = picture_node(self._handed, self._loader)
        NODE_CLASSES[RESULT_NODE] = result_node(self._taken)
        self._executor = execution.PromptExecutor(
            server,
            cache_type=execution.CacheType.CLASSIC,  # pyright: ignore[reportArgumentType]
            cache_args={"lru": 0, "ram": 0, "ram_inactive": 0},
        )

    def read(self, picture: Picture) -> Work:
        """Read and decode a picture as the workflow's own node does; of a video only its hash."""
        work = Work(picture, Outcome(picture.path, "done", worker=self._worker))
        if self.tries.count(picture.path) >= MOST:
            reason = f"The process that restored it ended {MOST} times before it was done."
            work.outcome = replace(work.outcome, state="failed", reason=reason)
            return work
        if not picture.is_video:
            suffix = os.path.splitext(picture.path)[1]
            name = uuid.uuid4().hex + (suffix if suffix.isascii() else "")
            work.staged = Path(folder_paths.get_temp_directory()) / name
        with self._counting(work):
            self.tries.begin(picture.path)
            self._hash_and_stage(work)
            if work.staged:
                check_whole(work.staged)
                work.loaded = self._load(work.prompt, work.staged.name)
                if self._job.encoding.keep_metadata:
                    work.kept = read_metadata(work.staged)
        if work.staged:
            work.staged.unlink(missing_ok=True)
        return work

    def was_tried(self, picture: Picture) -> bool:
        """Return whether a process began a picture and ended before it was done."""
        return self.tries.count(picture.path) > 0

    def restore(self, work: Work) -> Work:
        """Run the workflow for a picture that was read."""
        if work.outcome.state == "done":
            with self._counting(work):
                if work.loaded is None:
                    self._restore_video(work)
                else:
                    for place, images in self._run(work, work.loaded, 0).items():
                        work.results[place] = [_on_cpu(image) for image in images]
                    work.loaded = None
        return work

    def write(self, work: Work) -> Outcome:
        """Write what was made of a picture, and tell what came of it."""
        if work.outcome.state == "done":
            with self._counting(work):
                for place, images in work.results.items():
                    self._encode(work, place, images)
                outputs = tuple(self._put(file, path) for path, file in work.written)
                work.outcome = replace(work.outcome, outputs=outputs)
        for _, file in work.written:
            file.unlink(missing_ok=True)
        self.tries.end(work.picture.path)
        return replace(work.outcome, finished=time.time())

    def close(self) -> None:
        """End in order: what was begun and is left is nobody's fault."""
        self.tries.stop()

    def _check_workflow(self) -> None:
        """Let ComfyUI check the workflow, with a picture that is there."""
        workflow = self._job.workflow
        for place in (workflow.picture, *workflow.results):
            class_type = self._node(place)["class_type"]
            if class_type not in NODE_CLASSES:
                raise FolderError(f"This ComfyUI has no node {class_type}: install its pack.")
        sample = Path(folder_paths.get_temp_directory()) / f"{uuid.uuid4().hex}.png"
        write_picture(np.zeros((64, 64, 3)), sample, self._job.encoding, None, {})
        try:
            prompt = workflow.for_picture(f"{sample.name} [temp]", "", True)
            results = list({place.node for place in workflow.results})
            for node in results:
                # As an output node, so that ComfyUI looks at all before it.
                prompt[node] = {"class_type": "PreviewImage", "inputs": self._images_of(node)}
            valid = asyncio.run(execution.validate_prompt(uuid.uuid4().hex, prompt, results))
        finally:
            sample.unlink()
        if valid[0] and set(valid[2]) == set(results):
            # ComfyUI turns values into what the inputs take, as "4" into 4.
            for node, data in prompt.items():
                if node not in results and node != workflow.picture.node:
                    workflow.prompt[node]["inputs"] = data["inputs"]
            return
        raise FolderError(f"ComfyUI refuses the workflow: {_refusal(valid)}")

    def _find_largest_seeds(self) -> Iterator[tuple[Place, int]]:
        """Yield the inputs whose node takes no seed as large as those that are made."""
        for place in self._job.workflow.seeds():
            node = NODE_CLASSES[self._node(place)["class_type"]]
            *_, options = get_input_info(node, place.name)
            largest = (options or {}).get("max", LARGEST_SEED)
            if largest < LARGEST_SEED:
                yield place, int(largest)

    def _node(self, place: Place) -> dict[str, Any]:
        return self._job.workflow.prompt[place.node]

    def _images_of(self, node: str) -> dict[str, Any]:
        place = next(place for place in self._job.workflow.results if place.node == node)
        return {"images": self._node(place)["inputs"][place.name]}

    @contextlib.contextmanager
    def _counting(self, work: Work) -> Iterator[None]:
        """Add the block's time to a picture's; turn what goes wrong in it into its outcome."""
        start = time.monotonic()
        try:
            yield
        # Files and nodes of any pack may raise anything; it is this picture's alone.
        except Exception as error:  # noqa: BLE001
            stopped = is_disk_full(error)
            reason = _describe(error, work) if not stopped else (
                f"{error}. The disk of {self._job.target} or of {folder_paths.get_temp_directory()}"
                " is full: free some space, then run the same command again; it goes on where it"
                " stopped."
            )  # fmt: skip
            work.outcome = replace(
                work.outcome, state="stopped" if stopped else "failed", reason=reason
            )
            work.loaded, work.results = None, {}
        seconds = work.outcome.seconds + time.monotonic() - start
        work.outcome = replace(work.outcome, seconds=round(seconds, 4))

    def _hash_and_stage(self, work: Work) -> None:
        """Hash a file, and copy a picture to where nodes may read; its own name may be any."""
        digest = hashlib.sha256()
        with contextlib.ExitStack() as files:
            file = files.enter_context((self._job.source / work.picture.path).open("rb"))
            copied = files.enter_context(work.staged.open("wb")) if work.staged else None
            stat = os.fstat(file.fileno())
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                if copied:
                    copied.write(block)
        work.outcome = replace(
            work.outcome,
            sha256=digest.hexdigest(),
            bytes=stat.st_size,
            modified_ns=stat.st_mtime_ns,
            settings=self._job.settings_of(work.picture),
        )
        work.prompt = self._job.workflow.for_picture(
            os.fsencode(work.picture.path).decode("utf-8", "replace"),
            work.outcome.sha256,
            self._job.same_seed,
            self._largest_seeds,
        )

    def _load(self, prompt: Prompt, name: str) -> tuple:
        """Return what the workflow's loading node makes of a file in the temporary folder."""
        place = self._job.workflow.picture
        inputs = {**prompt[place.node]["inputs"], place.name: f"{name} [temp]"}
        with torch.inference_mode():
            call = execution.get_output_data(
                uuid.uuid4().hex,
                place.node,
                self._loader(),
                {key: [value] for key, value in inputs.items()},
                v3_data={"hidden_inputs": {}},
            )
            outputs, *_ = asyncio.run(call)
        is_list = getattr(self._loader, "OUTPUT_IS_LIST", [False] * len(outputs))
        return tuple(
            values if listed else values[0]
            for values, listed in zip(outputs, is_list, strict=False)
        )

    def _run(self, work: Work, loaded: tuple, part: int) -> dict[Place, list[torch.Tensor]]:
        """Return for each result the images that arrive there, one `(H, W, C)` each."""
        workflow = self._job.workflow
        token = f"{part} {work.picture.path}"
        prompt: Prompt = {
            **work.prompt,
            workflow.picture.node: {"class_type": PICTURE_NODE, "inputs": {"token": token}},
        }
        results = {
            f"{RESULT_NODE} {number}": place for number, place in enumerate(workflow.results)
        }
        for node, place in results.items():
            images = self._node(place)["inputs"][place.name]
            prompt[node] = {"class_type": RESULT_NODE, "inputs": {"images": images, "place": node}}
        self._handed[token] = loaded
        self._taken.clear()
        self._server.last_prompt_id = (
            uuid.uuid4().hex
        )  # as ComfyUI's queue sets it: nodes' threads ask
        try:
            self._executor.execute(prompt, self._server.last_prompt_id, {}, list(results))
        finally:
            self._handed.clear()
        if not self._executor.success:
            raise RuntimeError(_failure(self._executor.status_messages, work.prompt))
        taken = {place: self._taken.pop(node, []) for node, place in results.items()}
        for place, images in taken.items():
            if not images:
                raise RuntimeError(f"Nothing came to node {place.node} ({workflow.label(place)}).")
        return taken

    def _restore_video(self, work: Work) -> None:
        source = self._job.source / work.picture.path
        suffix = video_suffix(work.picture.path)
        crf = crf_of_quality(self._job.encoding.quality)
        writers: dict[Place, VideoWriter] = {}
        try:
            for place in self._job.workflow.results:
                file = self._new_file(work, self._path(work, place) + suffix)
                writers[place] = VideoWriter(file, source, crf)
            for part, (frames, times) in enumerate(read_frames(source, self._job.frames_at_once)):
                loaded = as_loaded(frames, self._loader)
                for place, images in self._run(work, loaded, part).items():
                    writers[place].add(np.stack([_on_cpu(image) for image in images]), times)
            for writer in writers.values():
                writer.finish()
        except BaseException:
            for writer in writers.values():
                writer.abandon()
            raise

    def _encode(self, work: Work, place: Place, images: list[np.ndarray]) -> None:
        encoding = self._job.encoding
        prompt = None if args.disable_metadata else work.prompt
        for number, image in enumerate(images, 1):
            part = "" if len(images) == 1 else f"/{number:05}"
            file = self._new_file(work, f"{self._path(work, place)}{part}.{encoding.format}")
            write_picture(image, file, encoding, prompt, work.kept)

    def _path(self, work: Work, place: Place) -> str:
        """Return a result's path below the output folder, without its end."""
        workflow = self._job.workflow
        if len(workflow.results) == 1:
            return work.picture.target
        return f"{workflow.label(place)}/{work.picture.target}"

    def _new_file(self, work: Work, path: str) -> Path:
        """Return a file to write, which is moved to a path below the output folder when it is whole."""
        file = self._job.partial / f"{uuid.uuid4().hex}{os.path.splitext(path)[1]}"
        work.written.append((path, file))
        return file

    def _put(self, file: Path, path: str) -> tuple[str, int]:
        target = inside(self._job.target, path)
        size = file.stat().st_size
        if target.is_dir():
            raise ValueError(f"{target} is a folder: nothing was written there.")
        os.replace(file, target)
        return path, size


def _on_cpu(image: torch.Tensor) -> np.ndarray:
    return image.cpu().float().numpy()


def _describe(error: Exception, work: Work) -> str:
    """Return what went wrong with a picture, under its own name."""
    said = str(error).strip() or traceback.format_exception_only(error)[-1].strip()
    said = said.replace(str(work.staged), work.picture.path)
    if isinstance(error, (RuntimeError, ValueError)):
        return said
    return f"{type(error).__name__}: {said}"


def _failure(messages: list[tuple[str, dict]], prompt: Prompt) -> str:
    """Return which node failed and what it said."""
    event, data = messages[-1]
    if event == "execution_interrupted":
        return "It was interrupted."
    node = data.get("node_id", "")
    where = f"{data.get('node_type')} ({node})" if node in prompt else "the workflow"
    return f"{where}: {data.get('exception_message', event).strip()}"


def _refusal(valid: tuple) -> str:
    """Return what ComfyUI's check of a workflow says, in one paragraph."""
    _, error, _, node_errors = valid
    said = [
        f"{found['class_type']} ({node}): {reason['message']}: {reason['details']}"
        for node, found in node_errors.items()
        for reason in found["errors"]
    ]
    if not said and error:
        said = [f"{error['message']} {error['details']}".strip()]
    return "; ".join(said)
