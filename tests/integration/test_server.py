"""The shipped workflows over ComfyUI's HTTP API."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from pack.tests.support.comfy_client import Run, Server

pytestmark = pytest.mark.comfy

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
# An older sample, with a third of the pixels: the stand-ins of large networks take long for more.
SAMPLE, SMALL_SAMPLE = "restoration_raccoon.png", "restoration_coffee.jpg"
SIZES = {
    "resshift_x4_bundled": (1024, 768),
    "resshift_inpainting": (256, 256),
    "resshift_face": (512, 512),
    "diffbir_face": (512, 512),
    "diffbir_denoise": (512, 512),
    "diffbir_fidelity": (3 * 600 + 2 * 8, 432),
    "restoration_measure": (3 * 600 + 2 * 8, 432),
    "restoration_old_photo": (4 * 451, 4 * 300),
    "face_photo_bundled": (1680, 1320),
    "face_photo_resshift": (1680, 1320),
    "face_photo_diffbir": (1680, 1320),
}
SAMPLING = {
    "ResidualShiftSampler",
    "KSampler",
    "SamplerCustomAdvanced",
    "ResShiftRestoreImage",
    "DiffBIRSampler",
    "DiffBIRRestoreImage",
    "HYPIRRestoreImage",
}
ONE_STEP = ("bundled", "SinSR")
STEPPING = {*SAMPLING, "DiffBIRSpacedScheduler", "RestorationFacePhoto", "RestorationVideo"}
MODEL_FOLDERS = {
    "ResShiftLoader": "diffusion_models",
    "ResShiftVAELoader": "vae",
    "CheckpointLoaderSimple": "checkpoints",
    "LAControlNetLoader": "controlnet",
    "SwinIRLoader": "upscale_models",
    "HYPIRLoader": "loras",
}
DIFFBIR_STEPS = 2
ONE_FRAME = ("video_resshift", "video_diffbir")  # with networks of released size
QUICK_TRAINING = {
    "TrainLoraNode": {"steps": 1, "training_dtype": "fp32"},
    "RestorationTrainModel": {"steps": 1, "training_dtype": "fp32"},
    "RestorationPairCrops": {"count": 1, "crop": 128},
}

IS_LOWEST = os.environ.get("PACK_LOWEST") == "1"


def api_prompt(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text("utf-8"))


def quick_prompt(name: str) -> dict[str, Any]:
    """Return the prompt of a shipped workflow, shortened where it would take long."""
    prompt = api_prompt(name)
    for node in prompt.values():
        node["inputs"] |= QUICK_TRAINING.get(node["class_type"], {})
        if node["inputs"].get("image") == SAMPLE and name != "resshift_x4_bundled":
            node["inputs"]["image"] = SMALL_SAMPLE
    if name in ONE_FRAME:
        prompt["4"]["inputs"]["duration"] = 0.04
    if "diffbir" in name:
        for node in prompt.values():
            if node["class_type"] in STEPPING and "steps" in node["inputs"]:
                node["inputs"]["steps"] = DIFFBIR_STEPS
    return prompt


def ui_workflow(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))


def sampling_node(prompt: dict[str, Any]) -> str:
    found = [key for key, node in prompt.items() if node["class_type"] in SAMPLING]
    trains = any(node["class_type"] in QUICK_TRAINING for node in prompt.values())
    if trains:  # the other restoration is without the training, and cached where one came before
        return found[0]
    return found[-1] if found else ""


def steps_of(name: str, prompt: dict[str, Any]) -> int:
    """Return the network calls of a quick prompt's run."""
    if name.startswith("diffbir"):
        return DIFFBIR_STEPS
    sampling = [node for node in prompt.values() if node["class_type"] in STEPPING]
    chosen = [node["inputs"].get("steps", 0) for node in sampling]
    names = [str(node["inputs"].get("model_name")) for node in prompt.values()]
    one_step = name.startswith("hypir") or any(given.startswith(ONE_STEP) for given in names)
    own = 1 if one_step else 4
    return max(chosen) or own


