"""Starts a real ComfyUI server and talks to it over HTTP and its websocket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from PIL import Image

PACK_ROOT = Path(__file__).resolve().parents[2]
LEASH = Path(__file__).with_name("leash.py")
START_TIMEOUT_S = 180
RUN_TIMEOUT_S = 300
PREVIEW_EVENTS = (1, 4)  # PREVIEW_IMAGE and PREVIEW_IMAGE_WITH_METADATA
END_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass
class Run:
    """What a prompt sent over the websocket until it ended.

    Attributes:
        prompt_id: The server's id of the prompt.
        end: The event that ended it.
        events: Names and data of all events.
        previews: Number of preview pictures.
        outputs: Outputs by node id, from the history.
    """

    prompt_id: str
    end: str = ""
    events: list[tuple[str, Any]] = field(default_factory=list)
    previews: int = 0
    outputs: dict[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> list[Any]:
        """Return the data of all events of a name."""
        return [data for event, data in self.events if event == name]


class Server:
    """A ComfyUI server in its own process, stopped when the block ends.

    Args:
        base: Its base directory; holds input, output, models and custom_nodes.
        pack_name: Folder name under which it sees this pack; None if the pack lies there already.
        cwd: Directory it is started from.
    """

    def __init__(
        self, base: Path, pack_name: str | None = "resshift-diffbir", cwd: Path | None = None
    ):
        self.base = base
        self.cwd = cwd or base
        if pack_name is not None:
            (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
            (base / "custom_nodes" / pack_name).symlink_to(PACK_ROOT, target_is_directory=True)
        self.log_path = base / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        command = [
            sys.executable,
            str(LEASH),
            sys.executable,
            str(Path(os.environ["COMFYUI_PATH"]) / "main.py"),
            "--cpu",
            "--force-fp32",
            "--port",
            str(self.port),
            "--disable-auto-launch",
            "--base-directory",
            str(self.base),
            "--database-url",
            "sqlite:///:memory:",
            "--preview-method",
            "latent2rgb",
        ]
        self._log = self.log_path.open("wb")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self.cwd,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("/system_stats")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.3)  # nothing to wait on before the port opens
            else:
                return self
        self.__exit__()
        raise RuntimeError(f"ComfyUI did not start:\n{self.log()[-3000:]}")

    def __exit__(self, *_: object) -> None:
        stdin: Any = self.process.stdin
        stdin.close()  # which ends the server at the latest after a while, see leash.py
        self.process.wait()
        self._log.close()

    @property
    def pid(self) -> int:
        """The process of ComfyUI itself."""
        (comfyui,) = psutil.Process(self.process.pid).children()
        return comfyui.pid

    def log(self) -> str:
        """Return what the server has logged."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return json.load(response)

    def post(self, path: str, content: Any) -> tuple[int, Any]:
        """Return status and JSON of a request; an empty body gives None."""
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(content).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                body = response.read()
                return response.status, json.loads(body) if body else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def run(
        self, prompt: dict[str, Any], on_event: Callable[[str, Any], None] | None = None
    ) -> Run:
        """Queue a prompt, follow it to its end and return what happened.

        Args:
            prompt: The prompt in API form.
            on_event: Called with every event of the prompt while it runs.
        """
        run = asyncio.run(asyncio.wait_for(self._follow(prompt, on_event), RUN_TIMEOUT_S))
        history = self.get(f"/history/{run.prompt_id}")
        run.outputs = history[run.prompt_id]["outputs"]
        return run

    def wait(self, prompt_id: str) -> Run:
        """Return what came of a prompt that was queued with `post`, from the history."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while not (found := self.get(f"/history/{prompt_id}").get(prompt_id)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"prompt {prompt_id} did not end")
            time.sleep(0.05)  # the history tells nobody that it has grown
        events = [(name, data) for name, data in found["status"]["messages"]]
        ends = [name for name, _ in events if name in END_EVENTS]
        return Run(prompt_id, ends[-1], events, outputs=found["outputs"])

    def interrupt(self) -> None:
        """Stop the running prompt."""
        self.post("/interrupt", {})

    def picture(self, run: Run, node_id: str, index: int = 0) -> Image.Image:
        """Return a saved picture of a run."""
        saved = run.outputs[node_id]["images"][index]
        query = f"filename={saved['filename']}&subfolder={saved['subfolder']}&type={saved['type']}"
        with urllib.request.urlopen(f"{self.url}/view?{query}", timeout=30) as response:
            return Image.open(BytesIO(response.read())).convert("RGB")

    async def _follow(
        self, prompt: dict[str, Any], on_event: Callable[[str, Any], None] | None
    ) -> Run:
        client_id = str(uuid.uuid4())
        features = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/ws?clientId={client_id}", max_msg_size=0) as socket,
        ):
            await socket.send_json(features)
            body = {"prompt": prompt, "client_id": client_id}
            async with session.post(f"{self.url}/prompt", json=body) as response:
                answer = await response.json()
                assert response.status == 200, f"the prompt was refused: {answer}"
            run = Run(answer["prompt_id"])
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    run.previews += int.from_bytes(message.data[:4], "big") in PREVIEW_EVENTS
                    continue
                event = json.loads(message.data)
                name, data = event["type"], event["data"]
                if data.get("prompt_id", run.prompt_id) != run.prompt_id:
                    continue
                run.events.append((name, data))
                if on_event is not None:
                    await asyncio.to_thread(on_event, name, data)
                if name in END_EVENTS:
                    run.end = name
                elif run.end and name == "executing" and data["node"] is None:
                    return run  # sent once the history holds the outputs
        raise RuntimeError(f"the server closed the connection:\n{self.log()[-3000:]}")
