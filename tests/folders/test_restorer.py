"""Restoring pictures in the ComfyUI of this process, as its page would."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import uuid
from pathlib import Path
from typing import ClassVar

import execution
import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image

import nodes
from pack.folders.errors import FolderError
from pack.folders.job import Encoding
from pack.folders.restorer import Restorer
from pack.folders.workflow import derive_seed, read_workflow
from pack.tests.support.folders import (
    contents,
    inverting,
    make_job,
    nothing_partial,
    restore_here,
    write_pictures,
    write_workflow,
)
from pack.tests.support.running import MessageRecorder

pytestmark = pytest.mark.comfy


class RefusesGreen:
    """A node that takes no picture with green in it."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "look"
    calls = 0

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"image": ("IMAGE",), "strength": ("FLOAT", {"default": 1.0})}}

    def look(self, image, strength):
        RefusesGreen.calls += 1
        if image[..., 1].max() > 0:
            raise ValueError("this one is green")
        return (image * strength,)


class Constant:
    """A node that does not depend on the picture, as one that loads a model."""

    RETURN_TYPES = ("FLOAT",)
    FUNCTION = "give"
    calls = 0

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"value": ("FLOAT", {"default": 0.5})}}

    def give(self, value):
        Constant.calls += 1
        return (value,)


class SmallSeed:
    """A node whose seed has 31 bits, as NumPy's and many services' have at most."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "take"
    calls = 0
    seen: ClassVar[list[tuple[int, int]]] = []

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {
            "required": {"image": ("IMAGE",), "seed": ("INT", {"max": 2**31 - 1})},
            "optional": {"noise_seed": ("INT", {"max": 2**64 - 1})},
        }

    def take(self, image, seed, noise_seed):
        SmallSeed.seen.append((seed, noise_seed))
        return (image,)


@pytest.fixture(autouse=True)
def _own_nodes(monkeypatch):
    for node in (RefusesGreen, Constant, SmallSeed):
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node.__name__, node)
        monkeypatch.setattr(node, "calls", 0)


def refusing() -> dict:
    prompt = inverting(**{"4": {"class_type": "Constant", "inputs": {"value": 1.0}}})
    prompt["2"] = {
        "class_type": "RefusesGreen",
        "inputs": {"image": ["1", 0], "strength": ["4", 0]},
    }
    return prompt


def run_as_the_page(base: Path, prompt: dict) -> Path:
    """Execute a workflow as ComfyUI's queue does, and return the file that Save Image wrote."""
    output = base / "page"
    folder_paths.set_output_directory(str(output))
    prompt_id = str(uuid.uuid4())
    valid = asyncio.run(execution.validate_prompt(prompt_id, prompt, None))
    assert valid[0], valid
    arguments = {"lru": 0, "ram": 0, "ram_inactive": 0}
    executor = execution.PromptExecutor(
        MessageRecorder(), cache_type=execution.CacheType.CLASSIC, cache_args=arguments
    )
    executor.execute(prompt, prompt_id, {}, valid[2])
    assert executor.success
    (file,) = output.rglob("*.png")
    return file


def chunks(file: Path) -> dict[str, bytes]:
    """Return the parts of a PNG by their kind."""
    content, found, at = file.read_bytes(), {}, 8
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8].decode()
        found[kind] = found.get(kind, b"") + content[at + 8 : at + 8 + size]
        at += 12 + size
    return found


def test_a_result_is_the_file_that_the_page_writes_bit_by_bit(base):
    write_pictures(base / "in", ["a.png"])
    write_pictures(base / "comfy_input", ["a.png"])
    restored = restore_here(make_job(base, inverting()))
    assert restored["a.png"].state == "done"
    prompt = inverting()
    prompt["1"]["inputs"]["image"] = "a.png"
    page = run_as_the_page(base, prompt)
    ours, pages = chunks(base / "out" / "a.png"), chunks(page)
    assert [ours[kind] for kind in ("IHDR", "IDAT")] == [pages[kind] for kind in ("IHDR", "IDAT")]
    told = json.loads(pages["tEXt"].removeprefix(b"prompt\0"))
    del told["1"]["is_changed"]  # what ComfyUI itself leaves there
    assert json.loads(ours["tEXt"].removeprefix(b"prompt\0")) == told
    assert ours.keys() == pages.keys()


