"""Pictures that end the process which restores them."""

from __future__ import annotations

import pytest

from pack.folders.tries import MOST, Tries
from pack.tests.support.folders import inverting, make_job, restore_here, write_pictures


def test_tries_are_counted_until_it_is_known_what_came_of_them(tmp_path):
    assert Tries(tmp_path / "tries").count("a.png") == 0
    for number in (1, 2):
        Tries(tmp_path / "tries").begin("a.png")
        assert Tries(tmp_path / "tries").count("a.png") == number
    assert Tries(tmp_path / "tries").count("b.png") == 0
    Tries(tmp_path / "tries").end("a.png")
    assert Tries(tmp_path / "tries").count("a.png") == 0


def test_a_process_that_ends_in_order_blames_no_picture_but_those_of_others(tmp_path):
    Tries(tmp_path).begin("another's.png")
    tries = Tries(tmp_path)
    tries.begin("own.png")
    tries.stop()
    assert (tries.count("own.png"), tries.count("another's.png")) == (0, 1)


@pytest.mark.comfy
def test_a_picture_that_ended_its_process_too_often_fails_alone_and_is_tried_anew_later(base):
    write_pictures(base / "in", ["a.png", "b.png"])
    job = make_job(base, inverting())
    for _ in range(MOST):
        Tries(base / "out" / ".partial" / "tries").begin("a.png")
    restored = restore_here(job)
    assert (restored["a.png"].state, restored["b.png"].state) == ("failed", "done")
    assert f"ended {MOST} times" in restored["a.png"].reason
    assert restore_here(job)["a.png"].state == "done"
