"""Runs prompts in a real ComfyUI inside the test process."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any

import execution
import folder_paths
import torch

import nodes

PACK_ROOT = Path(__file__).resolve().parents[2]


class MessageRecorder:
    """Takes the messages that PromptExecutor sends to a browser."""

    def __init__(self) -> None:
        self.client_id = "test"
        self.last_node_id = None
        self.last_prompt_id = None
        self.sockets_metadata: dict[str, Any] = {}
        self.messages: list[tuple[str, Any]] = []

    def send_sync(self, event: str, data: Any, sid: str | None = None) -> None:
        self.messages.append((event, data))

    def queue_updated(self) -> None:
        self.messages.append(("queue_updated", None))


class Run:
    """What came of a prompt.

    Attributes:
        success: Whether it ran to its end.
        outputs: Results of its output nodes by node id.
        messages: What the browser was sent.
        error: The failing node's exception message, or None.
    """

    def __init__(self, executor: execution.PromptExecutor, recorder: MessageRecorder):
        self.success = executor.success
        self.outputs = executor.history_result["outputs"] if self.success else {}
        self.messages = recorder.messages
        errors = [data for event, data in recorder.messages if event == "execution_error"]
        self.error = errors[0]["exception_message"] if errors else None


class InProcessComfy:
    """A real ComfyUI with this pack loaded, its folders under `base`."""

    def __init__(self, base: Path):
        self.base = base
        for name in ("input", "output", "temp"):
            (base / name).mkdir(parents=True)
        folder_paths.set_input_directory(str(base / "input"))
        folder_paths.set_output_directory(str(base / "output"))
        folder_paths.set_temp_directory(str(base / "temp"))
        for kind in (
            "diffusion_models",
            "vae",
            "upscale_models",
            "controlnet",
            "checkpoints",
            "loras",
        ):
            (base / "models" / kind).mkdir(parents=True)
            folder_paths.add_model_folder_path(kind, str(base / "models" / kind), is_default=True)
        loaded = asyncio.run(_load_nodes())
        assert loaded, "ComfyUI could not load the pack"

    def run(self, prompt: dict[str, Any]) -> Run:
        """Validate and execute a prompt in API form."""
        prompt_id = str(uuid.uuid4())
        valid = asyncio.run(execution.validate_prompt(prompt_id, prompt, None))
        assert valid[0], f"the prompt is not valid: {valid[1]} {valid[3]}"
        recorder = MessageRecorder()
        executor = execution.PromptExecutor(
            recorder,
            cache_type=execution.CacheType.CLASSIC,
            cache_args={"lru": 0, "ram": 0, "ram_inactive": 0},
        )
        executor.execute(prompt, prompt_id, {"client_id": "test"}, valid[2])
        return Run(executor, recorder)

    def node(self, node_id: str) -> type:
        """Return a registered node class."""
        return nodes.NODE_CLASS_MAPPINGS[node_id]

    def call(self, node_id: str, *args: Any, **kwargs: Any) -> tuple:
        """Execute a node of this pack directly and return its outputs."""
        with torch.inference_mode():
            return self.node(node_id).execute(*args, **kwargs).result


async def _load_nodes() -> bool:
    await nodes.init_builtin_extra_nodes()
    return await nodes.load_custom_node(str(PACK_ROOT), module_parent="custom_nodes")


def pack_module(name: str) -> Any:
    """Return a module of the pack as ComfyUI imported it."""
    root = str(PACK_ROOT).replace(".", "_x_")
    return sys.modules[f"{root}.{name}"]
