"""The subgraph blueprints, inserted from the real frontend's node search."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pack.tests.support.browser import Frontend
    from pack.tests.support.comfy_client import Server

pytestmark = [pytest.mark.comfy, pytest.mark.browser]

PACK_ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (PACK_ROOT / "subgraphs").glob("*.json"))
LOAD_IMAGE, SAVE_IMAGE = 3, 8
PLACES = {LOAD_IMAGE: [60, 120], SAVE_IMAGE: [950, 120]}
PLACE = (450.0, 120.0)
BLUEPRINTS = ["Restore (DiffBIR)", "Restore (ResShift)", "Restore Faces"]


def api_prompt(name: str) -> dict[str, Any]:
    return json.loads((PACK_ROOT / "workflows" / "api" / f"{name}.json").read_text("utf-8"))


def expected_prompt(name: str) -> dict[str, Any]:
    """Return the shipped workflow that a blueprint wraps, with the blueprint's own choices."""
    if name == "Restore (ResShift)":
        prompt = api_prompt("resshift_x4_released")
        prompt["1"]["inputs"]["model_name"] = "bundled: photo x4"
        prompt["2"]["inputs"]["vae_name"] = "bundled: pixel latent x4"
        return prompt
    if name == "Restore Faces":
        prompt = api_prompt("face_photo_bundled")
        prompt["3"]["inputs"]["image"] = "restoration_raccoon.png"
        return prompt
    prompt = api_prompt("diffbir_text")
    caption, _, quality = prompt["11"]["inputs"]["text"].partition(", ")
    assert caption == "a raccoon resting among palm leaves"
    prompt["11"]["inputs"]["text"] = quality
    return prompt


def saved_picture(prompt: dict[str, Any]) -> Any:
    """Return what the prompt saves, links replaced by what they lead to, so that ids do not count."""

    def follow(value: Any) -> Any:
        if isinstance(value, list):
            return [resolve(str(value[0])), value[1]]
        return value

    def resolve(key: str) -> Any:
        inputs = {name: follow(value) for name, value in prompt[key]["inputs"].items()}
        return [prompt[key]["class_type"], inputs]

    (save,) = [key for key, node in prompt.items() if node["class_type"] == "SaveImage"]
    return follow(prompt[save]["inputs"]["images"])


def insert(frontend: Frontend, name: str) -> int:
    """Put a blueprint between Load Image and Save Image and return its node's id."""
    path = PACK_ROOT / "workflows" / "resshift_x4_bundled.json"
    workflow = json.loads(path.read_text("utf-8"))
    workflow["nodes"] = [node for node in workflow["nodes"] if node["id"] in PLACES]
    for node in workflow["nodes"]:
        node["pos"] = PLACES[node["id"]]
        for slot in node["inputs"]:
            slot["link"] = None
        for slot in node["outputs"]:
            slot["links"] = None
    # The page keeps values of widgets by workflow and node: an id of its own keeps others' away.
    workflow.update(id=str(uuid.uuid4()), links=[], groups=[])
    frontend.open_workflow(workflow, "blueprint")
    frontend.page.evaluate("() => app.canvas.ds.reset()")
    added = frontend.add_node(name, name, PLACE)
    frontend.connect(LOAD_IMAGE, "IMAGE", added, "image")
    frontend.connect(added, "IMAGE", SAVE_IMAGE, "images")
    return added


def test_the_server_lists_the_blueprints(server: Server):
    listed = [
        entry["name"]
        for entry in server.get("/global_subgraphs").values()
        if entry["info"]["node_pack"] == "custom_nodes.resshift-diffbir"
    ]
    assert sorted(listed) == NAMES == BLUEPRINTS


@pytest.mark.parametrize("name", NAMES)
def test_a_blueprint_queues_what_its_expanded_nodes_do(frontend: Frontend, name: str):
    added = insert(frontend, name)
    assert frontend.page.evaluate("() => app.graph._nodes.some(node => node.has_errors)") is False
    packed = saved_picture(frontend.prompt())
    assert packed == saved_picture(expected_prompt(name))
    frontend.screenshot(f"blueprint {name}")
    frontend.page.evaluate("id => app.graph.unpackSubgraph(app.graph.getNodeById(id))", added)
    assert frontend.missing_nodes() == []
    assert len(frontend.prompt()) > len(PLACES) + 1
    assert saved_picture(frontend.prompt()) == packed
    assert frontend.errors == []


def test_the_bundled_blueprint_runs_to_the_end(frontend: Frontend):
    insert(frontend, "Restore (ResShift)")
    frontend.run()
    assert frontend.picture_size(SAVE_IMAGE) == [1024, 768]
