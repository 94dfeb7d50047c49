"""The workflow of a folder: what is found in it, and what is changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pack.folders.errors import FolderError
from pack.folders.workflow import Place, derive_seed, read_workflow, settings_key
from pack.tests.support.folders import inverting, workflow_of, write_workflow

PACK_ROOT = Path(__file__).resolve().parents[2]
SECOND = {"class_type": "LoadImage", "inputs": {"image": "b.png"}, "_meta": {"title": "Reference"}}
BLEND = {"class_type": "ImageBlend", "inputs": {"image1": ["1", 0], "image2": ["4", 0]}}


def sampled(seed: int = 7) -> dict:
    sampler = {"class_type": "KSampler", "inputs": {"seed": seed, "steps": 4, "image": ["1", 0]}}
    prompt = inverting(**{"5": {**sampler, "_meta": {"title": "The sampler"}}})
    prompt["2"]["inputs"]["image"] = ["5", 0]
    return prompt


def test_picture_and_results_are_found_by_themselves(tmp_path):
    workflow = workflow_of(inverting(), tmp_path)
    assert workflow.picture == Place("1", "image")
    assert workflow.results == (Place("3", "images"),)


@pytest.mark.parametrize("name", ["resshift_x4_bundled", "diffbir_v2_1_x4", "restoration_stage1"])
def test_shipped_workflows_need_no_options(name):
    workflow = read_workflow(PACK_ROOT / "workflows" / "api" / f"{name}.json", [], None, [])
    assert workflow.prompt[workflow.picture.node]["class_type"] == "LoadImage"


def test_of_several_pictures_the_one_to_replace_has_to_be_named(tmp_path):
    prompt = inverting(**{"4": SECOND, "5": BLEND})
    prompt["2"]["inputs"]["image"] = ["5", 0]
    with pytest.raises(FolderError, match=r"--input-node") as error:
        workflow_of(prompt, tmp_path)
    assert "4 (Reference)" in str(error.value)
    by_title = workflow_of(prompt, tmp_path, [], "Reference", [])
    by_id = workflow_of(prompt, tmp_path, [], "4", [])
    by_input = workflow_of(prompt, tmp_path, [], "4.image", [])
    assert by_title.picture == by_id.picture == by_input.picture == Place("4", "image")


def test_a_picture_that_no_result_depends_on_is_not_taken(tmp_path):
    assert workflow_of(inverting(**{"4": SECOND}), tmp_path).picture.node == "1"
    with pytest.raises(FolderError, match="No result depends on node 4"):
        workflow_of(inverting(**{"4": SECOND}), tmp_path, [], "4", [])


def test_results_may_be_named_and_are_saved_once(tmp_path):
    prompt = inverting(**{"6": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}})
    workflow = workflow_of(prompt, tmp_path, [], None, ["6", "3.images", "3"])
    assert workflow.results == (Place("6", "images"), Place("3", "images"))
    assert workflow.label(Place("6", "images")) == "6 PreviewImage"


def test_values_are_set_by_id_and_by_title_in_their_own_type(tmp_path):
    settings = ["5.steps=9", "The sampler.seed=3", "3.filename_prefix=9"]
    prompt = workflow_of(sampled(), tmp_path, settings, None, []).prompt
    assert (prompt["5"]["inputs"]["steps"], prompt["5"]["inputs"]["seed"]) == (9, 3)
    assert prompt["3"]["inputs"]["filename_prefix"] == "9"


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ("steps", "write NODE.input=value"),
        ("9.steps=1", "has no node '9'"),
        ("5.step=1", "It has: seed, steps"),
        ("5.image=1", "has no value 'image'"),
        ("5.steps=many", "written like the present one, 4"),
    ],
)
def test_a_setting_that_cannot_be_made_is_told(tmp_path, setting, remedy):
    with pytest.raises(FolderError, match=remedy):
        workflow_of(sampled(), tmp_path, [setting], None, [])


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("{", "cannot be read"),
        ('{"nodes": [], "links": []}', r"Export \(API\)"),
        ('{"1": {"inputs": {}}}', "no workflow in API form"),
        ("[]", "no workflow in API form"),
        (json.dumps({"1": {"class_type": "LoadImage", "inputs": {}}}), "--output-node"),
    ],
)
def test_a_file_that_is_no_such_workflow_is_told(tmp_path, text, remedy):
    path = tmp_path / "workflow.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FolderError, match=remedy):
        read_workflow(path, [], None, [])


def test_a_workflow_file_that_is_missing_is_told(tmp_path):
    with pytest.raises(FolderError, match="There is no workflow"):
        read_workflow(tmp_path / "none.json", [], None, [])


def test_a_seed_follows_from_the_workflows_and_the_content_alone(tmp_path):
    workflow = workflow_of(sampled(), tmp_path)
    one, again, renamed, other = (
        workflow.for_picture(name, sha256, False)["5"]["inputs"]["seed"]
        for name, sha256 in [("a.png", "00"), ("a.png", "00"), ("b.png", "00"), ("a.png", "01")]
    )
    assert one == again == renamed == derive_seed(7, "00") != other
    assert workflow.for_picture("a.png", "00", True)["5"]["inputs"]["seed"] == 7
    assert derive_seed(8, "00") != one
    assert all(0 <= derive_seed(seed, "00") < 2**53 for seed in range(1000))


def test_the_page_could_run_a_pictures_workflow(tmp_path):
    workflow = workflow_of(sampled(), tmp_path)
    made = workflow.for_picture("sub/a.png", "00", True)
    assert made == {**sampled(), "1": {"class_type": "LoadImage", "inputs": {"image": "sub/a.png"}}}
    assert workflow.prompt == sampled()


def test_what_decides_a_result_changes_the_key_and_nothing_else_does(tmp_path):
    first = settings_key(workflow_of(sampled(), tmp_path), {"format": "png"})
    prompt = sampled()
    prompt["1"]["inputs"]["image"] = "another sample.png"
    prompt["5"]["_meta"]["title"] = "another title"
    assert settings_key(workflow_of(prompt, tmp_path), {"format": "png"}) == first
    assert settings_key(workflow_of(prompt, tmp_path), {"format": "jpg"}) != first
    assert settings_key(workflow_of(sampled(8), tmp_path), {"format": "png"}) != first
    more = workflow_of(sampled(), tmp_path, [], None, ["2.image"])
    assert settings_key(more, {"format": "png"}) != first


def test_a_loading_node_that_depends_on_others_is_refused(tmp_path):
    prompt = inverting()
    prompt["1"]["inputs"]["channel"] = ["9", 0]
    with pytest.raises(FolderError, match="takes channel from another node"):
        read_workflow(write_workflow(tmp_path / "workflow.json", prompt), [], None, [])
