"""The measuring nodes in the real frontend."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pack.tests.support.browser import Frontend

pytestmark = [pytest.mark.comfy, pytest.mark.browser]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


PROMPT = {
    "1": node("LoadImage", image="restoration_coffee.jpg"),
    "2": node("RestorationDegrade", image=["1", 0], method="one round, medium", keep_size=True),
    "3": node("RestorationMetrics", image=["2", 0], reference=["1", 0]),
    "4": node(
        "RestorationFidelitySweep",
        **{"images.image0": ["1", 0], "images.image1": ["2", 0]},
        labels="original\ndegraded",
    ),
    "5": node("SaveImage", images=["4", 0], filename_prefix="measured"),
}


def test_the_figures_stand_in_the_node_and_stay_out_of_the_workflow(frontend: Frontend):
    frontend.page.evaluate("prompt => app.loadApiJson(prompt, 'measured')", PROMPT)
    frontend.page.wait_for_function("() => app.graph._nodes.length === 5")
    before = frontend.prompt()
    assert before["4"]["inputs"]["images.image1"] == ["2", 0]
    assert set(before["3"]["inputs"]) == {"image", "reference", "border", "luma", "perceptual"}
    frontend.run()
    shown = "() => app.graph.getNodeById(3).widgets.find(w => w.name === 'figures').element.value"
    frontend.page.wait_for_function(f"{shown.replace('() => ', '() => !!')}")
    assert "PSNR Y" in frontend.page.evaluate(shown)
    frontend.page.evaluate("() => app.canvas.ds.reset()")
    frontend.screenshot("measured")
    assert "PSNR Y" not in json.dumps(frontend.serialized())
    assert frontend.errors == []
