"""The texts of the nodes in every language: complete, and saying what the schemas say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pack.tests.support.running import InProcessComfy

pytestmark = pytest.mark.comfy

PACK_ROOT = Path(__file__).resolve().parents[2]
HELP = PACK_ROOT / "web" / "docs"
LANGUAGES = sorted(path.name for path in (PACK_ROOT / "locales").iterdir())
MESSAGE_SYNTAX = re.compile(r"[{}@|$%]")  # what the frontend's message compiler reads as commands
CHINESE = re.compile(r"[\u4e00-\u9fff]")
NUMBER = re.compile(r"\d+(?:\.\d+)*")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PICTURE = re.compile(r"!\[[^\]]+\]\(([^)]+)\)")
LARGEST_PICTURE_BYTES = 40_000
INPUT_CELL = re.compile(r"^\| ([a-z0-9_, ]+) \|", re.M)
RANGE_PART = re.compile(r"^second_|_(?:min|max)$")  # ranges are explained once for both stages
CODE = re.compile(r"`([^`]+)`")


@pytest.fixture(autouse=True)
def _loaded(comfy: InProcessComfy) -> None:
    """Have ComfyUI load the pack first."""


def schemas() -> dict[str, Any]:
    from pack.tests.support.running import pack_module

    found = (node.GET_SCHEMA() for node in pack_module("nodes").NODES)
    return {schema.node_id: schema for schema in found}


def texts_of(schema: Any) -> dict[str, Any]:
    """Return the texts of a schema as `locales/<language>/nodeDefs.json` holds them."""
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {
            given.id: {"name": given.display_name or given.id} | tooltip_of(given)
            for given in schema.inputs
        },
        "outputs": {
            str(index): {"name": made.display_name or made.io_type} | tooltip_of(made)
            for index, made in enumerate(schema.outputs)
        },
    }


def tooltip_of(slot: Any) -> dict[str, str]:
    return {"tooltip": slot.tooltip} if slot.tooltip else {}


def translated(language: str) -> dict[str, Any]:
    path = PACK_ROOT / "locales" / language / "nodeDefs.json"
    return json.loads(path.read_text("utf-8"))


def leaves(texts: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Return every text of a nested record by the keys that lead to it."""
    found: dict[tuple[str, ...], str] = {}
    for key, value in texts.items():
        found |= leaves(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value}
    return found


def table_rows(markdown: str) -> list[int]:
    """Return the number of cells of every table row."""
    return [line.count("|") for line in markdown.splitlines() if line.startswith("|")]


def assert_same_facts(chinese: str, english: str) -> None:
    """Compare what a translation leaves as it is: tables, headings, links, code and numbers."""
    assert table_rows(chinese) == table_rows(english)
    assert re.findall(r"^#+", chinese, re.M) == re.findall(r"^#+", english, re.M)
    assert sorted(LINK.findall(chinese)) == sorted(LINK.findall(english))
    assert sorted(CODE.findall(chinese)) == sorted(CODE.findall(english))
    assert set(NUMBER.findall(chinese)) == set(NUMBER.findall(english))


def test_the_languages_are_english_and_chinese():
    assert LANGUAGES == ["en", "zh"]


def test_english_is_what_the_schemas_say():
    assert translated("en") == {name: texts_of(schema) for name, schema in schemas().items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_there_and_none_is_left_over(language: str):
    expected = {name: texts_of(schema) for name, schema in schemas().items()}
    found = leaves(translated(language))
    assert found.keys() == leaves(expected).keys()
    assert [keys for keys, text in found.items() if not text.strip()] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_frontend_shows_the_texts_as_they_are(language: str):
    found = leaves(translated(language))
    assert {keys: text for keys, text in found.items() if MESSAGE_SYNTAX.search(text)} == {}


def test_chinese_descriptions_and_tooltips_are_chinese():
    found = leaves(translated("zh"))
    sentences = {keys: text for keys, text in found.items() if keys[-1] in _SENTENCES}
    assert {keys: text for keys, text in sentences.items() if not CHINESE.search(text)} == {}


def test_chinese_texts_name_the_numbers_of_the_english_ones():
    english, chinese = leaves(translated("en")), leaves(translated("zh"))
    different = {
        keys: chinese[keys]
        for keys, text in english.items()
        if set(NUMBER.findall(text)) != set(NUMBER.findall(chinese[keys]))
    }
    assert different == {}


def test_chinese_texts_name_options_as_the_node_lists_them():
    chinese = translated("zh")
    missing = []
    for name, schema in schemas().items():
        for given in schema.inputs:
            shown = chinese[name]["inputs"][given.id].get("tooltip", "")
            named = re.findall(r"'([^']+)'", given.tooltip or "")
            options = [word for word in named if word in (getattr(given, "options", None) or [])]
            missing += [(name, given.id, word) for word in options if f"“{word}”" not in shown]
    assert missing == []


def test_one_input_name_has_one_chinese_name_in_a_node():
    for name, texts in translated("zh").items():
        shown = [given["name"] for given in texts["inputs"].values()]
        assert len(set(shown)) == len(shown), name


def test_chinese_node_names_differ():
    shown = [texts["display_name"] for texts in translated("zh").values()]
    assert len(set(shown)) == len(shown)


def test_every_help_page_is_there_in_chinese():
    for name, texts in translated("zh").items():
        page = (HELP / name / "zh.md").read_text("utf-8")
        assert page.startswith(f"# {texts['display_name']}\n")
        assert_same_facts(page, (HELP / f"{name}.md").read_text("utf-8"))
    assert {path.parent.name for path in HELP.glob("*/zh.md")} == schemas().keys()


def test_the_help_of_every_node_has_a_picture_every_input_mistakes_and_a_source():
    marks = {"": ("Mistakes: ", "Source: "), "zh": ("常见错误：", "来源：")}
    for name, schema in schemas().items():
        for language, (mistakes, source) in marks.items():
            page = (HELP / name / "zh.md" if language else HELP / f"{name}.md").read_text("utf-8")
            # Addresses are relative to the folder of the English pages, in every language.
            assert PICTURE.findall(page) == [f"{name}/example.jpg"], name
            assert (HELP / name / "example.jpg").stat().st_size <= LARGEST_PICTURE_BYTES, name
            paragraphs = page.split("\n\n")
            assert sum(paragraph.startswith(mistakes) for paragraph in paragraphs) == 1, name
            assert paragraphs[-1].startswith(source), name
            named = {word for cell in INPUT_CELL.findall(page) for word in cell.split(", ")}
            inputs = {RANGE_PART.sub("", given.id) for given in schema.inputs}
            assert inputs - named == set(), name
    assert {path.stem for path in HELP.glob("*.md")} == schemas().keys()


def test_the_readme_is_there_in_chinese():
    chinese = (PACK_ROOT / "README.zh.md").read_text("utf-8")
    english = (PACK_ROOT / "README.md").read_text("utf-8")
    languages = "[English](README.md) | [中文](README.zh.md)"
    assert languages in chinese.splitlines()[:4]
    assert languages in english.splitlines()[:4]
    assert_same_facts(chinese, english)


def test_the_chinese_readme_names_the_nodes_as_chinese_comfyui_does():
    chinese = (PACK_ROOT / "README.zh.md").read_text("utf-8")
    shown = [texts["display_name"] for texts in translated("zh").values()]
    assert [name for name in shown if name not in chinese] == []


_SENTENCES = {"description", "tooltip"}
