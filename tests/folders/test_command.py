"""The folder command: in this process, and as users start it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import folder_paths
import numpy as np
import pytest
from PIL import Image

import nodes
from pack.folders import command
from pack.folders.errors import FolderError
from pack.folders.listing import Picture
from pack.tests.support import folders as support
from pack.tests.support.folders import (
    contents,
    inverting,
    manifest_of,
    run_command,
    write_pictures,
    write_workflow,
)

pytestmark = pytest.mark.comfy
SLOW_START = 120  # seconds that a loaded machine may take to start ComfyUI


@pytest.fixture
def restore(base, monkeypatch):
    """A function that runs the command in this process on `base/in` and `base/out`."""
    monkeypatch.setattr(command, "choose_engine", lambda _: support.EngineHere())
    write_workflow(base / "workflow.json", inverting())
    (base / "in").mkdir(exist_ok=True)

    def run(*arguments: object) -> int:
        paths = [base / "workflow.json", base / "in", base / "out", *arguments]
        return command.restore_folder(command.parse_arguments([str(part) for part in paths]))

    return run


def lines(base: Path) -> int:
    return len(manifest_of(base / "out"))


class PressesCtrlC:
    """A node in whose midst the user presses Ctrl-C."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "look"
    went_on = False

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"image": ("IMAGE",)}}

    def look(self, image):
        signal.raise_signal(signal.SIGINT)
        PressesCtrlC.went_on = True
        return (image,)


def test_ctrl_c_does_not_wait_for_the_workflow(base, monkeypatch, capsys):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "PressesCtrlC", PressesCtrlC)
    monkeypatch.setattr(PressesCtrlC, "went_on", False)
    monkeypatch.setattr(command, "choose_engine", lambda _: support.EngineHere())
    write_pictures(base / "in", ["a.png", "b.png"])
    presses = {"2": {"class_type": "PressesCtrlC", "inputs": {"image": ["1", 0]}}}
    workflow = write_workflow(base / "workflow.json", inverting(**presses))
    try:
        status = command.main([str(workflow), str(base / "in"), str(base / "out")])
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    assert status == 130
    assert not PressesCtrlC.went_on
    assert "Run the same command again to go on." in capsys.readouterr().err
    assert contents(base / "out") == {}


def test_a_rerun_does_what_is_missing_or_changed_and_nothing_else(base, restore):
    write_pictures(base / "in", ["a.png", "b.png", "c.png"])
    assert (restore(), lines(base)) == (0, 3)
    before = contents(base / "out")
    assert (restore(), lines(base)) == (0, 3)
    (base / "out" / "a.png").unlink()
    write_pictures(base / "in", ["new.png"])
    Image.new("RGB", (16, 16), "red").save(base / "in" / "b.png")
    assert restore() == 0
    assert [outcome.input for outcome in manifest_of(base / "out")[3:]] == [
        "a.png",
        "b.png",
        "new.png",
    ]
    after = contents(base / "out")
    assert after["a.png"] == before["a.png"]
    assert after["c.png"] == before["c.png"]
    assert after["b.png"] != before["b.png"]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["--keep-metadata"], 2),
        (["--set", "3.filename_prefix=y"], 2),
        (["--format", "jpg"], 2),
        (["--frames-at-once", "3"], 1),  # decides videos
        (["--quality", "50"], 1),  # decides no PNG
    ],
)
def test_settings_that_decide_a_picture_do_it_again(base, restore, arguments, count):
    write_pictures(base / "in", ["a.png"])
    assert (restore(), restore(*arguments), restore(*arguments)) == (0, 0, 0)
    assert lines(base) == count


def test_settings_that_decide_a_video_are_its_own(base):
    workflow = write_workflow(base / "workflow.json", inverting())
    (base / "in").mkdir()
    made = {}
    for option, value in [("--limit", 1), ("--quality", 50), ("--frames-at-once", 3)]:
        paths = [str(part) for part in (workflow, base / "in", base / "out", option, value)]
        made[option] = command.make_job(command.parse_arguments(paths))
    settings = [job.settings_of(Picture("a.mp4", "a", 1, 1)) for job in made.values()]
    assert len(set(settings)) == 3
    assert len({job.settings_of(Picture("a.png", "a", 1, 1)) for job in made.values()}) == 1


def test_with_nothing_left_no_engine_starts(base, restore, monkeypatch, capsys):
    write_pictures(base / "in", ["a.png"])
    assert restore() == 0

    class NoEngine:
        def run(self, job, pictures):
            raise AssertionError("it takes half a minute to start")

    monkeypatch.setattr(command, "choose_engine", lambda _: NoEngine())
    assert restore() == 0
    assert "0 of 0" in capsys.readouterr().err


def test_failures_are_named_with_a_reason_and_tried_again(base, restore, capsys):
    write_pictures(base / "in", ["a.png", "c.png"])
    (base / "in" / "b.png").write_bytes(b"no picture")
    assert restore() == command.SOME_FAILED
    (failed,) = [json.loads(line) for line in (base / "out" / "failures.jsonl").open()]
    assert (failed["input"], failed["state"]) == ("b.png", "failed")
    assert "cannot identify image file 'b.png'" in failed["reason"]
    said = capsys.readouterr().err
    assert "b.png: " in said
    assert "3 of 3 (1 failed)" in said
    write_pictures(base / "in", ["b.png"])
    assert restore() == 0
    assert not (base / "out" / "failures.jsonl").exists()
    assert sorted(contents(base / "out")) == ["a.png", "b.png", "c.png"]


