"""Loads the pack as ComfyUI does, in a process of its own, and prints what that changed as JSON.

Arguments: ComfyUI's folder, a base directory for it, the pack's folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLAIN_PYPROJECT = '[project]\nname = "plain"\nversion = "1.0.0"\n'
PLAIN_PACK = """
from comfy_api.latest import ComfyExtension

class Nothing(ComfyExtension):
    async def get_node_list(self):
        return []

async def comfy_entrypoint():
    return Nothing()
"""
# Where ComfyUI itself enters a pack that it loads.
REGISTRIES = ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "LOADED_MODULE_DIRS")
REGISTRIES += ("EXTENSION_WEB_DIRS",)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
WRITING_EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink")
WRITING_EVENTS += ("os.truncate", "os.chmod", "os.utime", "shutil.", "tempfile.", "sqlite3.")
STARTING_EVENTS = ("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn")


def main() -> None:
    comfyui, base, pack = sys.argv[1:]
    sys.path[0] = comfyui
    sys.dont_write_bytecode = True
    os.chdir(base)  # for ComfyUI's log file
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = base
    args.database_url = "sqlite:///:memory:"
    import app.logger
    import utils.extra_config  # noqa: F401 - before nodes.py puts another `utils` first

    app.logger.setup_logger(log_level="INFO")
    import execution  # noqa: F401 - main.py imports these as well
    import server  # noqa: F401

    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())
    # A pack of no nodes first: what ComfyUI imports to load any pack is not ours.
    plain = Path(base) / "custom_nodes" / "plain"
    plain.mkdir(parents=True)
    (plain / "__init__.py").write_text(PLAIN_PACK)
    (plain / "pyproject.toml").write_text(PLAIN_PYPROJECT)
    assert asyncio.run(nodes.load_custom_node(str(plain), module_parent="custom_nodes"))

    known = dict(nodes.NODE_CLASS_MAPPINGS)
    menus = {name: repr(node.INPUT_TYPES()) for name, node in known.items()}
    tempfile.gettempdir()  # found out once, by whoever asks first; here by watching()
    modules = set(sys.modules)
    files = {file_of(name) for name in modules} - {None}
    own = pack.replace(".", "_x_")  # ComfyUI's name for the module of a pack
    before, settings = take_globals(modules), take_settings()
    with watching() as seen:
        loaded = asyncio.run(nodes.load_custom_node(pack, module_parent="custom_nodes"))
    after, settings_after = take_globals(modules), take_settings()
    added = set(sys.modules) - modules
    found = {
        "loaded": loaded,
        "nodes": sorted(nodes.NODE_CLASS_MAPPINGS.keys() - known.keys()),
        "replaced nodes": [
            key for key in known if nodes.NODE_CLASS_MAPPINGS[key] is not known[key]
        ],
        "changed menus": [key for key in known if repr(known[key].INPUT_TYPES()) != menus[key]],
        # ComfyUI runs the files of its own nodes under their paths; imported by name they are
        # modules once more, but nothing new.
        "new modules": sorted(
            key
            for key in added
            if file_of(key) not in files and key != own and not key.startswith(f"{own}.")
        ),
        # An imported module becomes an attribute of the package around it.
        "changed globals": sorted(differences(before, after) - added),
        "changed settings": [key for key in settings if settings_after[key] != settings[key]],
    }
    print(json.dumps(found | seen))  # noqa: T201 - read by the test


def file_of(name: str) -> str | None:
    """Return the file of an imported module."""
    return getattr(sys.modules[name], "__file__", None)


def take_globals(modules: set[str]) -> dict[str, tuple[Any, ...]]:
    """Return every attribute of these modules and of their classes, containers with their items.

    The objects are kept, not their ids, so that none can be freed and its id given again.
    """
    taken = {}
    for name in sorted(modules):
        module = sys.modules.get(name)
        if not isinstance(module, types.ModuleType) or name in ("__main__", "__mp_main__"):
            continue
        for key, value in list(vars(module).items()):
            if any(value is one for one in (sys.modules, sys.path_importer_cache)):
                continue
            if name == "re" and key.startswith("_cache"):  # patterns that were compiled
                continue
            if name == "nodes" and key in REGISTRIES:
                continue
            taken[f"{name}.{key}"] = items_of(value)
            if isinstance(value, type) and value.__module__ == name:
                for member, held in list(vars(value).items()):
                    taken[f"{name}.{key}.{member}"] = items_of(held)
    return taken


def items_of(value: Any) -> tuple[Any, ...]:
    """Return a value followed by what it holds, if it is a container."""
    if type(value) is dict:
        return (value, *value.keys(), *value.values())
    if type(value) in (list, tuple, set):
        return (value, *value)
    return (value,)


def differences(before: dict[str, tuple], after: dict[str, tuple]) -> set[str]:
    """Return the names whose objects are not the same, or hold others."""
    return {
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not same(before[name], after[name])
    }


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Return whether two tuples hold the same objects, or equal numbers and texts."""
    return len(one) == len(other) and all(
        a is b or (type(a) is type(b) and isinstance(a, (int, float, str)) and a == b)
        for a, b in zip(one, other, strict=True)
    )


