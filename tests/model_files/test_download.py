"""Downloads from a local server that breaks, changes, lies or has nothing."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from pack.model_files.download import CHUNK_BYTES, DownloadError, download
from pack.model_files.manifest import ModelFile

CONTENT = random.Random(1).randbytes(CHUNK_BYTES + 5000)
NAME = "weights.pth"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "vae" / NAME


def model_file(*urls: str, sha256: str | None = None, size_bytes: int | None = None) -> ModelFile:
    return ModelFile(NAME, "vae", (), urls, sha256=sha256, size_bytes=size_bytes)


def run(file, target, free: int = 10**12) -> list:
    """Download and return what was reported; pauses take no time and are counted as None."""
    reports = []
    download(
        file,
        target,
        on_progress=reports.append,
        free_bytes=lambda folder: free,
        pause=lambda seconds: reports.append(None),
    )
    return reports


def files_below(folder) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def ranges_asked(resource) -> list[str | None]:
    return [headers.get("Range") for headers in resource.requests]


def break_once_and_fail(server, target, *, at: int, **behaviour):
    """Leave a partial file of `at` bytes behind, as a machine that loses its network does."""
    resource = server.add("/a", CONTENT, breaks_after=[at, 0, 0, 0, 0], **behaviour)
    with pytest.raises(DownloadError) as error:
        run(model_file(f"{server.url}/a"), target)
    resource.breaks_after.clear()
    resource.requests.clear()
    return resource, str(error.value)


def test_a_whole_file_arrives_with_progress_and_leaves_nothing_else(server, target):
    server.add("/a", CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    reports = run(model_file(f"{server.url}/a", sha256=digest, size_bytes=len(CONTENT)), target)
    assert target.read_bytes() == CONTENT
    assert files_below(target.parent) == {NAME}
    received = [report.received_bytes for report in reports]
    assert received == sorted(received)
    assert received[-1] == reports[-1].total_bytes == len(CONTENT)
    assert reports[-1].bytes_per_s > 0


def test_a_broken_connection_is_continued_where_it_broke(server, target):
    resource = server.add("/a", CONTENT, breaks_after=[1000, 2000])
    run(model_file(f"{server.url}/a"), target)
    assert target.read_bytes() == CONTENT
    assert ranges_asked(resource) == [None, "bytes=1000-", "bytes=3000-"]
    assert resource.requests[1]["If-Range"] == '"one"'


def test_a_connection_that_keeps_bringing_something_is_never_given_up(server, target):
    resource = server.add("/a", CONTENT, breaks_after=[1000] * 10)
    run(model_file(f"{server.url}/a"), target)
    assert target.read_bytes() == CONTENT
    assert len(resource.requests) == 11


def test_starting_over_and_over_without_getting_further_ends(server, target):
    resource = server.add("/a", CONTENT, ranges=False, breaks_after=[2000, 1000] * 10)
    with pytest.raises(DownloadError, match="4 attempts"):
        run(model_file(f"{server.url}/a"), target)
    assert len(resource.requests) == 4


def test_a_server_that_states_no_size_is_checked_at_the_end(server, target):
    server.add("/a", CONTENT, stated_length=-1)
    with pytest.raises(DownloadError, match=r"the download has 267,144 bytes, expected 12"):
        run(model_file(f"{server.url}/a", size_bytes=12), target)
    assert not files_below(target.parent)
    reports = run(model_file(f"{server.url}/a", size_bytes=len(CONTENT)), target)
    assert target.read_bytes() == CONTENT
    assert reports[-1].total_bytes is None


def test_a_server_that_stops_sending_validators_ends_continuing(server, target):
    break_once_and_fail(server, target, at=1000)
    resource = server.add("/a", CONTENT, etag="", breaks_after=[500] * 9)
    with pytest.raises(DownloadError) as error:
        run(model_file(f"{server.url}/a"), target)
    assert ranges_asked(resource) == ["bytes=1000-", None, None, None]
    assert "keeps" not in str(error.value)


def test_a_connection_that_brings_nothing_ends_with_how_to_continue(server, target):
    _, message = break_once_and_fail(server, target, at=1000)
    assert "4 attempts" in message
    assert f"{NAME}.part keeps the 1,000 bytes" in message
    assert not target.exists()


def test_a_later_run_continues_the_partial_file(server, target):
    resource, _ = break_once_and_fail(server, target, at=1000)
    reports = run(model_file(f"{server.url}/a"), target)
    assert target.read_bytes() == CONTENT
    assert ranges_asked(resource) == ["bytes=1000-"]
    assert reports[0].received_bytes > 1000


def test_a_date_of_change_serves_where_there_is_no_etag(server, target):
    date = "Sat, 21 Nov 2026 10:00:00 GMT"
    resource, _ = break_once_and_fail(server, target, at=1000, etag="", last_modified=date)
    run(model_file(f"{server.url}/a"), target)
    assert target.read_bytes() == CONTENT
    assert resource.requests[0]["If-Range"] == date


@pytest.mark.parametrize("etag", ["", 'W/"one"'], ids=["none", "weak"])
def test_without_a_strong_validator_nothing_is_continued(server, target, etag):
    resource, message = break_once_and_fail(server, target, at=1000, etag=etag)
    assert "keeps" not in message
    run(model_file(f"{server.url}/a"), target)
    assert target.read_bytes() == CONTENT
    assert ranges_asked(resource) == [None]


def test_a_server_without_ranges_starts_over(server, target):
    resource, _ = break_once_and_fail(server, target, at=1000)
    resource.ranges = False
    reports = run(model_file(f"{server.url}/a"), target)
    assert target.read_bytes() == CONTENT
    assert ranges_asked(resource) == ["bytes=1000-"]
    assert None not in reports


def test_a_file_that_changed_is_downloaded_from_its_start(server, target):
    break_once_and_fail(server, target, at=1000)
    changed = CONTENT[::-1]
    server.add("/a", changed, etag='"two"')
    run(model_file(f"{server.url}/a"), target)
    assert target.read_bytes() == changed


@pytest.mark.parametrize("etag", ['"one"', '"two"'], ids=["same etag", "other etag"])
def test_a_changed_file_is_noticed_where_the_server_ignores_if_range(server, target, etag):
    break_once_and_fail(server, target, at=1000)
    changed = CONTENT[::-1] + b"more"
    resource = server.add("/a", changed, etag=etag, checks_if_range=False)
    run(model_file(f"{server.url}/a"), target)
    assert target.read_bytes() == changed
    assert ranges_asked(resource) == ["bytes=1000-", None]


def test_a_file_that_became_shorter_than_what_arrived_is_downloaded_again(server, target):
    break_once_and_fail(server, target, at=1000)
    server.add("/a", CONTENT[:500], etag='"two"', checks_if_range=False)
    run(model_file(f"{server.url}/a"), target)
    assert target.read_bytes() == CONTENT[:500]


def test_a_run_stopped_before_the_last_rename_asks_for_nothing_more(server, target):
    url = f"{server.url}/a"
    resource = server.add("/a", CONTENT)
    target.parent.mkdir()
    target.with_name(f"{NAME}.part").write_bytes(CONTENT)
    origin = {"url": url, "validator": '"one"', "total_bytes": len(CONTENT)}
    target.with_name(f"{NAME}.part.json").write_text(json.dumps(origin))
    run(model_file(url), target)
    assert target.read_bytes() == CONTENT
    assert not resource.requests
    assert files_below(target.parent) == {NAME}


@pytest.mark.parametrize("origin", ["", "[]", '{"url": 1}', None])
def test_a_partial_file_of_unknown_origin_is_not_continued(server, target, origin):
    resource = server.add("/a", CONTENT)
    target.parent.mkdir()
    target.with_name(f"{NAME}.part").write_bytes(b"something else")
    if origin is not None:
        target.with_name(f"{NAME}.part.json").write_text(origin)
    run(model_file(f"{server.url}/a"), target)
    assert target.read_bytes() == CONTENT
    assert ranges_asked(resource) == [None]


def test_a_wrong_sha256_keeps_nothing_and_names_both_sums(server, target):
    server.add("/a", CONTENT)
    with pytest.raises(DownloadError) as error:
        run(model_file(f"{server.url}/a", sha256="0" * 64), target)
    assert hashlib.sha256(CONTENT).hexdigest() in str(error.value)
    assert "0" * 64 in str(error.value)
    assert "deleted" in str(error.value)
    assert not files_below(target.parent)


def test_a_file_of_another_size_is_refused_before_it_is_downloaded(server, target):
    server.add("/a", CONTENT)
    with pytest.raises(DownloadError, match=r"the file there has 267,144 bytes, expected 12"):
        run(model_file(f"{server.url}/a", size_bytes=12), target)
    assert not files_below(target.parent)


@pytest.mark.parametrize(
    ("status", "told"), [(404, "no such file"), (403, "refuses access"), (401, "login")]
)
def test_the_next_mirror_is_taken_where_the_first_has_no_file(server, target, status, told):
    first = server.add("/a", CONTENT, statuses=[status, status])
    server.add("/b", CONTENT)
    run(model_file(f"{server.url}/a", f"{server.url}/b"), target)
    assert target.read_bytes() == CONTENT
    assert len(first.requests) == 1
    with pytest.raises(DownloadError, match=told):
        run(model_file(f"{server.url}/a"), target)


def test_the_next_mirror_is_taken_where_the_first_serves_another_file(server, target):
    server.add("/a", b"another file")
    server.add("/b", CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    run(model_file(f"{server.url}/a", f"{server.url}/b", sha256=digest), target)
    assert target.read_bytes() == CONTENT


def test_a_partial_file_is_continued_at_the_mirror_it_is_from(server, target):
    resource, _ = break_once_and_fail(server, target, at=1000)
    other = server.add("/b", CONTENT)
    run(model_file(f"{server.url}/b", f"{server.url}/a"), target)
    assert target.read_bytes() == CONTENT
    assert ranges_asked(resource) == ["bytes=1000-"]
    assert not other.requests


def test_another_mirror_is_not_asked_to_continue_it(server, target):
    resource, _ = break_once_and_fail(server, target, at=1000)
    resource.statuses = [404]
    other = server.add("/b", CONTENT)
    run(model_file(f"{server.url}/a", f"{server.url}/b"), target)
    assert target.read_bytes() == CONTENT
    assert ranges_asked(other) == [None]


def test_when_no_mirror_has_it_every_address_and_reason_is_told(server, target):
    server.add("/b", b"<html>", content_type="text/html; charset=utf-8")
    closed = "http://127.0.0.1:9/c"
    with pytest.raises(DownloadError) as error:
        run(model_file(f"{server.url}/a", f"{server.url}/b", closed), target)
    lines = str(error.value).splitlines()
    assert lines[1:5] == [
        f"  {server.url}/a",
        "    the server has no such file (HTTP 404)",
        f"  {server.url}/b",
        "    the server sends a web page instead of the file",
    ]
    assert lines[5] == f"  {closed}"
    assert "cannot be reached" in lines[6]
    assert "HTTPS_PROXY" in lines[7]
    assert str(target.parent) in lines[7]


def test_a_server_that_is_busy_is_asked_again(server, target):
    resource = server.add("/a", CONTENT, statuses=[503, 429])
    reports = run(model_file(f"{server.url}/a"), target)
    assert target.read_bytes() == CONTENT
    assert len(resource.requests) == 3
    assert reports[:2] == [None, None]


def test_a_disk_without_room_is_told_before_anything_is_written(server, target):
    server.add("/a", CONTENT, stated_length=10**15)
    server.add("/b", CONTENT)
    with pytest.raises(DownloadError, match=r"needs 1,000,000,000,000,000 more bytes.*--folder"):
        run(model_file(f"{server.url}/a", f"{server.url}/b"), target)
    assert not files_below(target.parent)


def test_room_is_asked_for_what_is_still_missing_only(server, target):
    break_once_and_fail(server, target, at=1000)
    missing = len(CONTENT) - 1000
    with pytest.raises(DownloadError, match="Free 1 bytes"):
        run(model_file(f"{server.url}/a"), target, free=missing - 1)
    run(model_file(f"{server.url}/a"), target, free=missing)
    assert target.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_told(server, tmp_path):
    server.add("/a", CONTENT)
    (tmp_path / "vae").write_text("a file where the folder belongs")
    with pytest.raises(DownloadError, match=r"cannot be written.*--folder"):
        run(model_file(f"{server.url}/a"), tmp_path / "vae" / NAME)


def test_an_interrupt_keeps_what_has_arrived(server, target):
    resource = server.add("/a", CONTENT)

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(model_file(f"{server.url}/a"), target, on_progress=interrupt)
    kept = target.with_name(f"{NAME}.part").stat().st_size
    assert kept > 0
    run(model_file(f"{server.url}/a"), target)
    assert target.read_bytes() == CONTENT
    if kept < len(CONTENT):
        assert ranges_asked(resource)[1:] == [f"bytes={kept}-"]
