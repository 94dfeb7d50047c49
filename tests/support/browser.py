"""ComfyUI's frontend in headless Chromium."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from playwright.sync_api import TimeoutError as PageTimeout

PACK_ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = PACK_ROOT / ".dev" / "screenshots"
# Set to any value, the pictures of the documents are taken anew.
DOCUMENT_PICTURES = "PACK_DOCUMENT_PICTURES"

NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1600, "height": 950}
READY_MS = 120_000
RUN_MS = 240_000
CLICK_MS = 5_000
CLICK_ATTEMPTS = 5
# Longer than the time in which LiteGraph takes two clicks as one double click.
DOUBLE_CLICK_MS = 400
# A new user's tutorial and a mini map would cover the page.
SETTINGS: dict[str, Any] = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.47.12",
    "Comfy.Minimap.Visible": False,
}
IS_READY = """() => window.app && window.app.graph && window.LiteGraph
    && Object.keys(LiteGraph.registered_node_types).includes("RestorationFinish")
    && app.extensionManager.spinner === false
    && Boolean(app.extensionManager.workflow.activeWorkflow)"""
# Where a point of the graph lies on the page.
ON_PAGE = """([x, y]) => {
    const corner = app.canvas.canvas.getBoundingClientRect();
    const { scale, offset } = app.canvas.ds;
    return [corner.left + (x + offset[0]) * scale, corner.top + (y + offset[1]) * scale];
}"""


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
            """async ([workflow, name]) => {
                await app.loadGraphData(workflow, true, true, name);
                // The view is fitted in the next frame.
                const frame = () => new Promise(done => requestAnimationFrame(done));
                await frame();
                await frame();
            }""",
            [workflow, name],
        )
        count = len(workflow["nodes"])
        self.page.wait_for_function("count => app.graph._nodes.length === count", arg=count)

    def prompt(self) -> dict[str, Any]:
        """Return what the page would queue, without notes and what Compare Images and Load Video show."""
        output = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        prompt = {
            key: {"class_type": node["class_type"], "inputs": node["inputs"]}
            for key, node in output.items()
            if node["class_type"] != "MarkdownNote"
        }
        for node in prompt.values():
            if node["class_type"] == "ImageCompare":
                node["inputs"]["compare_view"] = None
            node["inputs"].pop("video-preview", None)  # what Load Video shows
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

    def add_node(self, text: str, title: str, place: tuple[float, float]) -> int:
        """Add a node as a user does, by the search that a double click opens; return its id.

        Args:
            text: What is typed into the search.
            title: The entry that is chosen.
            place: Where the node goes in the graph; must be free.
        """
        before = self.page.evaluate("() => app.graph._nodes.map(node => node.id)")
        self.search_node(text, place).filter(has_text=title).first.click()
        self.page.wait_for_function("n => app.graph._nodes.length === n", arg=len(before) + 1)

        def put_down() -> None:
            # Until a click places it, the new node is a ghost that follows the mouse.
            self.page.mouse.move(*self.on_page(place))
            self.page.mouse.click(*self.on_page(place))

        self.try_until(put_down, "() => !app.graph._nodes.some(node => node.flags.ghost)")
        return self.page.evaluate(
            """([before, place]) => {
                const node = app.graph._nodes.find(node => !before.includes(node.id));
                node.pos = place;
                app.canvas.setDirty(true, true);
                return node.id;
            }""",
            [before, place],
        )

    def search_node(self, text: str, place: tuple[float, float]) -> Locator:
        """Type into the search that a double click on the canvas opens; return its entries."""
        box = self.page.get_by_role("combobox", name="Add a node")
        for _ in range(CLICK_ATTEMPTS):
            self.page.mouse.dblclick(*self.on_page(place))
            # Two clicks count as one double click only if the page takes them fast enough.
            with suppress(PageTimeout):
                box.wait_for(timeout=CLICK_MS)
                break
        box.fill(text)
        return self.page.get_by_role("option")

    def connect(self, source: int, output: str, target: int, name: str) -> None:
        """Drag a link from an output to an input."""
        ends = self.page.evaluate(
            """([source, output, target, name]) => {
                const from = app.graph.getNodeById(source);
                const to = app.graph.getNodeById(target);
                const slot = to.inputs.findIndex(input => input.name === name);
                return [from.getOutputPos(from.outputs.findIndex(o => o.name === output)),
                        to.getInputPos(slot)].map(point => [...point]);
            }""",
            [source, output, target, name],
        )

        def drag() -> None:
            start, end = (self.on_page(point) for point in ends)
            self.page.mouse.move(*start)
            self.page.mouse.down()
            self.page.mouse.move(*end, steps=5)
            self.page.mouse.up()

        self.try_until(
            drag,
            """([target, name]) => app.graph.getNodeById(target).inputs
                .find(input => input.name === name).link != null""",
            [target, name],
        )

    def select(self, node_id: int) -> None:
        """Click a node's title once it is drawn, and wait until the node is selected."""
        x, y = self.page.evaluate("id => [...app.graph.getNodeById(id).pos]", node_id)
        self.page.wait_for_function(
            "id => app.canvas.visible_nodes.includes(app.graph.getNodeById(id))", arg=node_id
        )

        def click() -> None:
            # Sooner after another click it would be a double click, which edits the title.
            self.page.wait_for_timeout(DOUBLE_CLICK_MS)
            self.page.mouse.click(*self.on_page((x + 80, y - 12)))

        is_selected = "id => app.canvas.selectedItems.has(app.graph.getNodeById(id))"
        self.try_until(click, is_selected, node_id)

    def try_until(self, act: Callable[[], None], is_done: str, argument: Any = None) -> None:
        """Do something with the mouse, again if the page missed it, until a condition holds.

        A busy page may take a click before it has drawn what is clicked, or move its view.

        Args:
            act: What a user does.
            is_done: A JavaScript function that tells whether the page took it.
            argument: Its argument.
        """
        for _ in range(CLICK_ATTEMPTS - 1):
            act()
            with suppress(PageTimeout):
                self.page.wait_for_function(is_done, arg=argument, timeout=CLICK_MS)
                return
        act()
        self.page.wait_for_function(is_done, arg=argument, timeout=CLICK_MS)

    def on_page(self, point: tuple[float, float]) -> tuple[float, float]:
        """Return where a point of the graph lies on the page."""
        return tuple(self.page.evaluate(ON_PAGE, list(point)))

    def picture_size(self, node_id: int) -> list[int]:
        """Wait for the picture that a node shows and return its width and height."""
        self.page.wait_for_function(
            "id => (app.graph.getNodeById(id).imgs || []).length === 1", arg=node_id
        )
        return self.page.evaluate(
            """id => {
                const picture = app.graph.getNodeById(id).imgs[0];
                return [picture.naturalWidth, picture.naturalHeight];
            }""",
            node_id,
        )

    def run(self) -> None:
        """Press Run and wait until the workflow has ended."""
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
        self.page.get_by_test_id("queue-button").click()
        self.page.wait_for_function("() => window.ended !== null", timeout=RUN_MS)
        name, detail = self.page.evaluate("() => window.ended")
        assert name == "execution_success", detail

    def missing_nodes(self) -> list[str]:
        """Return the types of the graph that the page does not know."""
        return self.page.evaluate(
            """() => app.graph._nodes.map(node => node.type)
                .filter(type => !(type in LiteGraph.registered_node_types))"""
        )

    def screenshot(self, name: str, document: str = "") -> None:
        """Save what the page shows under `.dev/screenshots`.

        Args:
            name: Name of the file.
            document: Name of the picture in `docs/` that it becomes when those are taken anew.
        """
        path = SCREENSHOTS / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path))
        if document and os.environ.get(DOCUMENT_PICTURES):
            picture = Image.open(path).convert("RGB")
            picture.save(PACK_ROOT / "docs" / f"{document}.jpg", quality=85, optimize=True)


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
def open_browser() -> Iterator[Browser]:
    """Open headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


def open_page(browser: Browser, url: str, settings: Mapping[str, Any] = SETTINGS) -> Frontend:
    """Return the frontend of a server on a new page.

    Args:
        browser: A running browser.
        url: Address of the server.
        settings: Settings of ComfyUI to store before; empty leaves those of a new user.
    """
    for name, value in settings.items():
        request = urllib.request.Request(
            f"{url}/api/settings/{name}",
            data=json.dumps(value).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30):
            pass
    page = browser.new_page(viewport=SIZE, permissions=["clipboard-read", "clipboard-write"])
    page.set_default_timeout(READY_MS)
    opened = Frontend(page)
    page.goto(url)
    page.wait_for_function(IS_READY)
    return opened
