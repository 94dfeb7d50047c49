"""The import direction of the pack, read from every file's source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACK_ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {  # our own parts, by the part that imports; a part may always import itself
    "__init__.py": {"nodes"},
    "dev.py": set(),
    "nodes": {"pipelines", "model_loaders", "samplers", "images"},
    "pipelines": {"model_loaders", "samplers", "images", "videos"},
    "model_loaders": {"networks", "samplers", "images"},
    "networks": {"images"},
    "samplers": set(),
    "images": set(),
    "videos": set(),
    "model_files": {"model_loaders"},
    "folders": {"videos"},
    "training": {"model_loaders", "networks", "samplers", "images", "pipelines", "benchmarks"},
    "benchmarks": {"model_loaders", "networks", "samplers", "images", "pipelines", "training"},
}
MAY_IMPORT["benchmarks"] |= {"folders", "videos"}
MAY_IMPORT["tests"] = {*MAY_IMPORT, "networks"} - {"__init__.py", "nodes"}
OWN = {Path(name).stem for name in MAY_IMPORT} - {"__init__"}
COMFY = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths"}
COMFY |= {"latent_preview", "node_helpers", "nodes", "server"}
MAY_IMPORT_COMFY = {"nodes", "pipelines", "model_loaders", "tests", "benchmarks", "training"}
MAY_IMPORT_COMFY |= {"folders"}
BUILDING_BLOCKS = ("comfy.ldm.modules", "comfy.ops", "comfy.patcher_extension")
LIBRARIES = {"dev.py": set(), "samplers": {"torch"}, "images": {"torch", "numpy", "PIL", "av"}}
LIBRARIES["model_files"] = {"safetensors"}
LIBRARIES["videos"] = {"av", "numpy"}


def part_of(path: tuple[str, ...]) -> str:
    """Return the part that a module (path from the root) belongs to."""
    if path[:2] == ("model_loaders", "networks"):
        return "networks"
    return next((part for part in (path[0], f"{path[0]}.py") if part in MAY_IMPORT), path[0])


def imports() -> Iterator[tuple[str, str, str, bool]]:
    """Yield file, its part, the imported module's dotted path, whether it is the pack's own."""
    folders = [PACK_ROOT / part for part in MAY_IMPORT if not part.endswith(".py")]
    files = [
        *PACK_ROOT.glob("*.py"),
        *(file for folder in folders for file in folder.rglob("*.py")),
    ]
    for file in files:
        path = file.relative_to(PACK_ROOT).parts
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [(alias.name.split("."), 0) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module.split(".") if node.module else []
                modules = [([*base, alias.name], node.level) for alias in node.names]
            else:
                continue
            for module, level in modules:
                own = level > 0 or module[0] == "pack"
                above = list(path[: len(path) - level]) if level else []
                name = ".".join(above + module[0 if level else module[0] == "pack" :])
                yield str(Path(*path)), part_of(path), name, own


def test_files_of_every_part_are_read():
    assert {part for _, part, _, _ in imports()} == MAY_IMPORT.keys()


def test_own_imports_follow_the_direction_and_nothing_imports_nodes():
    wrong = [
        f"{file} imports {name}"
        for file, part, name, own in imports()
        if own and part_of(tuple(name.split("."))) not in MAY_IMPORT[part] | {part}
    ]
    assert not wrong


def test_own_modules_are_never_imported_absolutely():
    wrong = [
        f"{file} imports {name}"
        for file, part, name, own in imports()
        if not own and name.split(".")[0] in OWN
        if not (part in ("tests", "benchmarks") and name == "nodes")  # ComfyUI's
    ]
    assert not wrong


def test_only_the_layers_on_comfyui_import_it():
    wrong = [
        f"{file} imports {name}"
        for file, part, name, own in imports()
        if not own and name.split(".")[0] in COMFY and part not in MAY_IMPORT_COMFY
        if not (part == "networks" and name.startswith(BUILDING_BLOCKS))
        if not (part == "__init__.py" and name.startswith("comfy_api."))
    ]  # fmt: skip
    assert not wrong


def test_the_pure_layers_import_only_their_libraries():
    wrong = [
        f"{file} imports {name}"
        for file, part, name, own in imports()
        if not own and part in LIBRARIES
        if name.split(".")[0] not in LIBRARIES[part] | sys.stdlib_module_names
    ]
    assert not wrong
