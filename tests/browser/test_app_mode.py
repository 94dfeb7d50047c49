"""One-node workflows as apps: a picture, two settings, Run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from pack.tests.support.browser import Frontend
    from pack.tests.support.comfy_client import Server

pytestmark = [pytest.mark.comfy, pytest.mark.browser]

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
APPS = {
    "resshift_x4_bundled": ["image", "steps", "randomness"],
    "resshift_face": ["image", "steps", "randomness"],
    "diffbir_one_node": ["image", "scale", "fidelity"],
}
TOGGLE = "() => app.extensionManager.command.execute('Comfy.ToggleLinear')"


@pytest.fixture
def frontend(server: Server, browser: Browser) -> Iterator[Frontend]:
    """A page of its own: app mode stays on."""
    from pack.tests.support.browser import open_page

    opened = open_page(browser, server.url)
    yield opened
    opened.page.close()


def ui_workflow(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", APPS)
def test_a_one_node_workflow_is_an_app_with_its_picture_and_two_settings(
    frontend: Frontend, name: str
):
    frontend.open_workflow(ui_workflow(name), name)
    frontend.page.evaluate(TOGGLE)
    widgets = frontend.page.get_by_test_id("linear-widgets")
    widgets.wait_for()
    for shown in APPS[name]:
        assert widgets.get_by_text(shown, exact=True).count() >= 1, (shown, widgets.inner_text())
    frontend.screenshot(f"{name}_app")
    assert frontend.errors == []


def test_run_in_app_mode_shows_the_result(frontend: Frontend):
    frontend.open_workflow(ui_workflow("resshift_x4_bundled"), "resshift_x4_bundled")
    frontend.page.evaluate(TOGGLE)
    frontend.page.get_by_test_id("linear-widgets").wait_for()
    frontend.page.get_by_role("button", name="Run").last.click()
    shown = frontend.page.get_by_test_id("linear-image-output").first
    shown.wait_for(timeout=240_000)
    frontend.screenshot("resshift_x4_bundled_app_done")
    assert frontend.errors == []


def test_the_restore_nodes_are_among_the_essentials(server: Server):
    for node_id in ("ResShiftRestoreImage", "DiffBIRRestoreImage"):
        assert server.get(f"/object_info/{node_id}")[node_id]["essentials_category"]
