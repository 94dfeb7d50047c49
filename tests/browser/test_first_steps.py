"""What a new user meets: a ComfyUI with this pack and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from pack.tests.support.browser import Frontend
    from pack.tests.support.comfy_client import Server

pytestmark = [pytest.mark.comfy, pytest.mark.browser]

PACK_ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = PACK_ROOT / "workflows"
# The dialog loads a thumbnail when it comes into view; a row holds four.
THUMBNAILS_SHOWN = """() => {
    const pictures = [...document.querySelectorAll("[role=dialog] img")];
    return pictures.length >= 4 && pictures.every(picture => picture.naturalWidth > 0);
}"""
COMPARED = """() => {
    const node = document.querySelector(`[data-node-id="${app.graph._nodes
        .find(node => node.type === "ImageCompare").id}"]`);
    const pictures = node ? [...node.querySelectorAll("img")] : [];
    return pictures.length === 2 && pictures.every(picture => picture.naturalWidth === 1024);
}"""


def open_template(frontend: Frontend, name: str) -> None:
    """Open a template of this pack from the dialog."""
    dialog = frontend.page.get_by_role("dialog")
    dialog.get_by_role("button", name="resshift-diffbir").click()
    dialog.get_by_text(name, exact=True).click()
    dialog.wait_for(state="hidden")
    count = len(json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))["nodes"])
    frontend.page.wait_for_function("count => app.graph._nodes.length === count", arg=count)


def test_a_new_user_restores_a_picture_with_three_clicks(new_server: Server, browser: Browser):
    from pack.tests.support.browser import open_page

    frontend = open_page(browser, new_server.url, settings={})
    dialog = frontend.page.get_by_role("dialog")  # the templates, which meet a new user
    dialog.get_by_role("button", name="resshift-diffbir").click()
    frontend.page.wait_for_function(THUMBNAILS_SHOWN)
    frontend.screenshot("first_steps_1_templates", "screenshot-templates")
    open_template(frontend, "resshift_x4_bundled")
    shown = frontend.page.evaluate("() => app.graph.getNodeById(3).widgets[0].value")
    assert shown == "restoration_raccoon.png"
    assert frontend.picture_size(3) == [256, 192]
    frontend.screenshot("first_steps_2_opened")
    frontend.run()
    assert frontend.page.evaluate("() => window.previews") >= 1  # the bundled model takes one step
    assert frontend.picture_size(8) == [1024, 768]
    assert frontend.page.get_by_text("missing", exact=False).count() == 0
    frontend.screenshot("first_steps_3_done")
    assert frontend.errors == []
    frontend.page.close()


def test_nodes_2_shows_before_and_after_under_one_slider(new_server: Server, browser: Browser):
    from pack.tests.support.browser import SETTINGS, open_page

    modern = {**SETTINGS, "Comfy.VueNodes.Enabled": True}
    frontend = open_page(browser, new_server.url, modern)
    name = "resshift_x4_bundled"
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))
    frontend.open_workflow(workflow, name)
    frontend.run()
    frontend.page.wait_for_function(COMPARED)
    frontend.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    frontend.screenshot("nodes_2_compared", "screenshot-template")
    assert frontend.errors == []
    frontend.page.close()
    classic = {**SETTINGS, "Comfy.VueNodes.Enabled": False}
    open_page(browser, new_server.url, classic).page.close()


@pytest.mark.parametrize("name", ["diffbir_one_node", "resshift_x4_released"])
def test_missing_models_are_listed_with_name_folder_and_link(
    new_server: Server, browser: Browser, name: str
):
    from pack.tests.support.browser import SETTINGS, open_page

    frontend = open_page(browser, new_server.url, SETTINGS)
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))
    frontend.open_workflow(workflow, name)
    frontend.page.get_by_role("button", name="View details").first.click()
    group = frontend.page.get_by_test_id("error-group-missing-model")
    models = [
        model
        for node in workflow["nodes"]
        for model in node.get("properties", {}).get("models", [])
    ]
    group.get_by_title(models[-1]["name"]).wait_for()
    frontend.screenshot(
        f"missing_models_{name}", "screenshot-missing" if name == "diffbir_one_node" else ""
    )
    for model in models:
        row = group.locator("div.min-h-8").filter(has=frontend.page.get_by_title(model["name"]))
        assert row.get_by_text(model["directory"], exact=True).count() == 1
        row.get_by_role("button", name="Copy URL").click()
        page_of_file = model["url"].replace("/resolve/", "/blob/")  # Hugging Face's
        frontend.page.wait_for_function(
            "async url => (await navigator.clipboard.readText()) === url", arg=page_of_file
        )
        # ComfyUI downloads from Hugging Face, and from GitHub only what its own templates need.
        offered = model["url"].startswith("https://huggingface.co/")
        assert row.get_by_role("button", name="Download").count() == offered
    frontend.page.close()


def test_the_help_of_a_node_opens_beside_it(new_server: Server, browser: Browser):
    from pack.tests.support.browser import SETTINGS, open_page

    frontend = open_page(browser, new_server.url, SETTINGS)
    name = "resshift_x4_bundled"
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))
    frontend.open_workflow(workflow, name)
    frontend.select(5)
    frontend.page.get_by_test_id("info-button").click()
    panel = frontend.page.get_by_test_id("properties-panel")
    panel.get_by_role("heading", level=1, name="Restore Image (ResShift)").wait_for()
    frontend.screenshot("help_beside_the_node", "screenshot-help")
    frontend.page.close()
