"""This pack's nodes in the real frontend: found, connected, explained, in two languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from pack.tests.support.browser import Frontend
    from pack.tests.support.comfy_client import Server

pytestmark = [pytest.mark.comfy, pytest.mark.browser]

PACK_ROOT = Path(__file__).resolve().parents[2]
DOCS = PACK_ROOT / "web" / "docs"
FREE_PLACE = (500.0, 120.0)
# Makes a graph of one node and shows it at its true size.
ONLY_NODE = """([kind, place]) => {
    app.graph.clear();
    const node = LiteGraph.createNode(kind);
    node.pos = place;
    app.graph.add(node);
    app.canvas.ds.reset();
    app.canvas.setDirty(true, true);
    return node.id;
}"""


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


LOADERS = {
    "1": node("ResShiftLoader", model_name="bundled: photo x4", preset="auto", dtype="auto"),
    "2": node("ResShiftVAELoader", vae_name="bundled: pixel latent x4"),
    "3": node("LoadImage", image="restoration_coffee.jpg"),
    "8": node("SaveImage", filename_prefix="found"),
}
PLACES = {1: (60, 120), 2: (60, 280), 3: (60, 400), 8: (900, 120)}


def test_a_node_found_by_its_alias_is_connected_and_runs(frontend: Frontend):
    frontend.page.evaluate("prompt => app.loadApiJson(prompt, 'found')", LOADERS)
    frontend.page.wait_for_function("() => app.graph._nodes.length === 4")
    frontend.page.evaluate(
        """places => {
            for (const [id, place] of Object.entries(places)) app.graph.getNodeById(id).pos = place;
            app.canvas.ds.reset();
        }""",
        {str(key): place for key, place in PLACES.items()},
    )
    restore = frontend.add_node("restore photo", "Restore Image (ResShift)", FREE_PLACE)
    frontend.connect(1, "MODEL", restore, "model")
    frontend.connect(2, "VAE", restore, "vae")
    frontend.connect(3, "IMAGE", restore, "image")
    frontend.connect(restore, "IMAGE", 8, "images")
    frontend.run()
    assert frontend.picture_size(8) == [600, 400]
    frontend.screenshot("node_found_by_alias")
    assert frontend.errors == []


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("psnr", "Restoration Metrics"),
        ("lacontrolnet", "Load LAControlNet (DiffBIR)"),
        ("side by side", "Restoration Fidelity Sweep"),
    ],
)
def test_the_search_of_the_page_finds_nodes_by_their_aliases(
    frontend: Frontend, text: str, title: str
):
    frontend.page.evaluate("() => app.graph.clear()")
    frontend.search_node(text, FREE_PLACE).filter(has_text=title).first.wait_for()
    frontend.page.keyboard.press("Escape")
    frontend.page.get_by_role("combobox", name="Add a node").wait_for(state="hidden")


def test_the_help_panel_of_every_node_shows_its_page(frontend: Frontend):
    for path in sorted(DOCS.glob("*.md")):
        added = frontend.page.evaluate(ONLY_NODE, [path.stem, FREE_PLACE])
        frontend.select(added)
        frontend.page.get_by_test_id("info-button").click()
        title = path.read_text("utf-8").splitlines()[0].removeprefix("# ")
        panel = frontend.page.get_by_test_id("properties-panel")
        panel.get_by_role("heading", level=1, name=title, exact=True).wait_for()
        assert panel.get_by_role("table").count() or "|" not in path.read_text("utf-8"), title
    frontend.screenshot("help_panel")
    assert frontend.errors == []


def test_a_chinese_page_names_and_explains_the_nodes_in_chinese(server: Server, browser: Browser):
    from pack.tests.support.browser import SETTINGS, open_page

    names = json.loads((PACK_ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))
    chinese = open_page(browser, server.url, {**SETTINGS, "Comfy.Locale": "zh"})
    kinds = list(names)
    titles = chinese.page.evaluate(
        "kinds => kinds.map(kind => LiteGraph.createNode(kind).title)", kinds
    )
    assert titles == [names[kind]["display_name"] for kind in kinds]
    added = chinese.page.evaluate(ONLY_NODE, ["ResShiftRestoreImage", FREE_PLACE])
    chinese.select(added)
    chinese.page.get_by_test_id("info-button").click()
    title = (DOCS / "ResShiftRestoreImage" / "zh.md").read_text("utf-8").splitlines()[0]
    panel = chinese.page.get_by_test_id("properties-panel")
    panel.get_by_role("heading", level=1, name=title.removeprefix("# "), exact=True).wait_for()
    chinese.screenshot("chinese")
    chinese.page.close()
    open_page(browser, server.url, {**SETTINGS, "Comfy.Locale": "en"}).page.close()
