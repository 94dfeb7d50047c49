"""The shipped workflows in the real frontend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pack.tests.support.browser import Frontend
    from pack.tests.support.comfy_client import Server

pytestmark = [pytest.mark.comfy, pytest.mark.browser]

PACK_ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = PACK_ROOT / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
SCREENSHOTS = PACK_ROOT / ".dev" / "screenshots"


def ui_workflow(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))


def api_prompt(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_opens_whole_and_queues_what_its_api_copy_says(frontend: Frontend, name: str):
    frontend.open_workflow(ui_workflow(name), name)
    assert frontend.missing_nodes() == []
    assert frontend.prompt() == api_prompt(name)
    frontend.screenshot(SCREENSHOTS / f"{name}.png")
    assert frontend.errors == []


@pytest.mark.parametrize("name", ["resshift_x4_bundled", "diffbir_v2_x4"])
def test_a_workflow_saved_and_loaded_again_gives_the_same_prompt(frontend: Frontend, name: str):
    frontend.open_workflow(ui_workflow(name), name)
    frontend.open_workflow(frontend.serialized(), f"{name}_again")
    assert frontend.prompt() == api_prompt(name)


@pytest.mark.parametrize("name", ["resshift_x4_bundled", "resshift_ksampler"])
def test_a_run_from_the_page_shows_previews_and_the_picture(frontend: Frontend, name: str):
    frontend.open_workflow(ui_workflow(name), name)
    node = next(n for n in ui_workflow(name)["nodes"] if n["id"] == 5)
    assert node["type"] in ("ResShiftRestoreImage", "KSampler")
    frontend.set_widget(5, "seed", 77)
    frontend.run()
    assert frontend.page.evaluate("() => window.previews") >= 4
    frontend.page.wait_for_function("() => (app.graph.getNodeById(8).imgs || []).length === 1")
    size = frontend.page.evaluate(
        "() => { const i = app.graph.getNodeById(8).imgs[0]; return [i.naturalWidth, i.naturalHeight] }"
    )
    assert size == [600, 400]
    frontend.screenshot(SCREENSHOTS / f"{name}_done.png")


@pytest.mark.parametrize(
    ("text", "node"),
    [("restore photo", "ResShiftRestoreImage"), ("latent guidance", "DiffBIRSampler")],
)
def test_a_node_is_found_by_its_aliases(frontend: Frontend, server: Server, text: str, node: str):
    """The search of the page ranks by name, type and aliases of what /object_info tells."""
    info = server.get(f"/object_info/{node}")[node]
    assert text in info["search_aliases"]


def test_every_node_has_a_help_page_that_the_panel_finds(frontend: Frontend, server: Server):
    import urllib.request

    for path in sorted((PACK_ROOT / "web" / "docs").glob("*.md")):
        url = f"{server.url}/extensions/resshift-diffbir/docs/{path.name}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.read().decode("utf-8") == path.read_text("utf-8")
