"""What the registry accepts, packs and hands to users, without ComfyUI."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from pack.tests.support.archive import (
    make_checkout,
    pack_files,
    pack_with_registry_tool,
    run_registry_tool,
)

PACK_ROOT = Path(__file__).resolve().parents[1]
LARGEST_ARCHIVE_BYTES = 30_000_000
FOR_DEVELOPERS = {
    ".ci",
    ".comfyignore",
    ".github",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CONTRIBUTING.md",
    "benchmarks",
    "dev.py",
    "requirements-dev.txt",
    "tests",
    "training",
}
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("checkout") / "resshift-diffbir")


@pytest.fixture(scope="module")
def archive(checkout: Path) -> Path:
    return pack_with_registry_tool(checkout)


@pytest.fixture(scope="module")
def archived(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        return set(opened.namelist())


def test_the_registry_has_no_warning_about_the_pack(checkout: Path):
    told = run_registry_tool(checkout, "node", "validate")
    assert "All validation checks passed successfully" in told
    assert re.search("warning|error", told, re.IGNORECASE) is None, told


def test_the_registry_warns_of_what_it_refuses(tmp_path: Path):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "pyproject.toml").write_text(_text("pyproject.toml"))
    (bad / "requirements.txt").touch()
    (bad / "evil.py").write_text("exec(input())\n")
    assert "S102" in run_registry_tool(bad, "node", "validate")


def test_the_archive_stays_small(archive: Path):
    assert archive.stat().st_size < LARGEST_ARCHIVE_BYTES


def test_the_archive_leaves_out_what_only_developers_need_and_nothing_else(archived: set[str]):
    top = {PurePosixPath(name).parts[0] for name in pack_files()}
    assert top > FOR_DEVELOPERS
    expected = {name for name in pack_files() if PurePosixPath(name).parts[0] not in FOR_DEVELOPERS}
    assert archived == expected


def test_every_link_of_a_text_in_the_archive_leads_to_a_file_in_it(archived: set[str]):
    texts = [name for name in archived if name.endswith(".md") and not name.startswith("web/")]
    assert {"README.md", "README.zh.md", "docs/models.md"} <= set(texts)
    broken = {
        (name, link)
        for name in texts
        for link in LINK.findall((PACK_ROOT / name).read_text("utf-8"))
        if (PurePosixPath(name).parent / link).as_posix() not in archived
    }
    # How to change the pack starts from a clone.
    assert broken == {("README.md", "CONTRIBUTING.md"), ("README.zh.md", "CONTRIBUTING.md")}


def test_the_archive_downloads_model_files_without_dev_py(archive: Path, tmp_path: Path):
    pack = tmp_path / "ComfyUI" / "custom_nodes" / "resshift-diffbir"
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(pack)
    models = tmp_path / "ComfyUI" / "models"
    models.mkdir()
    script = str(pack / "model_files" / "run.py")
    listed = subprocess.run(
        [sys.executable, "-S", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert (listed.returncode, listed.stderr) == (0, "")
    lines = listed.stdout.splitlines()
    assert lines[0] == f"Models folder: {models}"
    assert lines[-1] == f'Download with, for example: python "{script}" get diffbir-v2.1'


def test_the_version_is_the_newest_of_the_changelog():
    version = re.search(r'^version = "(.+)"$', _text("pyproject.toml"), re.MULTILINE)
    newest = re.search(r"^## \[(\d.*?)\]", _text("CHANGELOG.md"), re.MULTILINE)
    assert version
    assert newest
    assert version[1] == newest[1]


def test_requirements_are_not_pinned():
    lines = _text("requirements.txt").splitlines()
    assert lines
    assert [line for line in lines if not re.fullmatch("[a-z0-9-]+", line)] == []


def test_installing_the_requirements_beside_comfyui_changes_no_package():
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--quiet",
         "--disable-pip-version-check", "--report", "-", "-r", str(PACK_ROOT / "requirements.txt")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["install"] == []


def _text(name: str) -> str:
    return (PACK_ROOT / name).read_text("utf-8")
