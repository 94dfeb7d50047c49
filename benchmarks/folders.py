#!/usr/bin/env python3
"""Measures what a folder costs: `python dev.py bench --folders`; see benchmarks/README.md.

The same pictures go through the bundled workflow in three ways, in turns: in a bare loop over its
nodes, by the folder command's engine in the same process, and over the HTTP API of a server.
--archive also restores many small pictures alone and on Ray (archive.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

PACK_ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = PACK_ROOT / "workflows" / "api" / "resshift_x4_bundled.json"
SOURCES = ("mate-backgrounds", "lomiri-wallpapers-16.04")
SIDE = 256  # of what is measured, in pixels
LARGEST_OVERHEAD = 0.05
READY_TIMEOUT_S = 300


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=4, help="in a round")
    parser.add_argument("--rounds", type=int, default=4)
    text = "first restore N crops alone and on two nodes of Ray, and compare"
    parser.add_argument("--archive", type=int, metavar="N", help=text)
    parser.add_argument("--side", type=int, default=40, help="of the archive's crops, in pixels")
    parser.add_argument("--cache", type=Path, default=PACK_ROOT / ".dev" / "downloads")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args(argv)
    if not os.environ.get("COMFYUI_PATH"):
        print("Set COMFYUI_PATH, or use: python dev.py bench --folders", file=sys.stderr)
        return 1
    make_importable()
    equal = True
    if arguments.archive:
        archive = importlib.import_module("pack.benchmarks.archive")
        with base_with_crops(arguments.cache, arguments.archive, arguments.side) as base:
            equal = archive.compare(base, arguments.archive)
    with base_with_crops(arguments.cache, arguments.pictures, SIDE) as base:
        report = measure(base, arguments.rounds)
    print(format_report(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if equal else 1


def make_importable() -> None:
    """Let this pack be imported as `pack`, without the script's own folder."""
    pack = types.ModuleType("pack")
    pack.__path__ = [str(PACK_ROOT)]
    sys.modules["pack"] = pack
    sys.path.pop(0)


@contextlib.contextmanager
def base_with_crops(cache: Path, count: int, side: int) -> Iterator[Path]:
    """Give a folder with what ComfyUI keeps beside itself, this pack among its nodes, and crops."""
    with tempfile.TemporaryDirectory(prefix="restoration-bench-") as folder:
        base = Path(folder)
        for name in ("custom_nodes", "input", "models", "output"):
            (base / name).mkdir()
        (base / "custom_nodes" / "restoration").symlink_to(PACK_ROOT)
        write_crops(cache, base / "input", count, side)
        yield base


def write_crops(cache: Path, folder: Path, count: int, side: int) -> None:
    """Write square crops of free photographs, of those that the training uses.

    Args:
        cache: Folder of downloads; packages are fetched where they are missing.
        folder: Where to; the crops are spread over subfolders by their photograph.
        count: How many.
        side: Of a crop, in pixels; photographs are reduced to about 800 pixels before.
    """
    import numpy as np
    from PIL import Image

    data = importlib.import_module("pack.training.data")
    download = importlib.import_module("pack.training.download")
    packages = data.read_packages()
    photographs = []
    for name in SOURCES:
        archive = download.fetch(packages[name], cache)
        unpacked = cache / "unpacked" / name
        if not unpacked.exists():
            unpacked.parent.mkdir(exist_ok=True)
            subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True)
        rows = [row for row in data.read_table("photographs.csv") if row["package"] == name]
        photographs += [unpacked / row["file"] for row in rows]
    generator = np.random.default_rng(0)
    for number, path in enumerate(photographs):
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((1200, 800), Image.Resampling.LANCZOS)
        share = range(number, count, len(photographs))
        for index in share:
            left, top = (int(generator.integers(0, extent - side)) for extent in picture.size)
            target = folder / f"{path.stem}" / f"{index:05}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            picture.crop((left, top, left + side, top + side)).save(target)


