"""What Ray starts on its machines. It is sent as it is, so it imports nothing of the pack itself."""

from __future__ import annotations

import importlib
import sys
import threading
import types
from typing import Any


class RayWorker:
    """Restores pictures in an actor; what is given and returned are lines of JSON."""

    def __init__(self, pack: str, job: Any):
        """Keep what is to be done; ComfyUI starts with the first picture.

        Args:
            pack: The pack's folder on every machine.
            job: A pickled `Job`.
        """
        module = types.ModuleType("pack")
        module.__path__ = [pack]
        sys.modules["pack"] = module
        self._job = job
        self._lock = threading.Lock()
        self._restorer: Any = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Restore the pictures of a batch; calls overlap, so that one reads while another restores."""
        remote = importlib.import_module("pack.folders.ray_engine")
        with self._lock:
            if self._restorer is None:
                self._restorer = remote.start_restorer(self._job)
        lines = [remote.restore_line(self._restorer, line, self._lock) for line in batch["text"]]
        return {"text": lines}
