"""Tiny models with their autoencoders, shared by the tests of this folder."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module")
def sr(tmp_path_factory):
    from pack.tests.support.objects import tiny_pair

    with torch.inference_mode():
        return tiny_pair(tmp_path_factory.mktemp("sr"))


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    from pack.tests.support.objects import folded_pair

    with torch.inference_mode():
        return folded_pair(tmp_path_factory.mktemp("folded"))


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    from pack.tests.support.objects import started_pair

    with torch.inference_mode():
        return started_pair(tmp_path_factory.mktemp("started"))


@pytest.fixture(scope="module")
def densely_started(tmp_path_factory):
    from pack.tests.support.objects import densely_started_pair

    with torch.inference_mode():
        return densely_started_pair(tmp_path_factory.mktemp("densely_started"))


@pytest.fixture(scope="module")
def inpaint(tmp_path_factory):
    from pack.tests.support.objects import inpaint_pair

    with torch.inference_mode():
        return inpaint_pair(tmp_path_factory.mktemp("inpaint"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The tiny networks of DiffBIR."""
    from pack.tests.support.diffbir import tiny_weights

    with torch.inference_mode():
        return tiny_weights(tmp_path_factory.mktemp("diffbir"))