def measure(base: Path, rounds: int) -> dict[str, Any]:
    """Return pictures a second of each way, the rounds taken in turns after one to warm up."""
    comfyui = importlib.import_module("pack.folders.comfyui")
    root = Path(os.environ["COMFYUI_PATH"])
    import torch

    device = [] if torch.accelerator.is_available() else ["--cpu"]
    options = ("--base-directory", str(base), "--disable-api-nodes", *device)
    temporary = base / "own"
    temporary.mkdir()
    names = [str(path.relative_to(base / "input")) for path in sorted(base.glob("input/*/*.png"))]
    rates: dict[str, list[float]] = {"bare": [], "local": [], "http": []}
    with serving(root, base, options) as url:
        server = comfyui.start_comfyui(root, options, temporary)
        ways: dict[str, Callable[[], None]] = {
            "bare": bare_loop(base, names),
            "local": engine(base, server, root, options),
            "http": lambda: asyncio.run(queue_all(url, names)),
        }
        for number in range(rounds + 1):
            for name, run in ways.items():
                start = time.perf_counter()
                with silent():
                    run()
                if number:
                    rates[name].append(len(names) / (time.perf_counter() - start))
    return {"pictures": len(names), **rates}


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Let nothing of a block reach the terminal, which would cost some of its time."""
    with (
        open(os.devnull, "w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        yield


def bare_loop(base: Path, names: Sequence[str]) -> Callable[[], None]:
    """Return a call that restores all with the workflow's node classes and nothing around them."""
    import torch

    classes = importlib.import_module("nodes").NODE_CLASS_MAPPINGS
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    (model,) = classes["ResShiftLoader"].execute(**prompt["1"]["inputs"]).result
    (vae,) = classes["ResShiftVAELoader"].execute(**prompt["2"]["inputs"]).result
    inputs = {**prompt["5"]["inputs"], "model": model, "vae": vae}
    utils = importlib.import_module("comfy.utils")

    def run() -> None:
        told, utils.PROGRESS_BAR_HOOK = utils.PROGRESS_BAR_HOOK, None  # there is no page
        with torch.inference_mode():
            for name in names:
                image, _ = classes["LoadImage"]().load_image(name)
                result = classes["ResShiftRestoreImage"].execute(**{**inputs, "image": image})
                classes["SaveImage"]().save_images(result.result[0], "bare")
        utils.PROGRESS_BAR_HOOK = told

    return run


def engine(base: Path, server: Any, root: Path, options: Sequence[str]) -> Callable[[], None]:
    """Return a call that restores all as the folder command does, from listing to manifest."""
    command = importlib.import_module("pack.folders.command")
    engines = importlib.import_module("pack.folders.engines")
    restorer = importlib.import_module("pack.folders.restorer")
    target = base / "local"
    paths = [str(WORKFLOW), str(base / "input"), str(target), "--same-seed"]
    arguments = command.parse_arguments(paths)
    made = restorer.Restorer(command.make_job(arguments), server)

    class Here:
        def run(self, job: Any, pictures: Any) -> Any:
            return engines.restore_all(made, pictures)

    command.choose_engine = lambda _: Here()

    def run() -> None:
        for manifest in target.glob("manifest.jsonl"):
            manifest.unlink()  # so that everything is to be done again
        if command.restore_folder(arguments):
            raise RuntimeError("The folder command failed.")

    return run


async def queue_all(url: str, names: Sequence[str]) -> None:
    """Queue the workflow picture by picture, each when the one before is done."""
    import aiohttp

    demo = importlib.import_module("pack.benchmarks.demo")
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for preview in ("10", "11", "12"):  # the folder command leaves these out
        del prompt[preview]
    async with (
        aiohttp.ClientSession(url) as session,
        session.ws_connect("/ws", params={"clientId": "bench"}, max_msg_size=0) as told,
    ):
        for name in names:
            prompt["3"]["inputs"]["image"] = name
            prompt_id = await demo.submit(session, prompt, "bench")
            await demo.follow(told, prompt, prompt_id)


@contextlib.contextmanager
def serving(root: Path, base: Path, options: Sequence[str]) -> Iterator[str]:
    """Run a ComfyUI server and give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(root / "main.py"), *options, "--port", str(port)]
    command += ["--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
    url = f"http://127.0.0.1:{port}"
    with (base / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=root, stdout=log, stderr=log)
    try:
        waited = time.monotonic()
        while time.monotonic() - waited < READY_TIMEOUT_S and process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{url}/system_stats", timeout=5).close()
                break
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def format_report(report: dict[str, Any]) -> str:
    """Return the figures as lines; each way's ratio is the median over the rounds' own ratios."""
    bare = report["bare"]
    lines = [f"bare loop: {statistics.median(bare):.3f} pictures a second"]
    for name, title in (("local", "the folder command"), ("http", "queued over HTTP")):
        rates = report[name]
        ratios = [there / here for here, there in zip(rates, bare, strict=True)]
        ratio = statistics.median(ratios)
        lines.append(
            f"{title}: {statistics.median(rates):.3f} pictures a second, {100 * (ratio - 1):+.1f} %"
            f" time over the bare loop (rounds: {min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%})"
        )
        if name == "local":
            met = "met" if ratio <= 1 + LARGEST_OVERHEAD else "missed"
            lines.append(f"  target: at most {100 * LARGEST_OVERHEAD:.0f} %, {met}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
