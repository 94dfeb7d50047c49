"""No plain input of a node is without effect, or it is said why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pack.tests.support.every_input import Objects
    from pack.tests.support.running import InProcessComfy

pytestmark = pytest.mark.comfy

PLAIN = ("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO")
SCHEMAS = json.loads((Path(__file__).parent / "schemas.json").read_text("utf-8"))
NODES = [
    node
    for node, schema in SCHEMAS.items()
    if any(kind in PLAIN for kind, _ in schema["inputs"].values())
]
SLOW = (
    "ResShiftRestoreImage",
    "DiffBIRLatentGuidance",
    "DiffBIRSampler",
    "DiffBIRRestoreImage",
    "HYPIRRestoreImage",
    "ResShiftValidation",
    "RestorationFaceDetect",
    "RestorationFacePhoto",
    "RestorationVideo",
)

# Calls with more pictures round otherwise; less than a level of 8 bits.
ROUNDING = 1 / 255


@pytest.fixture(scope="module")
def objects(comfy: InProcessComfy, tmp_path_factory: pytest.TempPathFactory) -> Objects:
    from pack.tests.support.every_input import Objects

    return Objects(comfy, tmp_path_factory.mktemp("every_input"))


@pytest.mark.parametrize(
    "node_id", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NODES]
)
def test_every_plain_input_changes_what_its_node_makes_or_says_why_not(
    objects: Objects, node_id: str
):
    from pack.tests.support.every_input import (
        ELSEWHERE,
        SAME,
        defaults_of,
        differ,
        plain_inputs,
        second_value,
    )

    schema = objects.comfy.node(node_id).GET_SCHEMA()
    inputs = plain_inputs(schema)
    explained = {name for node, name in (*SAME, *ELSEWHERE) if node == node_id}
    assert explained <= inputs.keys()
    row = objects.rows()[node_id]
    outcomes: dict[str, Any] = {}
    wrong = []
    for name, given in inputs.items():
        if (node_id, name) in ELSEWHERE:
            continue
        before = {**defaults_of(schema), **row.given, **row.needs.get(name, {})}
        second = row.tried[name] if name in row.tried else second_value(given, before[name])
        assert second != before[name], f"{name} has one value alone"
        needed = repr(sorted(row.needs.get(name, {})))
        if needed not in outcomes:
            outcomes[needed] = objects.outcome(node_id, before)
        made = objects.outcome(node_id, {**before, name: second})
        is_same = (node_id, name) in SAME
        if differ(outcomes[needed], made, ROUNDING if is_same else 0.0) == is_same:
            wrong.append(f"{name}: {before[name]!r} or {second!r}")
    assert not wrong, "\n".join(wrong)