def take_settings() -> dict[str, Any]:
    """Return what a program sets for all of its parts."""
    import folder_paths
    import numpy as np
    import torch

    root = logging.getLogger()
    return {
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark),
        "mkldnn": torch.backends.mkldnn.enabled,
        "attention": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
        ),
        "torch's random numbers": torch.get_rng_state().tolist(),
        "Python's random numbers": random.getstate(),
        "numpy's random numbers": repr(np.random.get_state()),
        "log": (root.level, [id(handler) for handler in root.handlers], logging.root.manager.disable),
        "log levels": {
            name: (logger.level, [id(handler) for handler in logger.handlers], logger.disabled)
            for name, logger in logging.root.manager.loggerDict.items()
            if isinstance(logger, logging.Logger) and (logger.level or logger.handlers)
        },
        "warnings": [repr(one) for one in warnings.filters],
        "environment": dict(os.environ),
        "path": list(sys.path),
        "import hooks": [id(one) for one in (*sys.meta_path, *sys.path_hooks)],
        "exception hooks": (id(sys.excepthook), id(threading.excepthook)),
        "folder": os.getcwd(),
        "model folders": repr(folder_paths.folder_names_and_paths),
        "signals": {str(one): str(signal.getsignal(one)) for one in signal.valid_signals()},
        "running threads": sorted(thread.name for thread in threading.enumerate()),
    }  # fmt: skip


@contextlib.contextmanager
def watching() -> Iterator[dict[str, Any]]:
    """Yield a record of files read and written, connections, processes, output and log records."""
    seen: dict[str, Any] = {"read": [], "written": [], "connections": [], "processes": []}
    records: list[logging.LogRecord] = []
    active = True

    def hook(event: str, arguments: tuple) -> None:
        if not active:
            return
        if event == "open":
            path, _, flags = arguments
            seen["written" if flags & WRITING else "read"].append(str(path))
        elif event.startswith("socket.") and event != "socket.__new__":  # asyncio's own pair
            seen["connections"].append(f"{event} {arguments[1:]}")
        elif event.startswith(STARTING_EVENTS):
            seen["processes"].append(f"{event} {arguments[0]}")
        elif event.startswith(WRITING_EVENTS):
            seen["written"].append(f"{event} {arguments[0]}")

    handler = logging.Handler()
    handler.emit = records.append
    with tempfile.TemporaryFile() as output:
        kept = [os.dup(descriptor) for descriptor in (1, 2)]
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
        logging.getLogger().addHandler(handler)
        sys.addaudithook(hook)
        try:
            yield seen
        finally:
            active = False
            logging.getLogger().removeHandler(handler)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for descriptor, old in zip((1, 2), kept, strict=True):
                os.dup2(old, descriptor)
            output.seek(0)
            seen["printed"] = output.read().decode("utf-8", "replace")
            seen["logged"] = [f"{one.levelname} {one.getMessage()}" for one in records]


if __name__ == "__main__":
    main()
