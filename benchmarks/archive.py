"""Restores an archive twice, alone and on Ray: `python dev.py bench --folders --archive 1000`.

Crops of free photographs go through the bundled workflow in one process, then on a Ray cluster of
two nodes on this machine, of which one is taken away while it works. Both have to give the same
files.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from ..folders.job import Outcome
from .folders import PACK_ROOT, WORKFLOW

REMOVE_AFTER = 0.3  # of all pictures


def compare(base: Path, count: int) -> bool:
    """Print what both runs took; return whether both are complete and gave the same files.

    Args:
        base: What ComfyUI keeps beside itself; the pictures are in `input`.
        count: How many those are.
    """
    alone, on_ray = base / "alone", base / "on ray"
    print(describe("alone", restore_alone(base, alone), alone), flush=True)
    seconds, removed = restore_on_ray(base, on_ray, count)
    print(describe("on Ray", seconds, on_ray))
    two, one_left = worker_rates(manifest(on_ray), removed)
    print(
        f"two workers {two:.2f}, one {one_left:.2f} pictures a second: {two / one_left:.2f} times"
    )
    one, other = digests(alone), digests(on_ray)
    print(f"{len(one)} and {len(other)} results, equal: {one == other}")
    return len(one) == count and one == other


def command(base: Path, target: Path, *more: str) -> list[str]:
    """Return the folder command's line."""
    run = PACK_ROOT / "folders" / "run.py"
    options = ["--base-directory", str(base), "--disable-api-nodes", "--cpu"]
    paths = [str(WORKFLOW), str(base / "input"), str(target)]
    return [sys.executable, str(run), *paths, *more, "--", *options]


def restore_alone(base: Path, target: Path) -> float:
    """Restore everything in one process and return the seconds."""
    start = time.monotonic()
    subprocess.run(command(base, target), check=True)
    return time.monotonic() - start


def restore_on_ray(base: Path, target: Path, count: int) -> tuple[float, float]:
    """Restore everything on two nodes and remove one on the way.

    Returns:
        The seconds it took, and when the node was removed, in seconds since 1970.
    """
    from ray.cluster_utils import Cluster

    # A worker needs two places: each node has room for one, the first also for what Ray reads.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    second = cluster.add_node(num_cpus=2)
    ray = ["--ray-address", cluster.address, "--workers", "2", "--cpus-per-worker", "2"]
    start, removed = time.monotonic(), 0.0
    try:
        process = subprocess.Popen(command(base, target, *ray))
        while process.poll() is None:
            if second and len(manifest(target)) > REMOVE_AFTER * count:
                workers = Counter(outcome.worker for outcome in manifest(target))
                print(f"\nremoving a node; so far: {dict(workers)}", flush=True)
                cluster.remove_node(second, allow_graceful=False)
                second, removed = None, time.time()
            time.sleep(0.5)
        if process.returncode or second:
            raise RuntimeError(f"status {process.returncode}, node removed: {second is None}")
    finally:
        cluster.shutdown()
    return time.monotonic() - start, removed


def worker_rates(outcomes: list[Outcome], removed: float) -> tuple[float, float]:
    """Return pictures a second while two workers ran, and while one was left.

    Args:
        outcomes: Of a run on two nodes.
        removed: When one was removed.
    """
    times: dict[str, list[float]] = {}
    for outcome in outcomes:
        times.setdefault(outcome.worker, []).append(outcome.finished)
    begun = sorted(min(finished) for finished in times.values())
    two = sum(begun[1] < outcome.finished <= removed for outcome in outcomes)
    # Another worker may take the place of the one that is gone, when the rest is done.
    stop = min([*begun[2:], max(outcome.finished for outcome in outcomes)])
    one = sum(removed < outcome.finished <= stop for outcome in outcomes)
    return two / (removed - begun[1]), one / (stop - removed)


def manifest(target: Path) -> list[Outcome]:
    """Return the lines of a folder's manifest, as far as they are written."""
    path = target / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [Outcome.from_line(line) for line in lines if line.endswith(b"\n")]


def describe(title: str, seconds: float, target: Path) -> str:
    """Return what a run took, in all and between its first and its last result."""
    outcomes = manifest(target)
    finished = sorted(outcome.finished for outcome in outcomes)
    rate = (len(finished) - 1) / (finished[-1] - finished[0])
    written = sum(size for outcome in outcomes for _, size in outcome.outputs)
    states = dict(Counter(outcome.state for outcome in outcomes))
    names = len({outcome.input for outcome in outcomes})
    return (
        f"{title}: {seconds:.0f} s, {rate:.2f} pictures a second once it ran, {written / 1e6:.1f} MB"
        f" written; manifest: {len(outcomes)} lines, {names} names, {states}, by"
        f" {len({outcome.worker for outcome in outcomes})} processes"
    )


def digests(target: Path) -> dict[str, str]:
    """Return the SHA-256 of every result."""
    return {
        str(path.relative_to(target)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in target.rglob("*.png")
        if ".partial" not in path.parts
    }