def test_every_picture_is_restored_under_its_own_name(base):
    pictures = write_pictures(base / "in", ["a.png", "box/b.png", "box/c.png"])
    restored = restore_here(make_job(base, inverting()))
    assert [outcome.state for outcome in restored.values()] == ["done"] * 3
    for name, pixels in pictures.items():
        with Image.open(base / "out" / Path(name).with_suffix(".png")) as result:
            difference = np.asarray(result).astype(int) - (255 - pixels.astype(int))
            told = json.loads(result.info["prompt"])
        assert np.abs(difference).max() <= 1, "Save Image rounds down"
        assert told["1"] == {"class_type": "LoadImage", "inputs": {"image": name}}
    assert nothing_partial(base / "out")
    assert list((base / "temp").iterdir()) == []


def test_what_does_not_depend_on_the_picture_runs_once(base):
    for name in ("a", "b", "c"):
        (base / "in").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (ord(name), 0, 0)).save(base / "in" / f"{name}.png")
    restore_here(make_job(base, refusing()))
    assert (Constant.calls, RefusesGreen.calls) == (1, 3)


def test_the_same_picture_twice_is_restored_twice(base):
    write_pictures(base / "in", ["a.png"])
    (base / "in" / "b.png").write_bytes((base / "in" / "a.png").read_bytes())
    restored = restore_here(make_job(base, inverting()))
    assert [outcome.state for outcome in restored.values()] == ["done", "done"]
    assert restored["a.png"].sha256 == restored["b.png"].sha256


