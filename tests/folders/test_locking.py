"""Two commands on one folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pack.folders.errors import FolderError
from pack.folders.listing import Shard
from pack.folders.locking import alone

PACK_ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, types
from pathlib import Path
pack = types.ModuleType("pack")
pack.__path__ = [sys.argv[1]]
sys.modules["pack"] = pack
sys.path.pop(0)
from pack.folders.listing import Shard
from pack.folders.locking import alone
with alone(Path(sys.argv[2]), Shard(*map(int, sys.argv[3].split("/")))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
    """A function that lets another process hold a shard."""
    holders = []

    def hold(shard: str) -> subprocess.Popen:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(PACK_ROOT), str(tmp_path / "lock"), shard],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        holders.append(holder)
        assert holder.stdout.readline() == "held\n"
        return holder

    yield hold
    for holder in holders:
        holder.kill()
        holder.communicate()


def is_free(folder: Path, number: int, count: int) -> bool:
    try:
        with alone(folder / "lock", Shard(number, count)):
            return True
    except FolderError as error:
        assert "--shard" in str(error)  # noqa: PT017 - either may happen
        return False


def test_two_commands_exclude_each_other_until_one_is_killed(held, tmp_path):
    holder = held("1/1")
    assert not is_free(tmp_path, 1, 1)
    assert not is_free(tmp_path, 2, 3)
    holder.kill()
    holder.wait()
    assert is_free(tmp_path, 1, 1)


def test_shards_exclude_each_other_where_they_share_pictures(held, tmp_path):
    held("1/3")
    assert [is_free(tmp_path, *shard) for shard in [(1, 3), (2, 3), (3, 3)]] == [False, True, True]
    assert [is_free(tmp_path, *shard) for shard in [(1, 2), (2, 2), (1, 1)]] == [False, True, False]
