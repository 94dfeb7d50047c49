"""Reading of TensorFlow Lite's files without TensorFlow: the layers and weights of a graph.

The format is a flatbuffer: a table is a position with, before it, the place of a list of its fields'
offsets. Field numbers below are those of TensorFlow Lite's `schema.fbs`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model_loaders.networks.layer_list import Layer

FLOAT16 = 1
INT32 = 2
NUMPY_TYPES = {0: "<f4", FLOAT16: "<f2", INT32: "<i4"}
ADD, CONV, DEPTHWISE, DEPTH_TO_SPACE, DEQUANTIZE, SIGMOID = 0, 3, 4, 5, 6, 14
MAX_POOL, RESHAPE, RESIZE_BILINEAR, PAD, PRELU, DENSIFY = 17, 22, 23, 34, 54, 124
SAME = 0
RELU = 1
SPARSE = 1


class Table:
    """A table of a flatbuffer."""

    def __init__(self, data: bytes, position: int):
        self.data, self.position = data, position
        self.fields = position - struct.unpack_from("<i", data, position)[0]

    def number(self, field: int, kind: str = "i", default: int = 0) -> int:
        """Return a number, `kind` as `struct` names it."""
        at = self._at(field)
        return struct.unpack_from("<" + kind, self.data, at)[0] if at else default

    def table(self, field: int) -> Table | None:
        """Return a table, None where the field is not set."""
        at = self._at(field)
        return Table(self.data, self._follow(at)) if at else None

    def tables(self, field: int) -> list[Table]:
        """Return a list of tables."""
        first, count = self._vector(field)
        return [Table(self.data, self._follow(first + 4 * index)) for index in range(count)]

    def numbers(self, field: int, kind: str = "<i4") -> np.ndarray:
        """Return a list of numbers, `kind` as numpy names it."""
        first, count = self._vector(field)
        return np.frombuffer(self.data, kind, count, first)

    def _at(self, field: int) -> int:
        place = 4 + 2 * field
        if place >= struct.unpack_from("<H", self.data, self.fields)[0]:
            return 0
        offset = struct.unpack_from("<H", self.data, self.fields + place)[0]
        return self.position + offset if offset else 0

    def _follow(self, at: int) -> int:
        return at + struct.unpack_from("<I", self.data, at)[0]

    def _vector(self, field: int) -> tuple[int, int]:
        at = self._at(field)
        if not at:
            return 0, 0
        first = self._follow(at)
        return first + 4, struct.unpack_from("<I", self.data, first)[0]


def read_graph(data: bytes) -> tuple[list[Layer], list[int], dict[str, Tensor]]:
    """Return layers, the numbers of the output maps, and weights of a `.tflite` file.

    Args:
        data: The file; its one input is a picture, its operators are those of `MAKERS`.
    Raises:
        ValueError: If it has an operator or a type that is not known here.
    """
    model = Table(data, struct.unpack_from("<I", data, 0)[0])
    codes = [max(code.number(0, "b"), code.number(3)) for code in model.tables(1)]
    graph = model.tables(2)[0]
    tensors, buffers = graph.tables(0), model.tables(4)
    constants = {
        number: _constant(tensor, buffers[tensor.number(2, "I")])
        for number, tensor in enumerate(tensors)
        if len(buffers[tensor.number(2, "I")].numbers(0, "u1"))
    }
    (picture,) = graph.numbers(1)
    layers, weights = [], {}
    for operator in graph.tables(3):
        code = codes[operator.number(0, "I")]
        inputs, (output,) = operator.numbers(1).tolist(), operator.numbers(2).tolist()
        if code in (DEQUANTIZE, DENSIFY):  # the constant in another form
            constants[output] = constants[inputs[0]]
            continue
        if code not in MAKERS:
            raise ValueError(f"the graph has the operator {code}, which is not known here.")
        shape = tensors[inputs[0]].numbers(0)
        kind, kept, options = MAKERS[code](
            operator.table(4), [constants[given] for given in inputs if given in constants], shape
        )
        maps = tuple(0 if given == picture else given for given in inputs if given not in constants)
        fixed = [given for given in inputs if given in constants][: len(kept)]
        names = tuple(f"w{given}" for given in fixed)  # one constant may serve several layers
        weights |= dict(zip(names, kept, strict=True))
        layers.append(Layer(kind, maps, output, names, options))
    return layers, graph.numbers(2).tolist(), weights


def _constant(tensor: Table, buffer: Table) -> Tensor:
    kind = tensor.number(1, "b")
    if kind not in NUMPY_TYPES:
        raise ValueError(f"the graph has a tensor of the type {kind}, which is not known here.")
    shape = tensor.numbers(0).tolist()
    values = buffer.numbers(0, "u1").view(NUMPY_TYPES[kind])
    sparsity = tensor.table(6)
    if sparsity is not None:
        values = _dense(values, shape, sparsity)
    return torch.from_numpy(values.reshape(shape).copy())


def _dense(values: np.ndarray, shape: list[int], sparsity: Table) -> np.ndarray:
    """Return a tensor that is stored by the places of what is not 0, its dimensions in order."""
    order, dimensions = sparsity.numbers(0), sparsity.tables(2)
    if order.tolist() != list(range(len(shape))):
        raise ValueError("the graph has a tensor that is stored in blocks.")
    places = np.zeros((1, 0), int)
    for dimension, side in zip(dimensions, shape, strict=True):
        if dimension.number(0, "b") == SPARSE:
            segments = _indices(dimension, 2)
            inner = _indices(dimension, 4)
            parents = np.repeat(np.arange(len(places)), np.diff(segments))
        else:
            inner = np.tile(np.arange(side), len(places))
            parents = np.repeat(np.arange(len(places)), side)
        places = np.column_stack([places[parents], inner])
    dense = np.zeros(shape, values.dtype)
    dense[tuple(places.T)] = values[: len(places)]
    return dense


def _indices(dimension: Table, kind_field: int) -> np.ndarray:
    vector = dimension.table(kind_field + 1)
    if vector is None:
        raise ValueError("the graph has a sparse tensor without its places.")
    kind = {1: "<i4", 2: "<u2", 3: "u1"}[dimension.number(kind_field, "b")]
    return vector.numbers(0, kind).astype(int)


Made = tuple[str, list[Tensor], dict[str, Any]]


def _conv(options: Table, constants: list[Tensor], shape: np.ndarray) -> Made:
    weight, bias = constants
    settings = _conv_settings(options, 3, 1)
    return "conv", [weight.permute(0, 3, 1, 2).contiguous(), bias], settings


def _depthwise(options: Table, constants: list[Tensor], shape: np.ndarray) -> Made:
    weight, bias = constants
    settings = _conv_settings(options, 4, int(shape[-1]))
    return "conv", [weight.permute(3, 0, 1, 2).contiguous(), bias], settings


def _conv_settings(options: Table, activation: int, groups: int) -> dict[str, Any]:
    return {
        "stride": options.number(1),
        "groups": groups,
        "same": options.number(0, "b") == SAME,
        "relu": options.number(activation, "b") == RELU,
    }


def _prelu(options: Table | None, constants: list[Tensor], shape: np.ndarray) -> Made:
    return "prelu", [constants[0].flatten()], {}


def _add(options: Table, constants: list[Tensor], shape: np.ndarray) -> Made:
    return "add", [], {"relu": options.number(0, "b") == RELU}


def _max_pool(options: Table, constants: list[Tensor], shape: np.ndarray) -> Made:
    return "max_pool", [], {"size": options.number(3)}


def _pad(options: Table | None, constants: list[Tensor], shape: np.ndarray) -> Made:
    rows, columns, channels = constants[0].tolist()[1:]
    return "pad", [], {"padding": [*columns, *rows, *channels]}


def _double(options: Table, constants: list[Tensor], shape: np.ndarray) -> Made:
    if constants[0].tolist() != [2 * side for side in shape[1:3]]:
        raise ValueError("the graph resizes by another factor than 2.")
    return "double", [], {}


def _depth_to_space(options: Table, constants: list[Tensor], shape: np.ndarray) -> Made:
    return "depth_to_space", [], {"block": options.number(0)}


def _rows(options: Table | None, constants: list[Tensor], shape: np.ndarray) -> Made:
    return "rows", [], {}


def _sigmoid(options: Table | None, constants: list[Tensor], shape: np.ndarray) -> Made:
    return "sigmoid", [], {}


MAKERS: dict[int, Callable[..., Made]] = {
    ADD: _add,
    CONV: _conv,
    DEPTHWISE: _depthwise,
    DEPTH_TO_SPACE: _depth_to_space,
    SIGMOID: _sigmoid,
    MAX_POOL: _max_pool,
    RESHAPE: _rows,
    RESIZE_BILINEAR: _double,
    PAD: _pad,
    PRELU: _prelu,
}
