"""A workflow in API form: its picture input, its results, its settings and its seeds."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import FolderError

Prompt = dict[str, dict[str, Any]]
SEED_INPUTS = ("seed", "noise_seed")
LARGEST_SEED = (1 << 53) - 1  # the page's numbers hold it exactly


@dataclass(frozen=True)
class Place:
    """An input of a node.

    Attributes:
        node: The node's id.
        name: The input's name.
    """

    node: str
    name: str


@dataclass(frozen=True)
class Workflow:
    """What is run for every picture.

    Attributes:
        prompt: The workflow in API form.
        picture: Where the picture's file is named.
        results: Where images arrive that are to be saved.
    """

    prompt: Prompt
    picture: Place
    results: tuple[Place, ...]

    def for_picture(
        self, name: str, sha256: str, same_seed: bool, largest: Mapping[Place, int] | None = None
    ) -> Prompt:
        """Return the workflow as the page would have it for one picture.

        Args:
            name: What its input is set to.
            sha256: Of the picture's content: with the workflow's seed it makes the picture's.
            same_seed: Keep the workflow's seed instead.
            largest: The largest seed of inputs that take no seed of the usual size.
        """
        prompt = copy.deepcopy(self.prompt)
        prompt[self.picture.node]["inputs"][self.picture.name] = name
        if not same_seed:
            for place in self.seeds():
                inputs = prompt[place.node]["inputs"]
                seed = derive_seed(inputs[place.name], sha256)
                inputs[place.name] = seed % ((largest or {}).get(place, LARGEST_SEED) + 1)
        return prompt

    def seeds(self) -> Iterator[Place]:
        """Yield where a seed is set."""
        for name, node in self.prompt.items():
            for key, value in node["inputs"].items():
                if key.rpartition(".")[2] in SEED_INPUTS and isinstance(value, int):
                    yield Place(name, key)

    def label(self, result: Place) -> str:
        """Return a name for a result that a folder may have."""
        return f"{result.node} {title(self.prompt, result.node)}".translate(
            {ord(sign): "_" for sign in '/\\:*?"<>|'}
        )


def derive_seed(seed: int, sha256: str) -> int:
    """Return a picture's seed, in [0, 2**53): its own, and the same wherever it is restored."""
    digest = hashlib.sha256(f"{seed} {sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & LARGEST_SEED


def read_workflow(
    path: Path, settings: Sequence[str], input_node: str | None, output_nodes: Sequence[str]
) -> Workflow:
    """Return a workflow from its file.

    Args:
        path: JSON in API form.
        settings: Changes, each `NODE.input=value`, the node by its id or title.
        input_node: The node that loads the picture, or `NODE.input`; None: the only Load Image
            before the results.
        output_nodes: The nodes whose images are saved; none: every Save Image.
    Raises:
        FolderError: It is no such workflow, or what is named is not there.
    """
    prompt = _read_prompt(path)
    for setting in settings:
        _apply(prompt, setting)
    results = [_place(prompt, name, ("images", "image")) for name in output_nodes]
    if not results:
        saving = [node for node in prompt if prompt[node]["class_type"] == "SaveImage"]
        results = [Place(node, "images") for node in saving]
    if not results:
        raise FolderError(
            f"{path} has no Save Image. Name the node whose images are to be saved with"
            f" --output-node. It has: {_names(prompt, prompt)}"
        )
    for result in results:
        if not _is_link(prompt[result.node]["inputs"][result.name]):
            raise FolderError(
                f"Nothing is connected to {result.name} of {_name(prompt, result.node)}."
            )
    before = _before(prompt, [result.node for result in results])
    picture = _find_picture(prompt, input_node, before)
    return Workflow(prompt, picture, tuple(dict.fromkeys(results)))


def settings_key(workflow: Workflow, others: dict[str, Any]) -> str:
    """Return a SHA-256 of all that decides a result but the picture: workflow and settings."""
    nodes = {node: {**data, "_meta": None} for node, data in workflow.prompt.items()}
    picture = workflow.picture
    nodes[picture.node] = {
        **nodes[picture.node],
        "inputs": {**nodes[picture.node]["inputs"], picture.name: None},
    }
    results = [[result.node, result.name] for result in workflow.results]
    told = [nodes, [picture.node, picture.name], results, others]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def title(prompt: Prompt, node: str) -> str:
    """Return a node's title as the page shows it, or else its class."""
    return prompt[node].get("_meta", {}).get("title") or prompt[node]["class_type"]


def _read_prompt(path: Path) -> Prompt:
    try:
        prompt = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FolderError(f"There is no workflow {path}.") from error
    except (ValueError, OSError) as error:
        raise FolderError(f"{path} cannot be read as a workflow: {error}") from error
    if isinstance(prompt, dict) and "nodes" in prompt and "links" in prompt:
        raise FolderError(
            f"{path} is a workflow as the page saves it. Open it there and take File, Export (API):"
            " that file is needed here."
        )
    if not isinstance(prompt, dict) or not prompt or not all(map(_is_node, prompt.values())):
        raise FolderError(
            f"{path} is no workflow in API form: an object of nodes, each with class_type and"
            " inputs. In the page, File, Export (API) writes one."
        )
    return prompt


def _is_node(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("class_type"), str)
        and isinstance(value.get("inputs"), dict)
    )


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _apply(prompt: Prompt, setting: str) -> None:
    where, equals, text = setting.partition("=")
    node_name, dot, name = where.rpartition(".")
    if not equals or not dot:
        raise FolderError(f"--set {setting}: write NODE.input=value, as in --set 5.steps=4.")
    node = _find(prompt, node_name)
    inputs = prompt[node]["inputs"]
    if name not in inputs or _is_link(inputs[name]):
        values = [key for key, value in inputs.items() if not _is_link(value)]
        raise FolderError(
            f"--set {setting}: {_name(prompt, node)} has no value {name!r}."
            f" It has: {', '.join(values) or 'none'}"
        )
    if isinstance(inputs[name], str):
        inputs[name] = text
        return
    try:
        inputs[name] = json.loads(text)
    except ValueError as error:
        raise FolderError(
            f"--set {setting}: the value is to be written like the present one,"
            f" {json.dumps(inputs[name])}."
        ) from error