def test_a_limit_takes_the_next_that_are_left(base, restore):
    write_pictures(base / "in", [f"{number}.png" for number in range(5)])
    for expected in (2, 4, 5, 5):
        assert restore("--limit", 2) == 0
        assert lines(base) == expected
    assert len(contents(base / "out")) == 5


def test_a_dry_run_tells_and_writes_nothing(base, restore, capsys):
    write_pictures(base / "in", ["a.png", "box/b.png"])
    assert restore("--dry-run") == 0
    assert "a.png -> a\nbox/b.png -> box/b\n2 to restore" in capsys.readouterr().out
    assert not (base / "out").exists()
    restore("--include", "a.png")
    assert restore("--dry-run", "--format", "png") == 0
    assert "1 to restore" in capsys.readouterr().out


def test_three_shards_make_what_one_command_makes(base, restore):
    write_pictures(base / "in", [f"{number}.png" for number in range(9)])
    for number in (1, 2, 3):
        assert restore("--shard", f"{number}/3") == 0
    parts = contents(base / "out")
    assert lines(base) == 9
    assert restore("--dry-run") == 0
    shutil.rmtree(base / "out")
    assert restore() == 0
    assert contents(base / "out") == parts


def test_what_a_killed_command_left_is_cleared_away(base, restore):
    write_pictures(base / "in", ["a.png"])
    left = base / "out" / ".partial" / "1-of-1"
    left.mkdir(parents=True)
    (left / "half.png").write_bytes(b"half")
    other = base / "out" / ".partial" / "1-of-2"
    other.mkdir()
    assert restore() == 0
    assert not left.exists()
    assert other.exists(), "another shard may be at work"


def test_results_never_lie_among_the_pictures(base):
    workflow = write_workflow(base / "workflow.json", inverting())
    (base / "in" / "sub").mkdir(parents=True)
    (base / "link").symlink_to(base / "in")
    for source, target in [("in", "in"), ("in", "link"), ("in/sub", "in"), ("in", ".")]:
        paths = [str(workflow), str(base / source), str(base / target)]
        with pytest.raises(FolderError, match="among the pictures"):
            command.restore_folder(command.parse_arguments(paths))


def test_a_file_in_the_place_of_the_output_folder_is_told(base, restore):
    (base / "out").touch()
    with pytest.raises(FolderError, match="Name an output folder that can be written"):
        restore()


def test_an_output_folder_inside_the_input_is_no_input(base, restore):
    write_pictures(base / "in", ["a.png"])
    paths = [str(base / "workflow.json"), str(base / "in"), str(base / "in" / "out")]
    for _ in range(2):
        assert command.restore_folder(command.parse_arguments(paths)) == 0
    assert len(manifest_of(base / "in" / "out")) == 1


