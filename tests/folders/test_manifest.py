"""The manifest: lines that are added, and what they say about a picture."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pack.folders.job import Outcome, inside
from pack.folders.listing import Shard
from pack.folders.manifest import Done, adding_lines, content_sha256, manifest_name
from pack.tests.support.alone import call_alone
from pack.tests.support.folders import all_of, manifest_of

ALL = Shard(1, 1)


@pytest.fixture
def restored(tmp_path):
    """A folder with one picture and its result: folder, picture, what the manifest says of it."""
    for name, content in (("in/a.jpg", b"picture"), ("out/a.png", b"result")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    (picture,) = all_of(tmp_path / "in")
    outcome = Outcome(
        "a.jpg", "done", sha256=content_sha256(tmp_path / "in" / "a.jpg") or "", bytes=picture.size,
        modified_ns=picture.modified_ns, settings="these", outputs=(("a.png", 6),), finished=1.0,
    )  # fmt: skip
    return tmp_path, picture, outcome


def says_done(folder: Path, *outcomes: Outcome, settings: str = "these", checksum: bool = False):
    with adding_lines(folder / "out" / "manifest.jsonl", anew=True) as file:
        for outcome in outcomes:
            file.write(f"{outcome.to_line()}\n".encode())
    (picture,) = all_of(folder / "in")
    return Done(folder / "out").has(picture, folder / "in", settings, checksum)


def test_the_same_picture_with_the_same_settings_is_done(restored):
    folder, _, outcome = restored
    assert says_done(folder, outcome)
    assert not says_done(folder)


def test_other_settings_a_missing_or_another_result_and_a_failure_are_not(restored):
    folder, _, outcome = restored
    assert not says_done(folder, outcome, settings="others")
    assert not says_done(folder, replace(outcome, state="failed"))
    (folder / "out" / "a.png").write_bytes(b"cut")
    assert not says_done(folder, outcome)
    (folder / "out" / "a.png").unlink()
    assert not says_done(folder, outcome)


def test_of_several_lines_the_newest_counts(restored):
    folder, _, outcome = restored
    older = replace(outcome, settings="older", finished=0.5)
    assert says_done(folder, outcome, older)
    assert not says_done(folder, outcome, replace(older, finished=2.0))


def test_a_touched_picture_is_done_and_a_changed_one_is_not(restored):
    folder, picture, outcome = restored
    path = folder / "in" / "a.jpg"
    os.utime(path, ns=(1, 1))
    assert says_done(folder, outcome)
    path.write_bytes(b"PICTURE")
    assert not says_done(folder, outcome)
    os.utime(path, ns=(picture.modified_ns, picture.modified_ns))
    assert says_done(folder, outcome), "size and time are what counts without --checksum"
    assert not says_done(folder, outcome, checksum=True)


def test_a_line_that_was_cut_short_does_not_count_and_spoils_none(restored):
    folder, _, outcome = restored
    path = folder / "out" / "manifest.jsonl"
    path.write_bytes(outcome.to_line().encode()[:40])
    with adding_lines(path) as file:
        file.write(f"{outcome.to_line()}\n".encode())
    assert len(path.read_bytes().splitlines()) == 2
    (picture,) = all_of(folder / "in")
    assert Done(folder / "out").has(picture, folder / "in", "these", False)


def test_lines_are_only_added(tmp_path):
    path = tmp_path / "manifest.jsonl"
    for line in (b"one\n", b"two\n"):
        with adding_lines(path) as file:
            file.write(line)
    assert path.read_bytes() == b"one\ntwo\n"


def test_the_manifests_of_all_shards_count(restored):
    folder, picture, outcome = restored
    assert manifest_name("manifest", ALL) == "manifest.jsonl"
    with adding_lines(folder / "out" / manifest_name("manifest", Shard(2, 3))) as file:
        file.write(f"{outcome.to_line()}\n".encode())
    assert Done(folder / "out").has(picture, folder / "in", "these", False)
    assert manifest_of(folder / "out") == [outcome]


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"input": "a", "outputs": 3}', '"x"'])
def test_what_is_no_line_of_a_manifest_is_told(line):
    with pytest.raises(ValueError, match=r"."):
        Outcome.from_line(line)


def test_names_that_are_no_unicode_come_back(tmp_path):
    outcome = Outcome(os.fsdecode(b"caf\xe9.jpg"), "done", outputs=((os.fsdecode(b"caf\xe9"), 1),))
    assert Outcome.from_line(outcome.to_line().encode("ascii")) == outcome


@pytest.mark.parametrize(
    "path", ["../x.png", "a/../../x.png", "link/x.png", "link/deep/x.png", ".."]
)
def test_a_result_that_would_lie_elsewhere_is_refused(tmp_path, path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="leads out of"):
        inside(tmp_path / "out", path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def grown_by_reading(folder: str) -> int:
    """Return by how many KiB reading a manifest grew this process."""
    from pack.tests.support.alone import own_memory

    before = own_memory()
    done = Done(Path(folder))
    grown = own_memory() - before
    done.close()
    return grown // 1024


@pytest.mark.slow
@pytest.mark.comfy
def test_a_manifest_of_many_lines_is_read_in_flat_memory(tmp_path):
    outcome = Outcome("", "done", sha256="0" * 64, settings="0" * 64, worker="machine:1000")
    with adding_lines(tmp_path / "manifest.jsonl") as file:
        for number in range(30_000):
            line = replace(
                outcome, input=f"{number}.jpg", outputs=((f"{number}.png", 1),)
            ).to_line()
            file.write(f"{line}\n".encode())
    assert call_alone(grown_by_reading, folder=str(tmp_path)) < 8 * 1024  # the file has 12 MiB