def assert_ran(run: Run, server: Server) -> None:
    assert run.end == "execution_success", run.of("execution_error") or server.log()[-2000:]


def check_video(server: Server, run: Run, prompt: dict[str, Any]) -> None:
    """Check what a workflow saved of the sample video, and Restore Video's bar over all frames."""
    from pack.tests.support.videos import audio_of, frames_of

    (kept,) = (key for key, node in prompt.items() if node["class_type"] == "SaveVideo")
    (saved,) = run.outputs[kept]["images"]
    path = server.base / "output" / saved["subfolder"] / saved["filename"]
    frames, times = frames_of(path)
    count = round(25 * (prompt["4"]["inputs"]["duration"] or 1))
    assert frames.shape == (count, 360, 640, 3)
    assert times == pytest.approx([k / 25 for k in range(count)], abs=1e-4)
    if prompt["6"]["class_type"] != "RestorationVideo":
        return
    sample = audio_of(WORKFLOWS / "inputs" / prompt["3"]["inputs"]["file"])
    heard = audio_of(path)
    assert len(heard) == len(sample) if count == 25 else heard
    if count == 25 or not IS_LOWEST:  # a trimmed video did not tell its part then
        assert heard == sample[: len(heard)]
    progress = [data for data in run.of("progress") if data["node"] == "6"]
    assert len({data["max"] for data in progress}) == 1
    assert progress[-1]["value"] == progress[-1]["max"]
    assert progress[-1]["max"] % count == 0
    assert not list((server.base / "temp").glob("restored_video_*/"))


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_runs_with_progress_and_previews(server: Server, name: str):
    prompt = quick_prompt(name)
    sampler = sampling_node(prompt)
    run = server.run(prompt)
    assert_ran(run, server)
    if name.startswith("video"):
        check_video(server, run, prompt)
        return
    assert server.picture(run, "8").size == SIZES.get(name, (600, 400))
    if not sampler:
        return
    count = steps_of(name, prompt)
    progress = [data for data in run.of("progress") if data["node"] == sampler]
    last = progress[-1]["max"]  # the steps; in DiffBIR's one node stage 1 counts as one more
    assert last - count == int(prompt[sampler]["class_type"] == "DiffBIRRestoreImage")
    assert [data["value"] for data in progress[-count:]] == list(range(last - count + 1, last + 1))
    assert run.previews >= count


@pytest.mark.parametrize("name", NAMES)
def test_the_interface_form_makes_the_same_prompt_as_the_api_form(server: Server, name: str):
    from comfy_cli.workflow_to_api import convert_ui_to_api

    if IS_LOWEST and name in ("restoration_train_lora", "video_steady_frames"):
        pytest.skip("Train LoRA and Create Video had fewer inputs then")
    converted = convert_ui_to_api(ui_workflow(name), server.get("/object_info"))
    prompt = {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for key, node in converted.items()
    }
    assert prompt == api_prompt(name)


def test_the_same_prompt_again_is_cached_and_another_seed_is_not(server: Server):
    prompt = api_prompt("resshift_x4_bundled")
    prompt["5"]["inputs"]["seed"] = 11
    first = server.run(prompt)
    assert_ran(first, server)
    again = server.run(prompt)
    assert_ran(again, server)
    assert "5" in again.of("execution_cached")[0]["nodes"]
    prompt["5"]["inputs"]["seed"] = 12
    other = server.run(prompt)
    assert "5" not in other.of("execution_cached")[0]["nodes"]
    assert np.any(np.asarray(server.picture(other, "8")) != np.asarray(server.picture(first, "8")))


