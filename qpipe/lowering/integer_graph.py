"""Write nodes of standard operators on integer tensors: what the integer lowering's parts are made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.symbolic import UINT8
from qpipe.nodes import initializer

Array = npt.NDArray[Any]

MIN_RUN: Final = 256
"""Elements that a constant should have: onnxruntime broadcasts a shorter one along the channels slowly."""


class IntegerGraph:
    """Collects `nodes`; constants go to `graph` at once. `weights` is "int8" or "uint8" (zero point 128)."""

    def __init__(self, graph: ir.Graph, *, weights: str = "int8") -> None:
        self.graph = graph
        self.weights = weights
        self.nodes: list[ir.Node] = []
        self._scope, self._count = "", 0
        taken = ir.convenience.create_value_mapping(graph)
        self._names = (name for number in itertools.count() if (name := f"i{number}") not in taken)
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._casts: dict[tuple[ir.Value, np.dtype[Any]], ir.Value] = {}

    def start(self, name: str) -> None:
        """What is emitted from now on belongs to the layer of this name: it begins theirs."""
        self._scope, self._count = name, 0

    def emit(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        dtype: ir.DataType = ir.DataType.UINT8,
    ) -> ir.Value:
        """Add a node of the standard domain; its output has a short name: there are many, and each is read by name."""
        node = ir.node(op_type, inputs, dict(attributes or {}), name=name)
        output = node.outputs[0]
        output.name, output.type = next(self._names), ir.TensorType(dtype)
        self.nodes.append(node)
        return output

    def node(
        self, op_type: str, inputs: Sequence[ir.Value | None], dtype: np.dtype[Any] = UINT8, **attributes: Any
    ) -> ir.Value:
        """Add a node that is named after the layer at work."""
        self._count += 1
        name = f"{self._scope}/{self._count}_{op_type}"
        return self.emit(op_type, inputs, name=name, attributes=attributes, dtype=ir.DataType.from_numpy(dtype))

    def emit_copy(self, node: ir.Node, inputs: Sequence[ir.Value]) -> ir.Value:
        """The node itself on other data; its constant arguments stay."""
        arguments = [*inputs, *node.inputs[len(inputs) :]]
        return self.emit(node.op_type, arguments, name=self.scoped(node.op_type), attributes=node.attributes)

    def scoped(self, name: str) -> str:
        """A name that belongs to the layer at work."""
        return f"{self._scope}/{name}"

    def cast(self, value: ir.Value, dtype: np.dtype[Any]) -> ir.Value:
        """Cast, once for a value and a type."""
        if (value, dtype) not in self._casts:
            self._casts[value, dtype] = self.node("Cast", [value], dtype, to=ir.DataType.from_numpy(dtype))
        return self._casts[value, dtype]

    def constant(self, name: str, array: Any) -> ir.Value:
        """An initializer of its own: an array or a tensor."""
        return initializer(self.graph, name, array)

    def shared(self, array: Array | np.generic) -> ir.Value:
        """An initializer that all who ask for these numbers share."""
        array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            text = f"{array.dtype}_{array.item()}" if array.size == 1 else f"{self._scope}/constant"
            self._constants[key] = self.constant(text.replace("-", "minus_"), array)
        return self._constants[key]

    def integers(self, values: Sequence[int]) -> ir.Value:
        """A shared int64 list: shapes, axes, bounds."""
        return self.shared(np.array(values, np.int64))

    def operand(self, array: Array, sizes: Sequence[int | None]) -> ir.Value:
        """A constant to broadcast: one along the channels is repeated along the row, so that it is a longer run.

        The file holds it once: an Expand of constants is folded when a session starts.
        """
        stored, target = self.shared(array), list(array.shape)
        if array.ndim != 1:
            return stored
        for size in reversed(sizes[:-1]):
            if size is None or math.prod(target) >= MIN_RUN:
                break
            target.insert(0, size)
        if len(target) == 1:
            return stored
        key = ("expanded", stored, *target)
        if key not in self._constants:
            self._constants[key] = self.node("Expand", [stored, self.integers(target)], array.dtype)
        return self._constants[key]

    def slice(self, value: ir.Value, axes: Mapping[int, slice], dtype: np.dtype[Any] = UINT8) -> ir.Value:
        """A part of the value; `axes` gives the bounds of each axis that is cut."""
        parts = [
            [part.start or 0 for part in axes.values()],
            [np.iinfo(np.int64).max if part.stop is None else part.stop for part in axes.values()],
            list(axes),
            [part.step or 1 for part in axes.values()],
        ]
        return self.node("Slice", [value, *(self.integers(part) for part in parts)], dtype)

    def concat(self, values: Sequence[ir.Value], axis: int, dtype: np.dtype[Any] = UINT8) -> ir.Value:
        """The values side by side; a single one as it is."""
        return values[0] if len(values) == 1 else self.node("Concat", list(values), dtype, axis=axis)

    def transpose(self, value: ir.Value, order: Sequence[int], dtype: np.dtype[Any] = UINT8) -> ir.Value:
        """Axes in this order."""
        return self.node("Transpose", [value], dtype, perm=list(order))
