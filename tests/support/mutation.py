"""Weight files and seeded ways to damage them."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

Weights = dict[str, Tensor]
Random = np.random.Generator

# Numbers that a damaged length, shape or offset may hold.
ODD_NUMBERS = (-1, 0, 1, 2, 3, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**64)
ODD_VALUES = (*ODD_NUMBERS, None, True, 0.5, 1e300, "", "text", [], {}, [1, 2])
ODD_DTYPES = (torch.int8, torch.bool, torch.float64, torch.complex64, torch.uint8, torch.float16)


class Intruder:
    """Pickles to a call that makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def as_safetensors(weights: Weights, metadata: dict[str, str]) -> bytes:
    """Return the bytes of a safetensors file."""
    return save({key: tensor.contiguous() for key, tensor in weights.items()}, metadata)


def as_zip_pickle(content: object) -> bytes:
    """Return the bytes of a file of `torch.save`."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def mutate_weights(weights: Weights, random: Random) -> Weights:
    """Return the weights with one to three tensors renamed, left out, reshaped or of other kind."""
    changed = dict(weights)
    for _ in range(random.integers(1, 4)):
        key = str(random.choice(list(changed)))
        tensor = changed.pop(key)
        way = random.integers(10)
        if way == 0:
            continue
        if way == 1:
            key = key.replace(*random.choice([("0", "1"), ("1", "77"), (".weight", ".bias")]))
        elif way == 2:
            tensor = tensor.flatten()
        elif way == 3:
            tensor = tensor[:0]
        elif way == 4:
            tensor = tensor.reshape(1, *tensor.shape)
        elif way == 5:
            tensor = tensor.movedim(0, -1) if tensor.ndim else tensor.reshape(1, 1)
        elif way == 6:
            tensor = tensor.to(ODD_DTYPES[random.integers(len(ODD_DTYPES))])
        elif way == 7:
            tensor = torch.tensor(1.0)
        elif way == 8:
            tensor = tensor.repeat_interleave(int(random.integers(2, 5)), dim=0)
        else:
            tensor = tensor.flatten().reshape(-1, *(1 for _ in tensor.shape[1:]))
        changed[key] = tensor
    return changed


def mutate_bytes(content: bytes, random: Random, start: int = 0, stop: int | None = None) -> bytes:
    """Return the bytes with some flipped, cut, taken out, doubled or exchanged within a range."""
    stop = len(content) if stop is None else min(stop, len(content))
    first, second = sorted(int(place) for place in random.integers(start, stop, 2))
    way = random.integers(6)
    if way == 0:
        return content[:first]
    if way == 1:
        return content[:first] + content[second:]
    if way == 2:
        return content[:first] + content[first:second] * 2 + content[second:]
    if way == 3:
        middle = random.bytes(min(16, second - first))
        return content[:first] + middle + content[first + len(middle) :]
    changed = bytearray(content)
    for place in random.integers(start, stop, random.integers(1, 5)):
        changed[place] ^= 1 << random.integers(8)
    return bytes(changed)


def mutate_safetensors(content: bytes, random: Random) -> bytes:
    """Return a safetensors file with its header or its length damaged, or its bytes anywhere."""
    size = int.from_bytes(content[:8], "little")
    way = random.integers(4)
    if way == 0:
        return mutate_bytes(content, random)
    if way == 1:
        return mutate_bytes(content, random, 8, 8 + size)
    if way == 2:
        length = [*ODD_NUMBERS[1:-1], size - 1, size + 1][random.integers(len(ODD_NUMBERS))]
        return int(length).to_bytes(8, "little") + content[8:]
    header = json.loads(content[8 : 8 + size])
    mutate_header(header, random)
    edited = json.dumps(header).encode()
    return len(edited).to_bytes(8, "little") + edited + content[8 + size :]


def mutate_header(header: dict[str, Any], random: Random) -> None:
    """Change entries of a parsed safetensors header, its text included."""
    names = [name for name in header if name != "__metadata__"]
    name, other = (str(key) for key in random.choice(names, 2))
    odd = ODD_VALUES[random.integers(len(ODD_VALUES))]
    way = random.integers(7)
    if way == 0:
        header[name] = odd
    elif way == 1:
        header[name]["shape"] = [odd, *header[name]["shape"][1:]]
    elif way == 2:
        header[name]["data_offsets"] = [header[name]["data_offsets"][0], odd]
    elif way == 3:
        header[name], header[other] = header[other], header[name]
    elif way == 4:
        dtypes = ("F16", "BF16", "I64", "BOOL", "U8", "F8_E4M3", "F4", "C64", "nothing", "")
        header[name]["dtype"] = str(random.choice(dtypes))
    elif way == 5:
        header[name]["shape"] = header[name]["shape"][::-1]
    else:
        mutate_metadata(header, random)


def mutate_metadata(header: dict[str, Any], random: Random) -> None:
    """Change the text of a safetensors header, or one value of a record in it."""
    texts = header.get("__metadata__") or {"resshift_config": "{}"}
    key = str(random.choice(list(texts)))
    odd = ODD_VALUES[random.integers(len(ODD_VALUES))]
    record = json.loads(texts[key])
    if not record or random.integers(3) == 0:
        texts = {**texts, key: [odd, str(odd), "{", "[]", "null"][random.integers(5)]}
    else:
        record[str(random.choice(list(record)))] = odd
        texts = {**texts, key: json.dumps(record)}
    header["__metadata__"] = texts


def mutate_zip_pickle(content: bytes, random: Random) -> bytes:
    """Return a file of `torch.save` damaged anywhere, in its directory, its pickle or its parts."""
    way = random.integers(4)
    if way == 0:
        return mutate_bytes(content, random)
    if way == 1:
        return mutate_bytes(content, random, max(0, len(content) - 600))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    names = list(parts)
    name, other = (str(part) for part in random.choice(names, 2))
    if way == 2:
        (name,) = (part for part in names if part.endswith("data.pkl"))
        parts[name] = mutate_pickle(parts[name], random)
    else:
        kind = random.integers(4)
        if kind == 0:
            del parts[name]
        elif kind == 1:
            parts[name], parts[other] = parts[other], parts[name]
        else:
            parts[name] = mutate_bytes(parts[name] or b"\0", random)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for part, data in parts.items():
            archive.writestr(part, data)
    return buffer.getvalue()


def mutate_pickle(content: bytes, random: Random) -> bytes:
    """Return a pickle with damaged bytes or with one of its small numbers, as shapes are, odd."""
    if random.integers(2):
        return mutate_bytes(content, random)
    places = [k for k, byte in enumerate(content[:-1]) if byte == pickle.BININT1[0]]
    place = places[random.integers(len(places))]
    number = int(random.choice([0, 1, 2**16, 2**31 - 1])).to_bytes(4, "little")
    return content[:place] + pickle.BININT + number + content[place + 2 :]
