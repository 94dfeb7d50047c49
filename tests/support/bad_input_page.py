"""docs/bad-input.md, made from its rows.

`render_page(ROWS)` is what the page holds; a test in `tests/integration/test_bad_input.py` compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from pack.tests.support.bad_input import LOADERS, Row

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "bad-input.md"
TITLES = {
    node_id: texts["display_name"]
    for node_id, texts in json.loads(
        (ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8")
    ).items()
}
INTRODUCTION = """\
# Bad input

What comes of wrong files, wrong connections, unusual pictures and absurd numbers. Every row is a test over ComfyUI's HTTP API (`tests/integration/test_bad_input.py`); none of them takes the server down, and good runs make the same pictures afterwards.

A message begins with the name of its node, left out here; `…` stands for what differs from case to case. Rows "refused by ComfyUI" come from ComfyUI before anything runs, rows "in the sampler" from the node of ComfyUI that runs the model.
"""
HOW = {"elsewhere": "in the sampler: ", "refused": "refused by ComfyUI: "}
HOW["removed"] = HOW["refused"]
GROUPS = {tuple(LOADERS): "the four loaders"}


def pattern(outcome: str) -> str:
    """Return the expression that a message of a row matches whole."""
    return ".*".join(re.escape(part) for part in outcome.split("…"))


def render_page(rows: Iterable[Row]) -> str:
    """Return the text of the page."""
    lines = [INTRODUCTION]
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            lines += [f"\n## {section}\n", "| node | use | what comes of it |", "|---|---|---|"]
        names = GROUPS.get(row.nodes) or "<br>".join(TITLES[node_id] for node_id in row.nodes)
        says = HOW.get(row.kind, "") + row.outcome
        lines.append(f"| {names} | {_cell(row.use)} | {_cell(says)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
