"""The list of model files agrees with itself, the workflows, the README and the loaders."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pack.model_files.manifest import (
    ModelFilesError,
    find_installed,
    read_manifest,
    size_complaint,
)
from pack.model_loaders.checkpoint import Checkpoint
from pack.model_loaders.record import AUTO, find_record

PACK_ROOT = Path(__file__).resolve().parents[2]
MANIFEST = read_manifest()
FILES = {file.name: file for file in MANIFEST.files}
README = (PACK_ROOT / "README.md").read_text(encoding="utf-8")
WEIGHTS = README[README.index("\n## Weights") : README.index("\n### Bundled")]


def workflow_models() -> list[dict[str, str]]:
    """Return every entry of `properties.models` in the shipped workflows."""
    found = []

    def collect(part: dict) -> dict:
        found.extend(part["models"] if isinstance(part.get("models"), list) else ())
        return part

    for path in (PACK_ROOT / "workflows").glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"), object_hook=collect)
    return found


def test_every_file_of_the_workflows_is_listed_with_its_folder_address_and_hash():
    models = workflow_models()
    assert len(models) > 20
    for model in models:
        file = FILES[model["name"]]
        assert file.folder == model["directory"]
        assert model["url"] in file.mirrors
        assert model.get("hash") in (None, file.sha256)


def test_the_readme_names_the_same_files_and_addresses():
    assert set(re.findall(r"[\w.-]+\.(?:pth|pt|ckpt|safetensors)\b", WEIGHTS)) <= set(FILES)
    assert [name for name in FILES if name not in README] == []
    links = re.findall(r"\((https://\S+?\.(?:pth|pt|ckpt|safetensors))\)", README)
    known = {url for file in MANIFEST.files for url in file.mirrors}
    assert links
    assert set(links) <= known


def test_entries_are_distinct_and_well_formed():
    assert len(FILES) == len(MANIFEST.files)
    for file in MANIFEST.files:
        assert file.mirrors
        assert all(url.startswith("https://") and url.endswith(file.name) for url in file.mirrors)
        assert file.licences
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert set(file.tasks) <= set(MANIFEST.tasks)
    assert all(MANIFEST.files_of(task) for task in MANIFEST.tasks)


def test_every_resshift_file_is_known_to_the_loader_and_comes_with_its_autoencoder():
    models = [file for file in MANIFEST.files if file.folder == "diffusion_models"]
    assert len(models) == 11
    for file in models:
        record = find_record(Checkpoint(Path(file.name), {}), AUTO)
        assert record.autoencoder in FILES
        for task in file.tasks:
            assert FILES[record.autoencoder] in MANIFEST.files_of(task)


def test_a_diffbir_task_has_a_base_a_control_branch_and_a_first_stage():
    for task in MANIFEST.tasks:
        if task.startswith("diffbir"):
            folders = sorted(file.folder for file in MANIFEST.files_of(task))
            assert folders == ["checkpoints", "controlnet", "upscale_models"]


def test_names_are_tasks_files_or_stems_and_give_each_file_once():
    chosen = MANIFEST.choose(["DiffBIR-v2", "v2", "sinsr_v1.PTH"])
    names = [file.name for file in chosen]
    assert names == ["v2-1_512-ema-pruned.safetensors", "v2.pth", "BSRNet.pth", "SinSR_v1.pth"]


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(ModelFilesError, match=r"'diffbir-v22'.*diffbir-v2.*lists all"):
        MANIFEST.choose(["diffbir-v22"])


@pytest.mark.parametrize(
    "place",
    [
        "diffusion_models/SinSR_v1.pth",
        "diffusion_models/restoration/SinSR_v1.pth",
        "unet/SinSR_v1.pth",
        "diffusion_models/SinSR_v1.safetensors",
    ],
)
def test_an_installed_file_is_found_where_comfyui_finds_it(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.touch()
    assert find_installed(FILES["SinSR_v1.pth"], tmp_path) == path


def test_a_file_in_another_folder_is_not_installed(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "SinSR_v1.pth").touch()
    assert find_installed(FILES["SinSR_v1.pth"], tmp_path) is None


def test_a_truncated_file_is_told_by_its_size_and_a_converted_one_is_not(tmp_path):
    file = FILES["autoencoder_vq_f4.pth"]
    original, converted = tmp_path / file.name, tmp_path / file.converted_name
    original.write_bytes(b"1234")
    converted.write_bytes(b"1234")
    assert size_complaint(file, original) == "has 4 bytes, expected 221,364,711"
    assert size_complaint(file, converted) is None
    assert size_complaint(FILES["v2.pth"], original) is None


def test_the_document_lists_every_task_with_its_files():
    rows = (PACK_ROOT / "docs" / "models.md").read_text(encoding="utf-8").splitlines()
    for task, description in MANIFEST.tasks.items():
        files = {file.name for file in MANIFEST.files_of(task)}
        cells = next(row for row in rows if row.startswith(f"| {task} |")).strip("| ").split(" | ")
        assert cells[1] == description
        assert set(cells[2].split(", ")) == files
    by_name = next(row for row in rows if row.startswith("Only by name: "))
    without_task = {file.name for file in MANIFEST.files if not file.tasks}
    assert set(by_name.removeprefix("Only by name: ").rstrip(".").split(", ")) == without_task
