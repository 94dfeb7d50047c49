"""A local server with faults."""

from __future__ import annotations

import pytest


@pytest.fixture
def server(monkeypatch):
    from pack.tests.support.fault_server import fault_server

    monkeypatch.setenv("no_proxy", "*")
    with fault_server() as running:
        yield running
