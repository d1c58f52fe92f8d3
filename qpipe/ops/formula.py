"""What a few nodes compute together of one value, in numpy: to see which function they spell.

Exporters write one function in many ways: `x * clip(x + 3, 0, 6) / 6` alone has a dozen orders. What all of them share
is the function, so the nodes are computed on samples, in float64, and their result is compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import Float64Array
from qpipe.nodes import constant_array, constant_input, float_attribute, input_value, int_attribute, static_shape

_MOST_NODES: Final = 24
"""Of the longest spellings; there are at most as many values to look at."""
_MOST_ELEMENTS: Final = 2**18
"""Of one sampled result."""


def _sigmoid(x: Float64Array) -> Float64Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def _softplus(x: Float64Array) -> Float64Array:
    return np.asarray(np.logaddexp(x, 0))


def erf(x: Float64Array) -> Float64Array:
    """The error function."""
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


_UNARY: Final[Mapping[str, Callable[[Float64Array], Any]]] = {
    "Identity": lambda x: x, "Neg": np.negative, "Abs": np.abs, "Relu": lambda x: np.maximum(x, 0), "Exp": np.exp,
    "Log": np.log, "Sqrt": np.sqrt, "Reciprocal": lambda x: 1 / x, "Tanh": np.tanh, "Erf": erf, "Sigmoid": _sigmoid,
    "Softplus": _softplus, "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}  # fmt: skip
_BINARY: Final[Mapping[str, Callable[[Float64Array, Float64Array], Any]]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power, "Max": np.maximum,
    "Min": np.minimum, "Greater": np.greater, "Less": np.less, "GreaterOrEqual": np.greater_equal,
    "LessOrEqual": np.less_equal,
}  # fmt: skip
ELEMENTWISE: Final = frozenset({*_UNARY, *_BINARY, "Clip", "HardSigmoid", "LeakyRelu", "Elu", "Where"})
COUNTING: Final = frozenset({"Add", "Sub", "Mul", "Neg", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Where"})
"""Of integers, exactly: float64 has those below 2**53."""
CONVERTING: Final = frozenset({"Cast", "Not"})
REDUCING: Final = frozenset({"ReduceMean", "ReduceSum", "GlobalAveragePool"})
KEEPING: Final = frozenset({"Reshape", "Unsqueeze", "Squeeze"})
"""As far as they add or take axes of one element."""


class Formula:
    """What leads to a node, as far as it is made of given ops in the node's own graph."""

    def __init__(self, root: ir.Node, positions: Mapping[ir.Node, int], op_types: frozenset[str]) -> None:
        """positions: of the graph's nodes, in order."""
        self.root, self._positions, self._op_types = root, positions, op_types

    def sources(self) -> Iterator[ir.Value]:
        """Each value of which alone the root is a function, by two nodes or more; the nearest first."""
        frontier, count = {self.root.outputs[0]}, 0
        while count < _MOST_NODES:
            value = max(frontier, key=self._place)
            node = value.producer()
            if node is None or not self._is_part(node):
                return
            frontier.discard(value)
            frontier.update(v for v in node.inputs if v is not None and constant_array(v) is None)
            count += 1
            if not frontier:
                return
            if len(frontier) == 1 and count > 1:
                yield next(iter(frontier))

    def nodes(self, source: ir.Value) -> list[ir.Node]:
        """Those between the source and the root."""
        found: dict[ir.Node, None] = {}
        stack = [self.root]
        while stack:
            node = stack.pop()
            if node not in found:
                found[node] = None
                values = [v for v in node.inputs if v is not None and v is not source]
                stack += [producer for v in values if (producer := v.producer()) is not None]
        return list(found)

    def constants(self, source: ir.Value) -> list[Float64Array]:
        """Those that these nodes read."""
        arrays = [constant_array(value) for node in self.nodes(source) for value in node.inputs]
        return [array.astype(np.float64) for array in arrays if array is not None]

    def __call__(self, source: ir.Value, sample: Float64Array) -> Float64Array | None:
        """The root's result where the source is the sample; None where numpy has none of a few elements."""
        values: dict[ir.Value, Float64Array] = {source: sample}
        try:
            with np.errstate(all="ignore"):
                return self._evaluate(self.root.outputs[0], values)
        except (ValueError, TypeError, KeyError, IndexError):
            return None

    def _evaluate(self, value: ir.Value, values: dict[ir.Value, Float64Array]) -> Float64Array:
        if value not in values:
            constant = constant_array(value)
            node = value.producer()
            if constant is not None:
                values[value] = constant.astype(np.float64)
            elif node is None or not self._is_part(node):
                raise ValueError(value.name)
            else:
                operands = [self._evaluate(v, values) for v in node.inputs if v is not None]
                values[value] = np.asarray(_compute(node, operands), np.float64)
            if values[value].size > _MOST_ELEMENTS:
                raise ValueError(value.name)
        return values[value]

    def _is_part(self, node: ir.Node) -> bool:
        return node in self._positions and node.op_type in self._op_types and node.domain == ""

    def _place(self, value: ir.Value) -> int:
        node = value.producer()
        return -1 if node is None else self._positions.get(node, -1)


