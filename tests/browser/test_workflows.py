"""The shipped workflows in the real frontend."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pack.tests.support.browser import Frontend

pytestmark = [pytest.mark.comfy, pytest.mark.browser]

PACK_ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = PACK_ROOT / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
# What shows a preview grows to its widgets and LiteGraph's least height of a picture.
PREVIEWING = [
    "DiffBIRRestoreImage",
    "DiffBIRSampler",
    "HYPIRRestoreImage",
    "KSampler",
    "ResShiftRestoreImage",
    "ResidualShiftSampler",
    "RestorationFacePhoto",
    "RestorationTrainModel",
    "RestorationVideo",
    "SamplerCustomAdvanced",
    "TrainLoraNode",
]
WITH_PREVIEWS = """kinds => app.graph._nodes.filter(node => kinds.includes(node.type)).map(node => {
    const [x, y, width, height] = node.boundingRect;
    return [node.id, [x, y, width, Math.max(height, node.computeSize()[1] + 220 + node.pos[1] - y)]];
})"""
BOXES = "() => app.graph._nodes.map(node => [node.id, [...node.boundingRect]])"


def ui_workflow(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))


def api_prompt(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text("utf-8"))


def apart(a: list[float], b: list[float]) -> bool:
    return a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_opens_whole_and_queues_what_its_api_copy_says_also_saved_and_loaded_again(
    frontend: Frontend, name: str
):
    frontend.open_workflow(ui_workflow(name), name)
    assert frontend.missing_nodes() == []
    assert frontend.prompt() == api_prompt(name)
    # The frontend makes a node as high as its widgets need, whatever the file says.
    boxes = frontend.page.evaluate("() => app.graph._nodes.map(node => [...node.boundingRect])")
    assert all(apart(a, b) for a, b in itertools.combinations(boxes, 2))
    frontend.screenshot(name)
    frontend.open_workflow(frontend.serialized(), f"{name}_again")
    assert frontend.prompt() == api_prompt(name)
    assert frontend.errors == []


@pytest.mark.parametrize("name", NAMES)
def test_previews_stay_in_their_groups_and_cover_no_node(frontend: Frontend, name: str):
    workflow = ui_workflow(name)
    frontend.open_workflow(workflow, name)
    boxes = dict(frontend.page.evaluate(BOXES))
    for grown, box in frontend.page.evaluate(WITH_PREVIEWS, PREVIEWING):
        left, top, width, height = box
        holds = [
            x <= left and y <= top and left + width <= x + w and top + height <= y + h
            for x, y, w, h in (group["bounding"] for group in workflow["groups"])
        ]
        assert any(holds), grown
        assert all(apart(box, other) for key, other in boxes.items() if key != grown), grown


@pytest.mark.parametrize("name", ["resshift_ksampler", "restoration_measure"])
def test_a_run_from_the_page_shows_previews_and_the_picture(frontend: Frontend, name: str):
    frontend.open_workflow(ui_workflow(name), name)
    frontend.set_widget(5, "seed", 77)
    frontend.run()
    assert frontend.page.evaluate("() => window.previews") >= (
        1 if name == "restoration_measure" else 4
    )
    size = [3 * 600 + 2 * 8, 432] if name == "restoration_measure" else [1024, 768]
    assert frontend.picture_size(8) == size
    frontend.screenshot(f"{name}_done")
