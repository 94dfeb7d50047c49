"""ComfyUI's frontend in headless Chromium."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1600, "height": 950}
READY_MS = 120_000
RUN_MS = 240_000
# A new user's tutorial and a mini map would cover the page.
SETTINGS: dict[str, Any] = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.47.12",
    "Comfy.Minimap.Visible": False,
}
IS_READY = """() => window.app && window.app.graph && window.LiteGraph
    && Object.keys(LiteGraph.registered_node_types).includes("RestorationFinish")"""


class Frontend:
    """The page and what tests do on it.

    Attributes:
        page: The page.
        errors: Errors that the page threw.
    """

    def __init__(self, page: Page):
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open_workflow(self, workflow: dict[str, Any], name: str) -> None:
        """Open a workflow in interface form and wait until it is drawn."""
        self.page.evaluate(
            "async ([workflow, name]) => await app.loadGraphData(workflow, true, true, name)",
            [workflow, name],
        )
        count = len(workflow["nodes"])
        self.page.wait_for_function("count => app.graph._nodes.length === count", arg=count)

    def prompt(self) -> dict[str, Any]:
        """Return what the page would queue, without notes and what Compare Images shows."""
        output = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        prompt = {
            key: {"class_type": node["class_type"], "inputs": node["inputs"]}
            for key, node in output.items()
            if node["class_type"] != "MarkdownNote"
        }
        for node in prompt.values():
            if node["class_type"] == "ImageCompare":
                node["inputs"]["compare_view"] = None
        return prompt

    def serialized(self) -> dict[str, Any]:
        """Return the workflow as the page would save it."""
        return self.page.evaluate("() => app.graph.serialize()")

    def set_widget(self, node_id: int, name: str, value: Any) -> None:
        """Set a widget of a node."""
        self.page.evaluate(
            """([id, name, value]) => {
                const widget = app.graph.getNodeById(id).widgets.find(w => w.name === name);
                widget.value = value;
            }""",
            [node_id, name, value],
        )

    def run(self) -> None:
        """Queue the page's workflow and wait until it has ended."""
        self.page.evaluate(
            """() => {
                window.ended = null;
                window.previews = 0;
                const api = app.api;
                for (const name of ["execution_success", "execution_error"])
                    api.addEventListener(name, event => { window.ended = [name, event.detail]; },
                                         { once: true });
                api.addEventListener("b_preview", () => { window.previews += 1; });
            }"""
        )
        self.page.evaluate("async () => await app.queuePrompt(0, 1)")
        self.page.wait_for_function("() => window.ended !== null", timeout=RUN_MS)
        name, detail = self.page.evaluate("() => window.ended")
        assert name == "execution_success", detail

    def missing_nodes(self) -> list[str]:
        """Return the types of the graph that the page does not know."""
        return self.page.evaluate(
            """() => app.graph._nodes.map(node => node.type)
                .filter(type => !(type in LiteGraph.registered_node_types))"""
        )

    def screenshot(self, path: Path) -> None:
        """Save what the page shows."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path))


def chromium() -> str:
    """Return the path of the system's Chromium, or fail with the command that installs it."""
    for name in NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.fail(
        "These tests drive the system's Chromium. Install it: apt-get install chromium"
        " (Debian, Ubuntu), brew install --cask chromium (macOS)."
    )


@contextmanager
def open_frontend(url: str) -> Iterator[Frontend]:
    """Open the frontend of a server.

    Args:
        url: Address of the server.
    """
    for name, value in SETTINGS.items():
        request = urllib.request.Request(
            f"{url}/api/settings/{name}",
            data=json.dumps(value).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30):
            pass
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport=SIZE)
        opened = Frontend(page)
        page.goto(url)
        page.wait_for_function(IS_READY, timeout=READY_MS)
        yield opened
        browser.close()
