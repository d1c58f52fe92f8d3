"""Write a Max or Min with one number, and chains of bounds, as one Relu or Clip.

    Max(x, 0)                  =  Relu(x)
    Max(x, a)                  =  Clip(x, a, none)
    Min(x, b)                  =  Clip(x, none, b)
    Clip(Clip(x, a, b), c, d)  =  Clip(x, max(a, c), min(b, d))           where the first is no more than the second

bit for bit; a Relu is a Clip from 0. Source: ONNX operator specification, Clip-13.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import only_reader, rewrite
from qpipe.nodes import constant_array, initializer, input_value

_BOUNDS: Final = frozenset({"Max", "Min", "Clip", "Relu"})


@dataclass(frozen=True, kw_only=True)
class BoundsToClip(ir.passes.InPlacePass):
    """Max and Min of a value and one number, and what alone reads one bound and sets another."""

    name: ClassVar[str] = "bounds-to-clip"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match, from the last bound of a chain."""
        return rewrite(model, _BOUNDS, _try_clip)


@dataclass(frozen=True)
class _Bounded:
    """`min(max(x, low), high)`, low <= high."""

    x: ir.Value
    low: float = -math.inf
    high: float = math.inf

    def then(self, later: _Bounded) -> _Bounded | None:
        """Both bounds at once; None where these leave nothing between them."""
        low, high = max(self.low, later.low), min(self.high, later.high)
        return _Bounded(self.x, low, high) if low <= high else None


def _bounded(node: ir.Node | None) -> _Bounded | None:
    if node is None or node.op_type not in _BOUNDS or node.domain != "":
        return None
    x = node.inputs[0]
    if x is None or node.outputs[0].dtype not in {ir.DataType.FLOAT, None}:
        return None
    if node.op_type == "Relu":
        return _Bounded(x, low=0.0)
    if node.op_type == "Clip":
        low, high = _number(input_value(node, 1), -math.inf), _number(input_value(node, 2), math.inf)
        return None if low is None or high is None or low > high else _Bounded(x, low, high)
    data = [value for value in node.inputs if value is not None and constant_array(value) is None]
    if len(node.inputs) != 2 or len(data) != 1 or data[0].shape is None:
        return None
    constant = node.inputs[1 if node.inputs[0] is data[0] else 0]
    # A number with more axes than x would give it these.
    array = constant_array(constant)
    if array is None or array.ndim > len(data[0].shape):
        return None
    number = _number(constant, math.nan)
    if number is None or math.isnan(number):
        return None
    return _Bounded(data[0], low=number) if node.op_type == "Max" else _Bounded(data[0], high=number)


def _number(value: ir.Value | None, default: float) -> float | None:
    """The one number of a constant, `default` where there is no value; None of any other value."""
    array = constant_array(value)
    if value is None:
        return default
    return None if array is None or array.size != 1 else float(array.reshape(-1)[0])


def _try_clip(graph: ir.Graph, node: ir.Node) -> bool:
    found, old = _bounded(node), [node]
    if found is None or _bounded(only_reader(node.outputs[0])) is not None:
        return False
    while (before := _bounded(found.x.producer())) is not None and only_reader(found.x) is old[0]:
        producer, merged = found.x.producer(), before.then(found)
        if merged is None or producer is None or producer.graph is not graph:
            break
        found, old = merged, [producer, *old]
    if len(old) == 1 and node.op_type in {"Relu", "Clip"} and not (node.op_type == "Clip" and _is_relu(found)):
        return False
    name = node.name or str(node.outputs[0].name)
    if _is_relu(found):
        new = ir.node("Relu", [found.x], name=node.name)
    else:
        low, high = (
            None if math.isinf(bound) else initializer(graph, f"{name}_{what}", np.float32(bound))
            for what, bound in (("low", found.low), ("high", found.high))
        )
        new = ir.node("Clip", [found.x, low, high] if high is not None else [found.x, low], name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, old, [new], node.outputs, new.outputs)
    return True


def _is_relu(bounded: _Bounded) -> bool:
    return bounded.low == 0 and math.isinf(bounded.high)