def test_a_seed_gives_the_same_picture_whatever_ran_before(server: Server):
    prompt = api_prompt("resshift_x4_bundled")
    prompt["5"]["inputs"]["seed"] = 21
    first = server.run(prompt)
    assert_ran(first, server)
    between = api_prompt("resshift_ksampler")
    between["5"]["inputs"]["seed"] = 22
    assert_ran(server.run(between), server)
    prompt["8"]["inputs"]["filename_prefix"] = "restoration/again"
    prompt["1"]["inputs"]["dtype"] = "fp32"  # a new load, so nothing comes from the cache
    second = server.run(prompt)
    assert_ran(second, server)
    assert "5" not in second.of("execution_cached")[0]["nodes"]
    assert np.array_equal(server.picture(first, "8"), server.picture(second, "8"))


def test_an_interrupt_stops_mid_run_and_the_next_run_is_clean(server: Server):
    prompt = api_prompt("resshift_x4_bundled")
    prompt["5"]["inputs"].update(seed=31, steps=200)

    def stop_after_two_steps(name: str, data: Any) -> None:
        if name == "progress" and data["node"] == "5" and data["value"] == 2:
            server.interrupt()

    run = server.run(prompt, stop_after_two_steps)
    assert run.end == "execution_interrupted"
    assert max(data["value"] for data in run.of("progress")) < 200
    prompt["5"]["inputs"].update(seed=32, steps=0)
    assert_ran(server.run(prompt), server)


def test_a_missing_file_is_refused_before_anything_runs(server: Server):
    prompt = api_prompt("resshift_x4_released")
    prompt["1"]["inputs"]["model_name"] = "not_there.pth"
    status, answer = server.post("/prompt", {"prompt": prompt})
    assert status == 400
    assert answer["node_errors"]["1"]["errors"][0]["type"] == "value_not_in_list"


def test_released_files_are_offered_for_download_where_they_belong(server: Server):
    for name in NAMES:
        for node in ui_workflow(name)["nodes"]:
            if node["type"] not in MODEL_FOLDERS:
                continue
            chosen = node["widgets_values"][0]
            if chosen.startswith("bundled"):
                continue
            (model,) = node["properties"]["models"]
            assert model["name"] == chosen
            assert model["directory"] == MODEL_FOLDERS[node["type"]]
            assert model["url"].endswith("/" + chosen)


def test_the_template_browser_lists_the_workflows_with_thumbnails(server: Server):
    listed = server.get("/workflow_templates")["resshift-diffbir"]
    assert sorted(listed) == NAMES
    for name in NAMES:
        assert (WORKFLOWS / f"{name}.jpg").is_file(), name


def test_the_pack_is_imported_whole_and_raises_nothing_in_the_log(server: Server):
    log = server.log()
    (imported,) = [line for line in log.splitlines() if line.endswith("/resshift-diffbir")]
    assert "IMPORT FAILED" not in imported
    assert "custom_nodes/resshift-diffbir/" not in log  # a file of ours in a traceback


@pytest.mark.slow
def test_the_pack_works_under_another_folder_name_and_from_another_directory(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    import shutil

    from pack.tests.support.comfy_client import Server

    base = tmp_path / "a base with blanks"
    shutil.copytree(WORKFLOWS / "inputs", base / "input")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with Server(base, pack_name="ComfyUI-Some-Other-Name.v1", cwd=elsewhere) as other:
        assert_ran(other.run(api_prompt("resshift_x4_bundled")), other)


@pytest.mark.slow
def test_twenty_queued_runs_leave_memory_flat(server: Server):
    import psutil

    process = psutil.Process(server.pid)
    prompt = api_prompt("resshift_x4_bundled")
    resident = []
    for seed in range(20):
        prompt["5"]["inputs"]["seed"] = 1000 + seed
        assert_ran(server.run(prompt), server)
        resident.append(process.memory_info().rss)
    growth = max(resident[10:]) - max(resident[:10])
    assert growth < 64 * 2**20, f"grew by {growth / 2**20:.0f} MiB"
