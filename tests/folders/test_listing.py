"""Finding pictures: which, in which order, and what their results are called."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pack.folders.listing import Choice, Picture, Shard, list_pictures
from pack.tests.support.alone import call_alone
from pack.tests.support.folders import all_of
from pack.tests.support.properties import EVERY

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def paths(folder: Path, **choice) -> list[str]:
    return [picture.path for picture in list_pictures(folder, Choice(**choice), _fail)]


def targets(folder: Path) -> dict[str, str]:
    return {picture.path: picture.target for picture in all_of(folder)}


def _fail(path: str, error: OSError) -> None:
    raise AssertionError(path) from error


def test_pictures_and_videos_come_in_the_order_of_names_and_keep_their_tree(tmp_path):
    touch(tmp_path, "b.PNG", "a.jpg", "notes.txt", "box 2/c.tiff", "box 1/sub/d.mp4")
    assert targets(tmp_path) == {
        "a.jpg": "a",
        "b.PNG": "b",
        "box 1/sub/d.mp4": "box 1/sub/d",
        "box 2/c.tiff": "box 2/c",
    }
    assert [picture.is_video for picture in all_of(tmp_path)] == [False, False, True, False]


def test_names_with_a_dot_in_front_are_passed_over(tmp_path):
    touch(tmp_path, "._a.jpg", ".hidden/b.jpg", "c.jpg")
    assert paths(tmp_path) == ["c.jpg"]


def test_patterns_choose_by_name_or_by_path(tmp_path):
    touch(tmp_path, "a.jpg", "A2.JPG", "b.png", "box/a3.jpg", "box/c.dat")
    assert paths(tmp_path, include=("*.jpg",)) == ["A2.JPG", "a.jpg", "box/a3.jpg"]
    assert paths(tmp_path, include=("box/*",)) == ["box/a3.jpg", "box/c.dat"]
    assert paths(tmp_path, exclude=("a*", "box/*")) == ["b.png"]
    assert paths(tmp_path, include=("*.jpg",), exclude=("a.*",)) == ["A2.JPG", "box/a3.jpg"]


def test_names_do_not_depend_on_what_is_chosen(tmp_path):
    touch(tmp_path, "a.jpg", "a.tif", "b.png", "b.xmp", "c.nef", "c.cr2", "d.nef", "box/a.png")

    def found(**choice) -> dict[str, str]:
        listed = list_pictures(tmp_path, Choice(**choice), _fail)
        return {picture.path: picture.target for picture in listed}

    every = found(include=("*",))
    assert len(set(every.values())) == len(every) == 8
    alone = {path: every[path] for path in ("b.png", "box/a.png", "d.nef")}
    assert alone == {"b.png": "b", "box/a.png": "box/a", "d.nef": "d"}
    for pattern in ("*.jpg", "a.*", "*.nef", "*.cr2", "b.*", "*.xmp", "*.png"):
        for choice in ({"include": (pattern,)}, {"exclude": (pattern,)}):
            assert found(**choice).items() < every.items()


def test_the_output_folder_is_not_looked_into(tmp_path):
    touch(tmp_path, "a.jpg", "out/a.png")
    assert paths(tmp_path, left_out=tmp_path / "out") == ["a.jpg"]


def test_links_to_pictures_are_taken_and_links_to_folders_are_not(tmp_path):
    touch(tmp_path, "in/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "in" / "nowhere.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "in" / "folder.jpg").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    assert paths(tmp_path / "in") == ["a.jpg", "link.jpg", "nowhere.jpg"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    assert paths(tmp_path) == []


@LINUX
def test_results_that_would_share_a_name_get_one_each(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "A.webp", "é.png", "e\u0301.jpg", "b.jpg", "b/c.jpg")
    names = targets(tmp_path)
    lowered = [name.casefold() for name in names.values()]
    assert len(set(lowered)) == len(names) == 7
    assert all(target.startswith(path.split("/")[0]) for path, target in names.items())
    assert names["b/c.jpg"].endswith("/c")


def test_a_name_does_not_depend_on_other_folders_or_other_names(tmp_path):
    touch(tmp_path, "one/a.jpg", "two/a.jpg", "two/b.jpg")
    assert targets(tmp_path) == {"one/a.jpg": "one/a", "two/a.jpg": "two/a", "two/b.jpg": "two/b"}


@LINUX
def test_the_longest_names_get_results_that_file_systems_take(tmp_path):
    long = ["x" * 251 + ".jpg", "x" * 250 + "y.jpg", "ü" * 125 + ".jpg"]
    touch(tmp_path, *long)
    names = targets(tmp_path)
    assert len(set(names.values())) == 3
    for target in names.values():
        touch(tmp_path / "out", f"{target}.webp")


@LINUX
def test_names_in_another_encoding_are_taken_as_they_are(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).touch()
    (picture,) = all_of(tmp_path)
    assert os.fsencode(picture.path) == b"caf\xe9.jpg"
    assert os.fsencode(picture.target) == b"caf\xe9"


def test_a_folder_that_cannot_be_listed_is_told_and_the_rest_goes_on(tmp_path):
    touch(tmp_path, "a.jpg")
    told = []
    gone = list_pictures(tmp_path / "gone", Choice(), lambda path, _: told.append(path))
    assert list(gone) == []
    assert told == ["."]


@EVERY
@given(st.lists(st.text(min_size=1), min_size=1, max_size=10), st.integers(1, 7))
def test_every_path_is_in_exactly_one_shard(names, count):
    for name in names:
        try:
            held = [Shard(number, count).holds(name) for number in range(1, count + 1)]
        except UnicodeEncodeError:  # no name of a file
            continue
        assert sum(held) == 1


def test_shards_are_nearly_equal():
    held = sum(Shard(2, 3).holds(f"scan {number}.jpg") for number in range(3000))
    assert 900 < held < 1100


def grown_by_listing(folder: str) -> list[int]:
    """Return how many pictures a folder has, and by how many KiB listing and deciding them grew."""
    from pack.folders.manifest import Done
    from pack.tests.support.alone import own_memory

    done = Done(Path(folder) / "none")
    before, most, count = own_memory(), 0, 0
    for picture in list_pictures(Path(folder), Choice(), _fail):
        assert not done.has(picture, Path(folder), "these", False)
        count += 1
        if count % 1000 == 0:
            most = max(most, own_memory())
    return [count, (most - before) // 1024]


@pytest.mark.slow
@pytest.mark.comfy
def test_a_hundred_thousand_pictures_of_one_folder_are_listed_in_flat_memory(tmp_path):
    for index in range(100_000):
        os.close(os.open(tmp_path / f"{index:06}.jpg", os.O_CREAT))
    count, grown_kib = call_alone(grown_by_listing, folder=str(tmp_path))
    assert count == 100_000
    # What the database keeps in memory, 7 MiB also for three times as many; a list took 40.
    assert grown_kib < 12 * 1024


def test_a_picture_that_is_gone_when_it_is_looked_at_is_still_told(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    assert all_of(tmp_path) == [Picture("gone.jpg", "gone", -1, -1)]
