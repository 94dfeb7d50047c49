"""The real frontend in Chromium, on a real ComfyUI server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from pack.tests.support.browser import Frontend
    from pack.tests.support.comfy_client import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real ComfyUI server with this pack, sample pictures and stand-in weights."""
    from pack.tests.support.comfy_client import Server
    from pack.tests.support.standins import furnished

    with furnished(tmp_path_factory, "browser") as base, Server(base) as running:
        yield running


@pytest.fixture(scope="session")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real ComfyUI as a new user has it: this pack, no weights, no pictures, no settings."""
    from pack.tests.support.comfy_client import Server

    with Server(tmp_path_factory.mktemp("new")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium.

    Not for the whole session: while it is open, Playwright's event loop runs in this thread, and
    tests that run ComfyUI in this process need one of their own.
    """
    from pack.tests.support.browser import open_browser

    with open_browser() as running:
        yield running


@pytest.fixture(scope="module")
def frontend(server: Server, browser: Browser) -> Frontend:
    """The frontend, opened in headless Chromium."""
    from pack.tests.support.browser import open_page

    return open_page(browser, server.url)
