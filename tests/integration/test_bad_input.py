"""Every row of docs/bad-input.md over ComfyUI's HTTP API, in one server."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pack.tests.support.bad_files import trap
from pack.tests.support.bad_input import LOADERS, Row, file_in
from pack.tests.support.bad_input_graphs import Prompt, graph, picture
from pack.tests.support.bad_input_page import PAGE, pattern, render_page
from pack.tests.support.bad_input_runs import CASES, ROWS
from pack.tests.support.interrupting import long_node, run_interrupted

if TYPE_CHECKING:
    from pack.tests.support.comfy_client import Run, Server

pytestmark = pytest.mark.comfy

GOOD = ("ResShiftRestoreImage", "DiffBIRSampler")


@pytest.fixture(scope="module")
def server(wrong_use_server: Server) -> Server:
    """The one server of all rows."""
    return wrong_use_server


@pytest.fixture(scope="module")
def titles(server: Server) -> dict[str, str]:
    """The names of the nodes as the user sees them."""
    return {key: info["display_name"] for key, info in server.get("/object_info").items()}


@pytest.fixture(scope="module", autouse=True)
def good_before(server: Server) -> dict[str, np.ndarray]:
    """What good runs make before anything goes wrong."""
    return {node_id: good_picture(server, node_id) for node_id in GOOD}


def good_picture(server: Server, node_id: str, width: int = 8) -> np.ndarray:
    """Return what a good run makes; nothing is left of a run before it but cached inputs."""
    run = server.run(graph(node_id, {"picture": picture(width=width)}))
    assert run.end == "execution_success", run.of("execution_error")
    (made,) = pictures_of(run, server)
    return np.asarray(made)


def pictures_of(run: Run, server: Server) -> list[Image.Image]:
    """Return the pictures that a run saved as they are on disk."""
    saved = run.outputs["out"]["images"]
    return [Image.open(server.base / "output" / part["filename"]) for part in saved]


def check_refusal(row: Row, server: Server, prompt: Prompt) -> None:
    status, answer = server.post("/prompt", {"prompt": prompt})
    assert status == 400, answer
    (error,) = answer["node_errors"]["node"]["errors"]
    assert re.fullmatch(pattern(row.outcome), f"{error['message']}: {error['details']}")


def check_error(row: Row, run: Run, title: str) -> None:
    (error,) = run.of("execution_error") or [run.end]
    message = error["exception_message"].strip()
    if row.kind != "elsewhere":
        assert error["node_id"] == "node"
        assert message.startswith(f"{title}: ")
        message = message.removeprefix(f"{title}: ")
    assert re.fullmatch(pattern(row.outcome), message, re.DOTALL), message


def check_result(row: Row, node_id: str, run: Run, server: Server) -> None:
    assert run.end == "execution_success", run.of("execution_error")
    size = row.size(node_id) if row.size else None
    if size is not None:
        made = pictures_of(run, server)
        assert (len(made), *made[0].size) == size
        assert {part.mode for part in made} == {row.mode}


def put_file(server: Server, node_id: str) -> Any:
    """Write a good file for a loader, and return its path."""
    folder = server.base / "models" / LOADERS[node_id][1]
    own = {
        "diffusion_models": "tiny_x4.safetensors",
        "vae": "tiny_vq.safetensors",
        "controlnet": "v2.pth",
        "upscale_models": "BSRNet.pth",
        "loras": "HYPIR_sd2.pth",
    }[folder.name]
    suffix = own.rsplit(".", 1)[1]
    return shutil.copy(folder / own, folder / f"removed.{suffix}")


@pytest.mark.parametrize("case", CASES)
def test_a_row_of_the_table(server: Server, titles: dict[str, str], case: str):
    row, node_id = CASES[case]
    if row.kind in ("removed", "lost"):
        path = put_file(server, node_id)
        prompt = file_in(path.name)(node_id)
        if row.kind == "removed":
            assert server.run(prompt).end == "execution_success"
            path.unlink()
            check_refusal(row, server, prompt)
        else:
            check_error(row, run_after_removal(server, prompt, path), titles[node_id])
    elif row.kind == "refused":
        check_refusal(row, server, row.prompt(node_id))
    elif row.kind == "interrupted":
        run = run_interrupted(server, row.prompt(node_id))
        assert run.end == "execution_interrupted", run.of("execution_error")
        assert run.of("execution_interrupted")[0]["node_id"] == long_node(row.prompt(node_id))
        good_picture(server, "ResShiftRestoreImage", width=9)
    elif row.kind == "works":
        check_result(row, node_id, server.run(row.prompt(node_id)), server)
    else:
        check_error(row, server.run(row.prompt(node_id)), titles[node_id])


def run_after_removal(server: Server, prompt: Prompt, path: Any) -> Run:
    """Queue a prompt behind a long run, take its file away, and return what came of it."""
    queued: list[str] = []

    def take_away(name: str, data: Any) -> None:
        if name == "progress" and not queued:
            status, answer = server.post("/prompt", {"prompt": prompt})
            assert status == 200, answer
            queued.append(answer["prompt_id"])
            path.unlink()
            server.interrupt()

    first = server.run(graph("ResidualShiftSampler", steps=500), take_away)
    assert first.end == "execution_interrupted"
    return server.wait(queued[0])


def test_code_in_a_file_was_not_run(server: Server):
    for node_id in LOADERS:
        run = server.run(file_in("with_code.pth")(node_id))
        assert run.end == "execution_error"
    assert not trap(server.base / "models").exists()


def test_good_runs_make_the_same_pictures_after_all_of_it(
    server: Server, good_before: dict[str, np.ndarray]
):
    for node_id, before in good_before.items():
        assert np.array_equal(good_picture(server, node_id), before)


def test_the_page_holds_the_rows(tmp_path: Path):
    rendered = tmp_path / PAGE.name
    rendered.write_text(render_page(ROWS), encoding="utf-8")
    assert PAGE.read_text("utf-8") == rendered.read_text("utf-8"), f"copy {rendered} to {PAGE}"
