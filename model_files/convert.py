"""Conversion of pickled weights to safetensors, with the record of how they were trained."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_file

from ..model_loaders.checkpoint import RECORD_KEY, read_checkpoint
from ..model_loaders.record import AUTO, find_record
from .manifest import ModelFile


def convert_checkpoint(file: ModelFile, path: Path) -> Path:
    """Write the weights of a file as safetensors next to it and return the new file.

    Tensors keep their dtypes; wrappers and the prefixes of parallel training are left out. A
    ResShift model gets its record into the header, so that it may be renamed. The original stays.

    Args:
        file: What it is.
        path: Where it lies; read weights-only, so that no code of it runs.
    Raises:
        ValueError: If the file is damaged, would have to run code to be read, or is a ResShift
            model of which nothing says how it was trained.
    """
    checkpoint = read_checkpoint(path, holder_prefixes=())
    metadata = {"format": "pt"}
    if file.folder == "diffusion_models":
        metadata[RECORD_KEY] = find_record(checkpoint, AUTO).to_json()
    # Contiguous and without shared memory, as the format wants them.
    weights = {key: tensor.contiguous().clone() for key, tensor in checkpoint.state_dict.items()}
    target = path.with_name(file.converted_name)
    part = path.with_name(file.converted_name + ".part")
    try:
        save_file(weights, part, metadata=metadata)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target