def _find(prompt: Prompt, name: str) -> str:
    if name in prompt:
        return name
    found = [node for node in prompt if title(prompt, node) == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise FolderError(
            f"Several nodes are called {name!r}: {_names(prompt, found)}. Give an id."
        )
    raise FolderError(f"The workflow has no node {name!r}. It has: {_names(prompt, prompt)}")


def _place(prompt: Prompt, name: str, usual: Sequence[str]) -> Place:
    """Return the input that `NODE` or `NODE.input` means."""
    node_name, dot, input_name = name.rpartition(".")
    if dot and (node_name in prompt or name not in [title(prompt, node) for node in prompt]):
        node = _find(prompt, node_name)
        if input_name in prompt[node]["inputs"]:
            return Place(node, input_name)
    else:
        node = _find(prompt, name)
        for input_name in usual:
            if input_name in prompt[node]["inputs"]:
                return Place(node, input_name)
    raise FolderError(
        f"{_name(prompt, node)} has no such input. Write NODE.input with one of:"
        f" {', '.join(prompt[node]['inputs']) or 'none'}"
    )


def _before(prompt: Prompt, nodes: Sequence[str]) -> list[str]:
    """Return these nodes and all that they take something from."""
    found = dict.fromkeys(nodes)
    waiting = list(nodes)
    while waiting:
        for value in prompt[waiting.pop()]["inputs"].values():
            if _is_link(value) and value[0] in prompt and value[0] not in found:
                found[value[0]] = None
                waiting.append(value[0])
    return list(found)


def _find_picture(prompt: Prompt, input_node: str | None, before: Sequence[str]) -> Place:
    if input_node is not None:
        place = _place(prompt, input_node, ("image",))
        if place.node not in before:
            raise FolderError(f"No result depends on {_name(prompt, place.node)}.")
    else:
        loading = [node for node in before if prompt[node]["class_type"] == "LoadImage"]
        if len(loading) != 1:
            many = f"several Load Image: {_names(prompt, loading)}"
            raise FolderError(
                f"Before the results the workflow has {many if loading else 'no Load Image'}."
                " Name the node that is to load the pictures with --input-node."
            )
        place = Place(loading[0], "image")
    linked = [name for name, value in prompt[place.node]["inputs"].items() if _is_link(value)]
    if linked:
        raise FolderError(
            f"{_name(prompt, place.node)} takes {linked[0]} from another node, so it cannot read"
            " ahead. Set a value there instead."
        )
    return place


def _name(prompt: Prompt, node: str) -> str:
    return f"node {node} ({title(prompt, node)})"


def _names(prompt: Prompt, nodes: Sequence[str] | Prompt) -> str:
    return ", ".join(f"{node} ({title(prompt, node)})" for node in nodes)
