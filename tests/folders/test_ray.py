"""The same folders on a Ray cluster of this machine, whose workers and nodes go away."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pack.folders import command, ray_engine
from pack.folders.errors import FolderError
from pack.folders.job import Outcome
from pack.folders.listing import Picture
from pack.folders.tries import MOST, Tries
from pack.tests.support import folders as support
from pack.tests.support.folders import contents, inverting, write_pictures

pytestmark = pytest.mark.comfy
HAS_RAY = importlib.util.find_spec("ray") is not None
IS_MISSING = pytest.mark.skipif(
    not HAS_RAY, reason='Ray is missing: pip install "ray[data]" to test the engine for clusters'
)
NODE = """
import os
import signal
import time


class Ends:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "invert"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def invert(self, image):
        time.sleep(0.2)
        if image.max() == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return (1.0 - image,)


NODE_CLASS_MAPPINGS = {"Ends": Ends}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Any]:
    """A cluster of a head and, each of one place, two nodes; the folder its ComfyUI has nodes in."""
    import ray
    from ray.cluster_utils import Cluster

    base = tmp_path_factory.mktemp("cluster")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "ends.py").write_text(NODE)
    # A node that is gone is to be noticed in seconds.
    health = {
        f"health_check_{name}": 500 for name in ("initial_delay_ms", "period_ms", "timeout_ms")
    }
    head = {"num_cpus": 2, "_system_config": {**health, "health_check_failure_threshold": 4}}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.base = base
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def job(base, cluster):
    """A job on the cluster whose node is slow and ends its process at a black picture."""
    prompt = inverting()
    prompt["2"]["class_type"] = "Ends"
    arguments = ("--base-directory", str(cluster.base), "--cpu", "--disable-api-nodes")
    return support.make_job(
        base, prompt, comfyui=Path(os.environ["COMFYUI_PATH"]), comfyui_arguments=arguments
    )


def on(cluster: Any, workers: int, cpus: float = 1) -> ray_engine.RayEngine:
    return ray_engine.RayEngine(cluster.address, workers, workers, None, cpus)


def pixels(file: bytes) -> bytes:
    """Return what a PNG shows, without the workflow in it."""
    with Image.open(io.BytesIO(file)) as picture:
        return picture.tobytes()


def write(base: Path, count: int) -> list[str]:
    names = [f"{number:02}.png" for number in range(count)]
    write_pictures(base / "in", names)
    return names


@IS_MISSING
@pytest.mark.slow
def test_a_killed_worker_and_a_removed_node_lose_nothing_and_double_nothing(base, cluster, job):
    names = write(base, 40)
    (base / "in" / "bad.png").write_bytes(b"no picture")
    # Two processors a worker: each needs a node, the head has room for none.
    nodes = [cluster.add_node(num_cpus=3) for _ in range(2)]
    told: list[Outcome] = []
    workers: dict[str, int] = {}
    killed = removed = False
    for outcome in on(cluster, 2, cpus=2).run(job, support.all_of(job.source)):
        told.append(outcome)
        workers[outcome.worker] = workers.get(outcome.worker, 0) + 1
        if not killed and len(workers) == 2:
            os.kill(int(outcome.worker.rpartition(":")[2]), signal.SIGKILL)
            killed = True
        elif killed and not removed and len(told) > 12:
            cluster.remove_node(nodes[1], allow_graceful=False)
            removed = True
    assert killed
    assert removed
    assert sorted(outcome.input for outcome in told) == [*names, "bad.png"]
    failed = {outcome.input: outcome.reason for outcome in told if outcome.state != "done"}
    assert list(failed) == ["bad.png"]
    assert "cannot identify image file 'bad.png'" in failed["bad.png"]
    on_ray = contents(base / "out")
    assert sorted(on_ray) == names
    shutil.rmtree(base / "out")
    alone = support.make_job(base, inverting())
    support.restore_here(alone)
    here = contents(base / "out")
    assert {name: pixels(file) for name, file in on_ray.items()} == {
        name: pixels(file) for name, file in here.items()
    }


@IS_MISSING
@pytest.mark.slow
def test_a_picture_that_ends_its_worker_every_time_fails_alone(base, cluster, job):
    names = write(base, 4)
    Image.new("RGB", (16, 16)).save(base / "in" / "black.png")
    tries = Tries(base / "out" / ".partial" / "tries")
    for _ in range(MOST - 1):
        tries.begin("black.png")
    told = {
        outcome.input: outcome for outcome in on(cluster, 1).run(job, support.all_of(job.source))
    }
    assert sorted(told) == [*names, "black.png"]
    assert [name for name, outcome in told.items() if outcome.state != "done"] == ["black.png"]
    assert f"ended {MOST} times" in told["black.png"].reason
    assert sorted(contents(base / "out")) == names


@IS_MISSING
@pytest.mark.slow
def test_a_workflow_that_the_workers_refuse_ends_the_command_with_their_reason(base, cluster, job):
    write(base, 2)
    prompt = {**inverting(), "2": {"class_type": "NoSuchNode", "inputs": {"image": ["1", 0]}}}
    refused = replace(job, workflow=support.workflow_of(prompt, base))
    outcome = next(on(cluster, 1).run(refused, support.all_of(job.source)))
    assert outcome.state == "stopped"
    assert "NoSuchNode" in outcome.reason


@IS_MISSING
@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_told(base, monkeypatch):
    def refuse(**_: object) -> None:
        raise ConnectionError("nothing answers")

    import ray

    monkeypatch.setattr(ray, "init", refuse)
    engine = ray_engine.RayEngine("192.0.2.1:6379", 1, 1, None, 1)
    with pytest.raises(FolderError, match="ray start --head"):
        next(engine.run(support.make_job(base, inverting()), []))


def test_the_tests_use_the_ray_that_users_are_told_to_install():
    requirements = (support.PACK_ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
    assert f"{ray_engine.REQUIREMENT};" in requirements


def test_without_ray_the_command_that_installs_it_is_told(base, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    engine = command.choose_engine(command.parse_arguments(["w", "in", "out", "--ray"]))
    with pytest.raises(FolderError, match=r'-m pip install "ray\[data\]'):
        next(engine.run(support.make_job(base, inverting()), [Picture("a.png", "a", 1, 1)]))
