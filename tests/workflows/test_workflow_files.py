"""What a newcomer finds in a shipped workflow, read from its file."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

PACK_ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = PACK_ROOT / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
OURS = set(json.loads((PACK_ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8")))
# A patch of a MODEL that none of the workflows needs, and points that only a user can write.
WITHOUT_WORKFLOW = {"ResShiftModelSampling", "RestorationFacePoints"}
TITLE_HEIGHT = 30
DIALOG_HOSTS = ("https://huggingface.co/", "https://github.com/")

Box = tuple[float, float, float, float]


def ui_workflow(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))


def note(workflow: dict[str, Any]) -> dict[str, Any]:
    (found,) = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    return found


def node_box(node: dict[str, Any]) -> Box:
    x, y = node["pos"]
    width, height = node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def group_box(group: dict[str, Any]) -> Box:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def holds(outer: Box, inner: Box) -> bool:
    return (
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and inner[2] <= outer[2]
        and inner[3] <= outer[3]
    )


@pytest.mark.parametrize("name", NAMES)
def test_groups_are_numbered_coloured_and_apart_and_hold_every_node(name: str):
    workflow = ui_workflow(name)
    groups = workflow["groups"]
    assert len(groups) >= 3
    assert [group["title"].split(". ")[0] for group in groups] == [
        str(number + 1) for number in range(len(groups))
    ]
    assert len({group["color"] for group in groups}) == len(groups)
    boxes = [group_box(group) for group in groups]
    assert not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))
    for node in workflow["nodes"]:
        if node["type"] != "MarkdownNote":
            assert sum(holds(box, node_box(node)) for box in boxes) == 1, node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_nodes_lie_apart(name: str):
    for a, b in itertools.combinations(ui_workflow(name)["nodes"], 2):
        assert not overlap(node_box(a), node_box(b)), (a["type"], b["type"])


@pytest.mark.parametrize("name", NAMES)
def test_the_note_says_what_it_is_for_what_to_download_and_its_licence(name: str):
    workflow = ui_workflow(name)
    found = note(workflow)
    (text,) = found["widgets_values"]
    assert found["title"]
    assert text.startswith("## ")
    assert re.search(r"licen[cs]e", text, re.IGNORECASE)
    files = [
        model
        for node in workflow["nodes"]
        for model in node.get("properties", {}).get("models", [])
    ]
    for model in files:
        link = f"| [{model['name']}]({model['url']}) | models/{model['directory']} |"
        assert link in text
        assert model["url"].startswith(DIALOG_HOSTS)
    if not files:
        assert re.search(r"nothing (needs )?to (be )?download", text, re.IGNORECASE)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_name_the_pack_that_brings_them(name: str):
    for node in ui_workflow(name)["nodes"]:
        if node["type"] in OURS:
            assert node["properties"]["cnr_id"] == "resshift-diffbir"
            assert re.fullmatch(r"\d+\.\d+\.\d+", node["properties"]["ver"])
        elif node["type"] != "MarkdownNote":
            assert node["properties"]["cnr_id"] == "comfy-core"


@pytest.mark.parametrize("name", NAMES)
def test_the_result_can_be_compared_with_what_it_was_made_from(name: str):
    kinds = {node["type"] for node in ui_workflow(name)["nodes"]}
    assert kinds & {"ImageCompare", "RestorationFidelitySweep"}


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_picture_ships_with_the_pack(name: str):
    offered = (PACK_ROOT / "web" / "restoration_samples.js").read_text("utf-8")
    for node in ui_workflow(name)["nodes"]:
        if node["type"] in ("LoadImage", "LoadVideo"):
            picture = node["widgets_values"][0]
            assert (WORKFLOWS / "inputs" / picture).is_file()
            assert f'"{picture}"' in offered


def test_every_node_is_in_a_workflow():
    used = {node["type"] for name in NAMES for node in ui_workflow(name)["nodes"]}
    assert OURS - used == WITHOUT_WORKFLOW


def test_every_workflow_has_an_api_copy_and_a_thumbnail():
    assert sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json")) == NAMES
    assert sorted(path.stem for path in WORKFLOWS.glob("*.jpg")) == NAMES