def test_a_full_disk_ends_the_command_with_a_remedy(base, restore, monkeypatch):
    write_pictures(base / "in", ["a.png", "b.png"])

    class Full:
        def run(self, job, pictures):
            yield support.Outcome("a.png", "stopped", "The disk is full: free some space")

    monkeypatch.setattr(command, "choose_engine", lambda _: Full())
    with pytest.raises(FolderError, match="free some space"):
        restore()
    assert lines(base) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shard", "4/3"], "K from 1 to N"),
        (["--shard", "x"], "K from 1 to N"),
        (["--quality", "0"], "from 1 to 100"),
        (["--limit", "0"], "1 or more"),
        (["--workers", "3:2"], "more at least than at most"),
        (["--format", "bmp"], "invalid choice"),
        (["--gpus-per-worker", "-1"], "0 or more"),
        (["--cpus-per-worker", "nan"], "0 or more"),
    ],
)
def test_wrong_arguments_are_told(capsys, arguments, said):
    with pytest.raises(SystemExit) as ended:
        command.parse_arguments(["w", "in", "out", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_comfyuis_arguments_follow_two_dashes():
    arguments = command.parse_arguments(
        ["w", "in", "out", "--limit", "3", "--", "--cpu", "--x", "y"]
    )
    assert (arguments.limit, arguments.comfyui_arguments) == (3, ("--cpu", "--x", "y"))


def test_a_missing_folder_and_a_missing_comfyui_are_told(base, monkeypatch):
    workflow = write_workflow(base / "workflow.json", inverting())
    paths = [str(workflow), str(base / "none"), str(base / "out")]
    with pytest.raises(FolderError, match="is no folder"):
        command.make_job(command.parse_arguments(paths))
    monkeypatch.setenv("COMFYUI_PATH", "")
    monkeypatch.setattr(command, "PACK", base)
    with pytest.raises(FolderError, match="COMFYUI_PATH"):
        command.find_comfyui()


def test_the_comfyui_around_an_installed_pack_is_found_through_a_link(base, monkeypatch):
    comfyui, clone = base / "ComfyUI", base / "clone"
    for folder in (comfyui / "comfy", comfyui / "custom_nodes", clone):
        folder.mkdir(parents=True)
    (comfyui / "main.py").touch()
    (comfyui / "custom_nodes" / "pack").symlink_to(clone)
    monkeypatch.delenv("COMFYUI_PATH")
    monkeypatch.setattr(command, "PACK", comfyui / "custom_nodes" / "pack")
    assert command.find_comfyui() == comfyui


# In a process of its own

LISTER = """
import time

import folder_paths


class Lister:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "invert"

    @classmethod
    def INPUT_TYPES(cls):
        names = folder_paths.get_filename_list("upscale_models")
        return {"required": {"image": ("IMAGE",), "name": (names,)}}

    def invert(self, image, name):
        time.sleep(0.1)  # so that the command can be killed on the way
        return (1.0 - image,)


NODE_CLASS_MAPPINGS = {"Lister": Lister}
"""
NAMES = [f"{number:02}.png" for number in range(30)]


def install(base: Path) -> Path:
    """Return a ComfyUI with this pack, a node of its own and an extra model folder."""
    comfyui = base / "ComfyUI"
    comfyui.mkdir()
    for entry in Path(os.environ["COMFYUI_PATH"]).iterdir():
        if entry.is_file():  # a linked file would look for the folders beside its origin
            shutil.copy(entry, comfyui)
        elif entry.name not in ("custom_nodes", "models", "output", "input", "temp", "user"):
            (comfyui / entry.name).symlink_to(entry)
    (comfyui / "custom_nodes").mkdir()
    (comfyui / "custom_nodes" / "restoration").symlink_to(support.PACK_ROOT)
    (comfyui / "custom_nodes" / "lister.py").write_text(LISTER)
    paths_file = comfyui / "extra_model_paths.yaml"
    paths_file.write_text(f"own:\n  base_path: {base}\n  upscale_models: my models\n")
    (base / "my models").mkdir()
    (base / "my models" / "mine.pth").touch()
    return comfyui


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The folder of an installed pack that was killed at work, and a second command beside it."""
    base = tmp_path_factory.mktemp("killed")
    comfyui = install(base)
    prompt = inverting()
    prompt["2"] = {"class_type": "Lister", "inputs": {"image": ["1", 0], "name": "mine.pth"}}
    paths = [write_workflow(base / "workflow.json", prompt), base / "in", base / "out"]
    write_pictures(base / "in", NAMES)
    environment = support.environment(base)
    del environment["COMFYUI_PATH"]
    run = "custom_nodes/restoration/folders/run.py"
    line = [sys.executable, run, *map(str, paths), "--", "--cpu", "--disable-api-nodes"]
    manifest, since = base / "out" / "manifest.jsonl", time.monotonic()
    with subprocess.Popen(
        line, cwd=comfyui, env=environment, stderr=subprocess.PIPE, text=True
    ) as started:
        while not (manifest.exists() and manifest.read_bytes().count(b"\n") >= 3):
            assert started.poll() is None, started.stderr.read()
            assert time.monotonic() - since < SLOW_START
        second = run_command(base, *paths)
        started.send_signal(signal.SIGKILL)
        started.communicate()
    return base, second


@pytest.mark.slow
def test_an_installed_pack_restores_with_the_models_of_extra_model_paths(killed):
    folder, _ = killed
    results = contents(folder / "out")
    assert len(results) >= 3
    for name in results:
        with Image.open(folder / "out" / name) as result, Image.open(folder / "in" / name) as given:
            difference = np.asarray(result, int) - (255 - np.asarray(given, int))
        assert np.abs(difference).max() <= 1, "Save Image rounds down"


@pytest.mark.slow
def test_a_second_command_on_a_folder_is_told_to_wait(killed):
    _, second = killed
    assert second.returncode == 1
    assert "Another command restores into" in second.stderr


@pytest.mark.slow
def test_a_killed_command_loses_nothing_and_doubles_nothing(base, killed, monkeypatch):
    folder, _ = killed
    spec = importlib.util.spec_from_file_location(
        "lister", folder / "ComfyUI" / "custom_nodes" / "lister.py"
    )
    lister = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lister)
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Lister", lister.Lister)
    models = ([str(folder / "my models")], {".pth"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "upscale_models", models)
    monkeypatch.setattr(command, "choose_engine", lambda _: support.EngineHere())
    paths = [str(folder / name) for name in ("workflow.json", "in", "out")]
    assert 3 <= len(manifest_of(folder / "out")) < len(NAMES)
    assert command.restore_folder(command.parse_arguments(paths)) == 0
    assert sorted(outcome.input for outcome in manifest_of(folder / "out")) == NAMES
    after = contents(folder / "out")
    assert len({outcome.worker for outcome in manifest_of(folder / "out")}) == 2
    assert support.nothing_partial(folder / "out")
    shutil.rmtree(folder / "out")
    assert command.restore_folder(command.parse_arguments(paths)) == 0
    assert contents(folder / "out") == after
    assert sorted(after) == NAMES
