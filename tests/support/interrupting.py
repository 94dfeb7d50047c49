"""Runs that are interrupted in the midst of their longest node."""

from __future__ import annotations

from typing import Any

from pack.tests.support.bad_input_graphs import Prompt
from pack.tests.support.comfy_client import Run, Server


def long_node(prompt: Prompt) -> str:
    """Return the id of the node that a prompt of `graph` takes its time in."""
    return "sampler" if "sampler" in prompt else "node"


def run_interrupted(server: Server, prompt: Prompt) -> Run:
    """Return what came of a run that was interrupted once its long node was at work.

    That is told by its first progress, or by its start where it tells none.
    """
    long = long_node(prompt)
    kind = prompt[long]["class_type"]
    tells = "steps" in prompt[long]["inputs"] or kind == "DiffBIRRemoveDegradation"
    sent: list[str] = []

    def stop(name: str, data: Any) -> None:
        if name == ("progress" if tells else "executing") and data["node"] == long and not sent:
            sent.append(name)
            server.interrupt()

    return server.run(prompt, stop)
