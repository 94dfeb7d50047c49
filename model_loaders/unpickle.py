"""Writes the weights in a pickle that ComfyUI refuses as safetensors.

Usage: python unpickle.py FILE

Reading such a file may run code that it holds: only for files whose source is trusted.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

TARGET = "converted.safetensors"


def convert(path: Path) -> tuple[Path, int]:
    """Return the safetensors file with the weights of a trusted pickle, and how many there are.

    Args:
        path: What `torch.save` wrote: weights under any key, or a whole network.
    Raises:
        ValueError: If it holds no weights.
    """
    checkpoint: Any = importlib.import_module("pack.model_loaders.checkpoint")

    def without_modules(content: Any) -> Any:
        if isinstance(content, torch.nn.Module):
            return content.state_dict()
        if isinstance(content, dict):
            return {key: without_modules(value) for key, value in content.items()}
        return content

    content = without_modules(torch.load(path, weights_only=False, map_location="cpu"))
    weights, _ = checkpoint.open_wrappers(content)
    if not weights:
        found = list(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{path.name} holds no weights under a key that is known here; it holds {found}. Save"
            " the weights alone: torch.save(network.state_dict(), path)."
        )
    target = path.with_name(TARGET)
    # Contiguous and without shared memory, as the format wants them.
    save_file({key: tensor.contiguous().clone() for key, tensor in weights.items()}, target)
    return target, len(weights)


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit status."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        target, count = convert(Path(arguments[0]))
    except (ValueError, OSError, ImportError, AttributeError) as error:
        print(f"Nothing was written: {error}", file=sys.stderr)
        return 1
    print(f"{count} tensors are in {target}.")
    return 0


if __name__ == "__main__":
    pack = types.ModuleType("pack")
    pack.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["pack"] = pack
    sys.path.pop(0)  # this folder, whose modules are the pack's
    sys.exit(main(sys.argv[1:]))
