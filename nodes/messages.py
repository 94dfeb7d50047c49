"""Names the node in the messages of what it calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from comfy_api.latest import io

Returned = TypeVar("Returned")


def names_its_node(execute: Callable[..., Returned]) -> Callable[..., Returned]:
    """Return an `execute` whose value and file errors begin with the node's display name.

    Errors of other kinds (out of memory, interrupt, faults of the program) pass unchanged.
    """

    @functools.wraps(execute)
    def named(cls: type[io.ComfyNode], *args: object, **kwargs: object) -> Returned:
        try:
            return execute(cls, *args, **kwargs)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{cls.define_schema().display_name}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{cls.define_schema().display_name}: {error}") from error

    return named
