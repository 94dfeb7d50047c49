"""A ComfyUI for the tests of this folder, in process and as a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pack.tests.support.comfy_client import Server
    from pack.tests.support.running import InProcessComfy


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> InProcessComfy:
    """A real ComfyUI in this process with this pack, sample pictures and stand-in weights."""
    from pack.tests.support.running import InProcessComfy
    from pack.tests.support.standins import furnish

    base = tmp_path_factory.mktemp("comfy")
    made = InProcessComfy(base)
    furnish(base)
    return made


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real ComfyUI server with this pack, sample pictures and stand-in weights."""
    from pack.tests.support.comfy_client import Server
    from pack.tests.support.standins import furnished

    with furnished(tmp_path_factory, "server") as base, Server(base) as running:
        yield running


@pytest.fixture(scope="module")
def wrong_use_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that also has tiny right files, wrong ones, and nodes that emit what no file holds."""
    from pack.tests.support.bad_files import write_bad_files
    from pack.tests.support.bad_input_graphs import EMITTERS
    from pack.tests.support.bad_input_video import write_bad_videos
    from pack.tests.support.comfy_client import Server
    from pack.tests.support.standins import furnished

    with furnished(tmp_path_factory, "wrong_use") as base:
        write_bad_files(base / "models")
        write_bad_videos(base / "input")
        (base / "custom_nodes").mkdir()
        (base / "custom_nodes" / "emitters.py").write_text(EMITTERS, encoding="utf-8")
        with Server(base) as running:
            yield running
