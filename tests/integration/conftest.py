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
    from pack.tests.support.standins import furnish

    with Server(furnish(tmp_path_factory.mktemp("server"))) as running:
        yield running
