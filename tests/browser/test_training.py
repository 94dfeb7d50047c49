"""A training from its template, as a new user does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from pack.tests.support.browser import Frontend
    from pack.tests.support.comfy_client import Server

pytestmark = [pytest.mark.comfy, pytest.mark.browser, pytest.mark.slow]

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


def node_of(frontend: Frontend, kind: str) -> int:
    return frontend.page.evaluate(
        "kind => app.graph._nodes.find(node => node.type === kind).id", kind
    )


@pytest.mark.parametrize(
    ("name", "trainer", "saved"),
    [
        ("restoration_train_lora", "TrainLoraNode", "loras/restoration_own_model_2_steps*"),
        (
            "restoration_train_model",
            "RestorationTrainModel",
            "diffusion_models/restoration_own_model*",
        ),
    ],
)
def test_a_new_user_trains_from_the_template(
    new_server: Server, browser: Browser, name: str, trainer: str, saved: str
):
    from pack.tests.support.browser import SETTINGS, open_page

    frontend = open_page(browser, new_server.url, SETTINGS)
    frontend.open_workflow(json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8")), name)
    assert frontend.missing_nodes() == []
    pictures = {path.name for path in (new_server.base / "input" / "restoration_train").iterdir()}
    assert pictures == {"astronaut.jpg", "chelsea.jpg", "rocket.jpg"}
    for kind, widget, value in (
        ("RestorationPairCrops", "count", 2),
        ("RestorationPairCrops", "crop", 128),
        (trainer, "steps", 2),
    ):
        frontend.set_widget(node_of(frontend, kind), widget, value)
    frontend.run()
    assert frontend.picture_size(node_of(frontend, "RestorationValidationChart")) == [900, 4 * 260]
    assert frontend.picture_size(8) == [600, 400]
    assert list((new_server.base / "output").glob(saved))
    frontend.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    frontend.screenshot(f"{name}_done")
    assert frontend.errors == []
    frontend.page.close()
