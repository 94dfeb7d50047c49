"""What installing and importing the pack does to a ComfyUI."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pack.tests.support.comfy_client import Server

pytestmark = [pytest.mark.comfy, pytest.mark.slow]

PACK_ROOT = Path(__file__).resolve().parents[2]
PROBE = PACK_ROOT / "tests" / "support" / "import_probe.py"
SCHEMAS = Path(__file__).with_name("schemas.json")


def node_ids() -> list[str]:
    return sorted(json.loads(SCHEMAS.read_text("utf-8")))


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What importing the pack changed in a fresh ComfyUI; its weights are no weights."""
    from pack.tests.support.archive import copy_pack

    base = tmp_path_factory.mktemp("import")
    pack = copy_pack(base / "custom_nodes" / "resshift-diffbir")
    for weights in (pack / "model_loaders" / "bundled").iterdir():
        weights.write_bytes(b"not weights")
    done = subprocess.run(
        [sys.executable, str(PROBE), os.environ["COMFYUI_PATH"], str(base), str(pack)],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_adds_the_nodes_of_the_pack_and_replaces_none(imported: dict[str, Any]):
    assert imported["loaded"]
    assert imported["nodes"] == node_ids()
    assert imported["replaced nodes"] == []


def test_importing_needs_no_module_that_comfyui_has_not_imported(imported: dict[str, Any]):
    assert imported["new modules"] == []


def test_importing_changes_nothing_of_comfyui_or_a_library(imported: dict[str, Any]):
    assert imported["changed globals"] == []
    assert imported["changed settings"] == []


def test_importing_leaves_the_menus_of_other_nodes_as_they_are(imported: dict[str, Any]):
    assert imported["changed menus"] == []


def test_importing_reads_code_alone_and_writes_connects_and_starts_nothing(
    imported: dict[str, Any],
):
    kinds = {Path(path).suffix for path in imported["read"]}
    assert kinds <= {".py", ".pyc", ".toml"}
    assert imported["written"] == []
    assert imported["connections"] == []
    assert imported["processes"] == []


def test_importing_says_nothing(imported: dict[str, Any]):
    assert imported["printed"] == ""
    assert imported["logged"] == []


def test_every_requirement_is_installed_with_comfyui():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (Path(os.environ["COMFYUI_PATH"]) / "requirements.txt").read_text("utf-8").splitlines()
    waiting = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    assert waiting
    installed: set[str] = set()
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name in installed:
            continue
        installed.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another ComfyUI release than the one that was installed here
        further = map(Requirement, needed)
        waiting += [one for one in further if one.marker is None or one.marker.evaluate()]
    ours = (PACK_ROOT / "requirements.txt").read_text("utf-8").split()
    assert [name for name in ours if canonicalize_name(name) not in installed] == []


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registry's archive in custom_nodes of an empty base directory."""
    from pack.tests.support.archive import make_checkout, pack_with_registry_tool

    checkout = make_checkout(tmp_path_factory.mktemp("checkout") / "resshift-diffbir")
    base = tmp_path_factory.mktemp("installed")
    pack = base / "custom_nodes" / "resshift-diffbir"
    with zipfile.ZipFile(pack_with_registry_tool(checkout)) as archive:
        archive.extractall(pack)
    return base


def test_the_archive_works_in_a_clean_comfyui(installed: Path):
    from pack.tests.support.comfy_client import Server

    pack = installed / "custom_nodes" / "resshift-diffbir"
    shutil.copytree(pack / "workflows" / "inputs", installed / "input")
    with Server(installed, pack_name=None) as server:
        known = server.get("/object_info")
        assert [name for name in node_ids() if name not in known] == []
        for name in node_ids():
            assert known[name]["python_module"] == "custom_nodes.resshift-diffbir"
        assert_serves_what_users_see(server, pack)
        prompt = json.loads((pack / "workflows/api/resshift_x4_bundled.json").read_text("utf-8"))
        run = server.run(prompt)
        assert run.end == "execution_success", server.log()[-2000:]
        assert server.picture(run, "8").size == (1024, 768)
        assert "custom_nodes/resshift-diffbir/" not in server.log()  # a file of ours in a traceback


def assert_serves_what_users_see(server: Server, pack: Path) -> None:
    """Compare templates, texts and help with the files of the archive."""
    templates = sorted(path.stem for path in (pack / "workflows").glob("*.json"))
    assert sorted(server.get("/workflow_templates")["resshift-diffbir"]) == templates
    for language in ("en", "zh"):
        texts = json.loads((pack / "locales" / language / "nodeDefs.json").read_text("utf-8"))
        assert server.get("/i18n")[language]["nodeDefs"].items() >= texts.items()
    for file in (path for path in (pack / "web").rglob("*") if path.is_file()):
        address = f"/extensions/resshift-diffbir/{file.relative_to(pack / 'web').as_posix()}"
        with urllib.request.urlopen(server.url + urllib.parse.quote(address), timeout=30) as answer:
            assert answer.read() == file.read_bytes(), file
    for name in node_ids():
        assert (pack / "web" / "docs" / f"{name}.md").is_file(), name
