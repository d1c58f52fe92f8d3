"""Write a MaxUnpool as a Where: comparisons say again where the largest number of each window was.

    MaxUnpool(y, Indices(MaxPool(x)))[i, j]  =  y of the window where x[i, j] is its largest number, else 0

A number is the largest where it exceeds those before it in its window and no number behind it exceeds it: of equal ones
the first is. ONNX leaves open which, and onnxruntime takes the first. Each place in a window is a Slice of x, and of
all of them a truth value comes back to its place as 1 or 0 (Concat, DepthToSpace). Indices have no integer form, and
all of this has; MaxPool keeps its first result.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import (
    AnyArray,
    constant_input,
    initializer,
    input_value,
    int_attribute,
    name_value,
    static_shape,
    string_attribute,
    window,
)

_LARGEST: Final = 3
"""Windows of 9 places have 72 comparisons."""
Shape = tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class UnpoolToWhere(ir.passes.InPlacePass):
    """Every MaxUnpool of images behind a MaxPool whose square windows lie side by side."""

    name: ClassVar[str] = "unpool-to-where"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match; a MaxPool whose indices nobody reads any more has one result."""
        unpools = rewrite(model, {"MaxUnpool"}, _try_replace)
        pools = rewrite(model, {"MaxPool"}, _try_drop_indices) if unpools.modified else unpools
        return ir.passes.PassResult(model, unpools.modified or pools.modified)


def _try_replace(graph: ir.Graph, unpool: ir.Node) -> bool:
    y, indices = unpool.inputs[:2]
    pool = None if indices is None else indices.producer()
    if y is None or pool is None or pool.op_type != "MaxPool" or indices is pool.outputs[0]:
        return False
    x, size = pool.inputs[0], _side(pool)
    shape, pooled = static_shape(x), static_shape(pool.outputs[0])
    if x is None or size is None or _side(unpool) != size or shape is None or pooled is None or len(shape) != 4:
        return False
    if None in shape[1:] or any((length or 0) % size for length in shape[2:]) or static_shape(y) != pooled:
        return False
    given = constant_input(unpool, 2)
    if input_value(unpool, 2) is not None and (given is None or given.reshape(-1)[2:].tolist() != [*shape[2:]]):
        return False
    b = _Nodes(graph, unpool)
    places = list(itertools.product(range(size), repeat=2))
    parts = [b.slice(x, place, size, pooled) for place in places]
    numbers = []
    for at, part in enumerate(parts):
        asked = [
            b.add("Greater" if other < at else "GreaterOrEqual", [part, parts[other]], ir.DataType.BOOL, pooled)
            for other in range(len(parts))
            if other != at
        ]
        holds = asked[0]
        for each in asked[1:]:
            holds = b.add("And", [holds, each], ir.DataType.BOOL, pooled)
        both = [b.constant(f"number{number:g}", number) for number in (np.float32(1), np.float32(0))]
        numbers.append(b.add("Where", [holds, *both], ir.DataType.FLOAT, pooled))
    channels = (pooled[1] or 0) * len(parts)
    stacked = b.add("Concat", numbers, ir.DataType.FLOAT, (pooled[0], channels, *pooled[2:]), axis=1)
    shuffled = b.add("DepthToSpace", [stacked], ir.DataType.FLOAT, shape, blocksize=size)
    is_largest = b.add("Cast", [shuffled], ir.DataType.BOOL, shape, to=ir.DataType.BOOL)
    scales = b.constant("scales", np.array([1, 1, size, size], np.float32))
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    enlarged = b.add("Resize", [y, None, scales], ir.DataType.FLOAT, shape, **nearest)
    zero = b.constant("zero", np.float32(0))
    result = b.add("Where", [is_largest, enlarged, zero], ir.DataType.FLOAT, shape)
    b.replace(result)
    return True


def _try_drop_indices(graph: ir.Graph, pool: ir.Node) -> bool:
    if len(pool.outputs) < 2 or pool.outputs[1].uses() or pool.outputs[1].is_graph_output():
        return False
    new = ir.node("MaxPool", pool.inputs, pool.attributes, name=pool.name)
    ir.convenience.replace_nodes_and_values(graph, pool, [pool], [new], pool.outputs[:1], new.outputs)
    return True


def _side(node: ir.Node) -> int | None:
    """Of the square windows, which lie side by side and count along rows; None of others."""
    if string_attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    found = window(node)
    side = found.kernel[0]
    plain = not any(found.pads) and set(found.dilations) == {1} and not int_attribute(node, "storage_order", 0)
    is_square = found.kernel == found.strides == (side, side)
    return side if plain and is_square and 1 < side <= _LARGEST else None


class _Nodes:
    """Nodes in the place of one."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self._graph, self._node, self._base = graph, node, node.name or str(node.outputs[0].name)
        self._count = 0

    def constant(self, name: str, array: AnyArray | np.generic) -> ir.Value:
        return initializer(self._graph, f"{self._base}_{name}", array)

    def slice(self, x: ir.Value, begin: Sequence[int], step: int, shape: Shape) -> ir.Value:
        """The numbers that stand at one place of all windows."""
        ends = [np.iinfo(np.int64).max] * 2
        lists = {"starts": begin, "ends": ends, "axes": (2, 3), "steps": (step, step)}
        name = f"place{begin[0]}_{begin[1]}"
        values = [self.constant(f"{name}_{what}", np.array(each, np.int64)) for what, each in lists.items()]
        return self.add("Slice", [x, *values], ir.DataType.FLOAT, shape)

    def add(
        self, op_type: str, inputs: Sequence[ir.Value | None], dtype: ir.DataType, shape: Shape, **attributes: Any
    ) -> ir.Value:
        self._count += 1
        node = ir.node(op_type, inputs, attributes, name=f"{self._base}_{op_type}{self._count}")
        name_value(node.outputs[0], f"{node.name}_output", ir.TensorType(dtype), ir.Shape(shape))
        self._graph.insert_before(self._node, node)
        return node.outputs[0]

    def replace(self, result: ir.Value) -> None:
        """Let the result be what the node gave."""
        ir.convenience.replace_nodes_and_values(self._graph, self._node, [self._node], [], self._node.outputs, [result])
