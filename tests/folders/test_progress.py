"""The line of progress."""

from __future__ import annotations

import io

import pytest

from pack.folders.progress import Progress, describe, duration


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (24_720, "6 h 52 min"), (266_400, "3 d 2 h")],
)  # fmt: skip
def test_a_time_is_told_in_its_two_largest_units(seconds, said):
    assert duration(seconds) == said


def test_the_line_tells_how_far_how_fast_and_how_long():
    line = describe(1201, 3, 100_081, 300.0)
    assert line == "1,201 of 100,081 (3 failed), 4.0 pictures a second, 6 h 52 min left"
    assert describe(11, 0, 21, 40.0) == "11 of 21, 4.0 s a picture, 40 s left"


def test_nothing_is_told_that_is_not_known_yet():
    assert describe(0, 0, None, 0.0) == "0 of ?"
    assert describe(1, 1, 5, 0.0) == "1 of 5 (1 failed)"
    assert describe(3, 0, None, 1.0) == "3 of ?, 2.0 pictures a second"


def test_pictures_are_counted_and_shown():
    output = io.StringIO()
    progress = Progress(output)
    progress.total = 2
    progress.count(False)
    progress.count(True)
    progress.show()
    assert output.getvalue().startswith("2 of 2 (1 failed)")
