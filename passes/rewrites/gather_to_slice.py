"""Write a Gather of places in a row as a Slice.

    Gather(x, [a, a + s, ..., b])  =  Slice(x, a, b + sign(s), step s)
    Gather(x, a)                   =  Squeeze(Slice(x, a, a + 1))                bit for bit, along the axis

Negative places count from the end. Source: ONNX operator specification, Gather-13 and Slice-13.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_array, constant_input, initializer, int_attribute, name_value, static_shape

_BEFORE_THE_FIRST: Final = int(np.iinfo(np.int64).min)
_BEHIND_THE_LAST: Final = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, kw_only=True)
class GatherToSlice(ir.passes.InPlacePass):
    """Every Gather of computed floats by constant places of equal distance."""

    name: ClassVar[str] = "gather-to-slice"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match."""
        return rewrite(model, {"Gather"}, _try_replace)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, places, shape = node.inputs[0], constant_input(node, 1), static_shape(node.inputs[0])
    if x is None or x.dtype != ir.DataType.FLOAT or constant_array(x) is not None or shape is None or places is None:
        return False
    axis = int_attribute(node, "axis", 0) % len(shape)
    row = _row(places, shape[axis])
    if row is None:
        return False
    name = node.name or str(node.outputs[0].name)
    bounds = [initializer(graph, f"{name}_{what}", np.array([at])) for what, at in
              zip(("start", "end", "axis", "step"), (row[0], row[1], axis, row[2]), strict=True)]  # fmt: skip
    new = [ir.node("Slice", [x, *bounds], name=name)]
    if places.ndim == 0:
        sizes = [*x.shape.dims[:axis], 1, *x.shape.dims[axis + 1 :]] if x.shape is not None else []
        name_value(new[0].outputs[0], f"{node.outputs[0].name}_kept", ir.TensorType(ir.DataType.FLOAT), ir.Shape(sizes))
        axes = initializer(graph, f"{name}_axis", np.array([axis]))
        new.append(ir.node("Squeeze", [new[0].outputs[0], axes], name=f"{name}_squeeze"))
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, node.outputs, new[-1].outputs)
    return True


def _row(places: AnyArray, length: int | None) -> tuple[int, int, int] | None:
    """Start, end and step of a Slice; None where the places are no row, or may be outside of the axis."""
    numbers = [int(place) for place in places.reshape(-1)]
    if places.ndim > 1 or not numbers:
        return None
    if length is not None:
        if not all(-length <= place < length for place in numbers):
            return None
        numbers = [place % length for place in numbers]
    # Of an axis of unknown length, places from either end are in one row only among themselves.
    elif min(numbers) < 0 <= max(numbers):
        return None
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    if not step or numbers != list(range(numbers[0], numbers[0] + step * len(numbers), step)):
        return None
    end = numbers[-1] + (1 if step > 0 else -1)
    if step > 0 and end == 0:
        end = _BEHIND_THE_LAST
    if step < 0 and numbers[-1] == 0:
        end = _BEFORE_THE_FIRST
    return numbers[0], end, step