def _kept(node: ir.Node, sizes: tuple[int, ...]) -> list[int]:
    """The sizes of a sample behind a node that adds or takes axes of one element; ValueError of any other."""
    given, wanted = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if given is None or wanted is None or len(given) != len(sizes):
        raise ValueError(node.op_type)
    # A batch of one is sampled with more.
    before, behind = ([axis for axis, size in enumerate(dims) if not axis or size != 1] for dims in (given, wanted))
    if [given[axis] for axis in before] != [wanted[axis] for axis in behind]:
        raise ValueError(node.op_type)
    found = dict(zip(behind, (sizes[axis] for axis in before), strict=True))
    return [found.get(axis, 1) for axis in range(len(wanted))]


def _compute(node: ir.Node, operands: list[Float64Array]) -> Any:
    """The node's result, by ONNX's text."""
    x = operands[0]
    match node.op_type:
        case "Clip":
            low, high = (input_value(node, i) for i in (1, 2))
            bounds = iter(operands[1:])
            x = x if low is None else np.maximum(x, next(bounds))
            return x if high is None else np.minimum(x, next(bounds))
        case "HardSigmoid":
            return np.clip(float_attribute(node, "alpha", 0.2) * x + float_attribute(node, "beta", 0.5), 0, 1)
        case "LeakyRelu":
            return np.where(x < 0, float_attribute(node, "alpha", 0.01) * x, x)
        case "Not":
            return x == 0
        case "Cast":
            target = ir.DataType(int_attribute(node, "to", int(ir.DataType.FLOAT)))
            return x != 0 if target is ir.DataType.BOOL else np.trunc(x) if target.is_integer() else x
        case "Where":
            return np.where(x.astype(bool), *operands[1:])
        case "Elu":
            return np.where(x < 0, float_attribute(node, "alpha", 1.0) * np.expm1(np.minimum(x, 0)), x)
        case "GlobalAveragePool":
            return x.mean(tuple(range(2, x.ndim)), keepdims=True)
        case "ReduceMean" | "ReduceSum":
            axes = constant_input(node, 1)
            if axes is None:
                raise ValueError("axes")
            reduce = x.mean if node.op_type == "ReduceMean" else x.sum
            return reduce(
                tuple(int(axis) for axis in axes.reshape(-1)), keepdims=bool(int_attribute(node, "keepdims", 1))
            )
        case "Reshape" | "Unsqueeze" | "Squeeze":
            return x.reshape(_kept(node, x.shape))
    if node.op_type in _UNARY:
        return _UNARY[node.op_type](x)
    if len(operands) != 2:
        raise ValueError(node.op_type)
    return _BINARY[node.op_type](*operands)
