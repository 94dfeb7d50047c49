"""What ComfyUI's server hands to a browser of another language."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pack.tests.support.comfy_client import Server

pytestmark = pytest.mark.comfy

PACK_ROOT = Path(__file__).resolve().parents[2]
PICTURE = re.compile(r"!\[[^\]]+\]\(([^)]+)\)")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_server_hands_out_the_texts_of_every_node(server: Server, language: str):
    path = PACK_ROOT / "locales" / language / "nodeDefs.json"
    texts = json.loads(path.read_text("utf-8"))
    assert server.get("/i18n")[language]["nodeDefs"].items() >= texts.items()


def test_the_server_hands_out_the_pictures_where_the_help_panel_looks(server: Server):
    pages = sorted((PACK_ROOT / "web" / "docs").glob("*.md"))
    assert pages
    for page in pages:
        (link,) = PICTURE.findall(page.read_text("utf-8"))
        address = f"{server.url}/extensions/resshift-diffbir/docs/{urllib.parse.quote(link)}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.headers.get_content_type() == "image/jpeg"
            assert answer.read() == (page.parent / link).read_bytes()


def test_the_server_hands_out_the_help_pages_in_chinese(server: Server):
    pages = sorted((PACK_ROOT / "web" / "docs").glob("*/zh.md"))
    assert pages
    for page in pages:
        address = f"/extensions/resshift-diffbir/docs/{page.parent.name}/zh.md"
        with urllib.request.urlopen(server.url + urllib.parse.quote(address), timeout=30) as answer:
            assert answer.read().decode("utf-8") == page.read_text("utf-8")