def test_a_damaged_file_and_a_picture_that_a_node_refuses_fail_alone(base):
    (base / "in").mkdir()
    Image.new("RGB", (8, 8), (9, 0, 0)).save(base / "in" / "a.png")
    Image.new("RGB", (8, 8), (0, 9, 0)).save(base / "in" / "green.png")
    Image.new("RGB", (8, 8), (9, 0, 0)).save(base / "in" / "z.png")
    whole = (base / "in" / "a.png").read_bytes()
    (base / "in" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (base / "in" / "empty.png").touch()
    (base / "in" / "nowhere.png").symlink_to(base / "nothing")
    restored = restore_here(make_job(base, refusing()))
    failed = {name: outcome.reason for name, outcome in restored.items() if outcome.state != "done"}
    assert sorted(failed) == ["cut.png", "empty.png", "green.png", "nowhere.png"]
    assert failed["green.png"] == "RefusesGreen (2): this one is green"
    assert all("temp" not in reason for reason in failed.values())
    assert sorted(contents(base / "out")) == ["a.png", "z.png"]
    assert nothing_partial(base / "out")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.bmp"])
def test_a_picture_that_is_cut_short_is_no_result_with_black_in_it(base, name):
    write_pictures(base / "in", [name], side=48)
    whole = (base / "in" / name).read_bytes()
    (base / "in" / name).write_bytes(whole[: len(whole) * 3 // 4])
    assert restore_here(make_job(base, inverting()))[name].state == "failed"
    assert contents(base / "out") == {}


def test_a_seed_is_no_larger_than_its_node_takes(base):
    write_pictures(base / "in", [f"{k}.png" for k in range(8)])
    inputs = {"image": ["1", 0], "seed": 3, "noise_seed": 3}
    prompt = inverting(**{"2": {"class_type": "SmallSeed", "inputs": inputs}})
    SmallSeed.seen.clear()
    restored = restore_here(make_job(base, prompt))
    assert {outcome.state for outcome in restored.values()} == {"done"}
    whole = {derive_seed(3, outcome.sha256) for outcome in restored.values()}
    assert {seed for _, seed in SmallSeed.seen} == whole
    assert {seed for seed, _ in SmallSeed.seen} == {seed % 2**31 for seed in whole}
    assert len(whole) == 8


def test_batches_and_several_results_get_folders(base):
    prompt = inverting(
        **{
            "4": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
            "5": {
                "class_type": "SaveImage",
                "inputs": {"images": ["4", 0], "filename_prefix": "y"},
            },
        }
    )
    write_pictures(base / "in", ["box/a.png"])
    job = make_job(base, prompt)
    outcome = restore_here(job)["box/a.png"]
    assert [path for path, _ in outcome.outputs] == [
        "3 SaveImage/box/a.png",
        "5 SaveImage/box/a/00001.png",
        "5 SaveImage/box/a/00002.png",
    ]
    assert sorted(contents(base / "out")) == sorted(path for path, _ in outcome.outputs)


def test_orientation_is_applied_and_metadata_kept_on_request(base):
    (base / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010F] = "a camera"
    profile = bytes(16) + b"RGB " + b"a profile of colours"
    picture = Image.new("RGB", (16, 8), (200, 0, 0))
    picture.save(base / "in" / "a.jpg", exif=exif, icc_profile=profile)
    for keep, expected in ((False, None), (True, profile)):
        job = make_job(base, inverting(), encoding=Encoding("jpg", 95, keep))
        assert restore_here(job)["a.jpg"].state == "done"
        with Image.open(base / "out" / "a.jpg") as result:
            assert result.size == (8, 16)
            assert result.info.get("icc_profile") == expected
            assert dict(result.getexif()) == ({0x010F: "a camera"} if keep else {})


@pytest.mark.parametrize("name", ["jpg", "webp"])
def test_other_formats_are_near_the_png(base, name):
    (base / "in").mkdir()
    gradient = np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    Image.fromarray(gradient).save(base / "in" / "a.png")
    restore_here(make_job(base, inverting(), encoding=Encoding(name, 95, False)))
    with Image.open(base / "out" / f"a.{name}") as result:
        assert result.format == {"jpg": "JPEG", "webp": "WEBP"}[name]
        difference = np.abs(np.asarray(result.convert("RGB"), int) - (255 - gradient.astype(int)))
        kept = result.getexif().get(0x0110)
    assert difference.mean() < 2
    assert (kept is not None and kept.startswith("prompt:{")) == (name == "webp")


def test_results_replace_links_and_never_what_those_name(base):
    write_pictures(base / "in", ["a.png", "box/b.png"])
    job = make_job(base, inverting())
    (base / "elsewhere").mkdir()
    (base / "kept.png").write_bytes(b"kept")
    (base / "out" / "a.png").symlink_to(base / "kept.png")
    (base / "out" / "box").symlink_to(base / "elsewhere")
    restored = restore_here(job)
    assert restored["a.png"].state == "done"
    assert restored["box/b.png"].state == "failed"
    assert "leads out of" in restored["box/b.png"].reason
    assert (base / "kept.png").read_bytes() == b"kept"
    assert not (base / "out" / "a.png").is_symlink()
    assert list((base / "elsewhere").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_any_name_that_a_file_may_have_is_restored(base):
    (base / "in").mkdir()
    write_pictures(base, ["a.png"])
    names = [
        b"caf\xe9.png",
        b"x" * 251 + b".png",
        b"a [output].png",
        b"..a.png"[1:],
        b"new\nline.png",
    ]
    names += [
        b"con.png",
        b"%date%.png",
        b"-flag.png",
        b"a:b*.png",
        b"\xff\xfe.PNG",
        b"\xf0\x9f\x99\x82.png",
    ]
    for name in names:
        (base / "in" / os.fsdecode(name)).write_bytes((base / "a.png").read_bytes())
    before = {path for path in base.rglob("*") if base / "out" not in path.parents}
    restored = restore_here(make_job(base, inverting()))
    assert len(restored) == len(names) - 1, "the one that starts with a dot is passed over"
    assert {outcome.state for outcome in restored.values()} == {"done"}
    assert len(contents(base / "out")) == len(names) - 1
    after = {path for path in base.rglob("*") if base / "out" not in path.parents}
    assert after - before == {base / "out", base / "workflow.json"}


def test_the_input_is_never_written(base):
    write_pictures(base / "in", ["a.png"])
    (base / "in" / "a.png").chmod(stat.S_IRUSR)
    before = (base / "in" / "a.png").stat()
    restore_here(make_job(base, inverting()))
    after = (base / "in" / "a.png").stat()
    assert (after.st_mtime_ns, after.st_ino, after.st_size) == (
        before.st_mtime_ns, before.st_ino, before.st_size,
    )  # fmt: skip


def test_a_full_disk_stops_and_leaves_no_half_file(base, monkeypatch):
    write_pictures(base / "in", ["a.png"], side=64)
    write_pictures(base / "in", ["b.png"], side=64)
    job = make_job(base, inverting())
    kept = Image.Image.save

    def full(picture, file, *arguments, **named):
        kept(picture, file, *arguments, **named)
        with open(file, "r+b") as half, open("/dev/full", "wb", buffering=0) as disk:
            half.truncate(100)
            disk.write(b"x")

    monkeypatch.setattr(Image.Image, "save", full, raising=True)
    with monkeypatch.context() as checking:
        checking.setattr(Image.Image, "save", kept)
        restorer = Restorer(job, MessageRecorder())
    from pack.folders.engines import restore_all
    from pack.tests.support.folders import all_of

    outcomes = restore_all(restorer, all_of(job.source))
    outcome = next(outcomes)
    outcomes.close()
    assert outcome.state == "stopped"
    assert "free some space, then run the same command again" in outcome.reason
    assert contents(base / "out") == {}
    assert nothing_partial(job.target)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"2": {"class_type": "NoSuchNode", "inputs": {"image": ["1", 0]}}}, "NoSuchNode"),
        ({"3": {"class_type": "NoSaver", "inputs": {"images": ["2", 0]}}}, "install its pack"),
        ({"2": {"class_type": "ImageScaleBy", "inputs": {"image": ["1", 0]}}}, "upscale_method"),
        (
            {
                "2": {
                    "class_type": "ImageBatch",
                    "inputs": {"image1": ["1", 0], "image2": ["4", 0]},
                },
                "4": {"class_type": "LoadImage", "inputs": {"image": "gone.png"}},
            },
            "gone.png",
        ),
    ],
)
def test_a_workflow_that_comfyui_refuses_is_told_before_any_picture(base, change, remedy):
    path = write_workflow(base / "workflow.json", inverting(**change))
    job = make_job(base, inverting(), workflow=read_workflow(path, [], "1", ["3"]))
    with pytest.raises(FolderError, match=remedy):
        Restorer(job, MessageRecorder())


def test_a_mask_that_load_image_makes_of_transparency_arrives(base):
    prompt = inverting()
    prompt["1"] = {"class_type": "LoadImageMask", "inputs": {"image": "x.png", "channel": "alpha"}}
    prompt["2"] = {"class_type": "MaskTaker", "inputs": {"mask": ["1", 0]}}

    class MaskTaker:
        RETURN_TYPES = ("IMAGE",)
        FUNCTION = "show"

        @classmethod
        def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
            return {"required": {"mask": ("MASK",)}}

        def show(self, mask):
            return (mask[..., None].expand(-1, -1, -1, 3),)

    nodes.NODE_CLASS_MAPPINGS["MaskTaker"] = MaskTaker
    try:
        (base / "in").mkdir()
        Image.new("RGBA", (8, 8), (9, 9, 9, 55)).save(base / "in" / "a.png")
        path = write_workflow(base / "workflow.json", prompt)
        job = make_job(base, inverting(), workflow=read_workflow(path, [], "1", []))
        assert restore_here(job)["a.png"].state == "done"
    finally:
        del nodes.NODE_CLASS_MAPPINGS["MaskTaker"]
    with Image.open(base / "out" / "a.png") as result:
        assert np.asarray(result)[0, 0, 0] == 200
    assert not torch.is_inference_mode_enabled()
