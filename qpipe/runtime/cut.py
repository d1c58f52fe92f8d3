"""Ways to look into a quantized graph: all its integers as outputs, and every region or layer cut off from the others.

Cut apart, each layer has inputs of its own, so that one run gives every layer, however deep, any integers at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.ir.graph.ending import end_in
from qpipe.ir.quantized.view import QuantizedLayer, View, read_view
from qpipe.lowering.marks import CODES_OF, LAYOUT

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tensor:
    """One quantized tensor of a graph: `value` holds the integers of `codes_of`; `is_nhwc`: channels lie last."""

    codes_of: str
    value: ir.Value
    is_nhwc: bool = False

    def to_own(self, array: Array) -> Array:
        """From the QDQ graph's layout to the value's."""
        return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if self.is_nhwc and array.ndim > 2 else array

    def to_common(self, array: Array) -> Array:
        """From the value's layout to the QDQ graph's."""
        return np.moveaxis(array, -1, 1) if self.is_nhwc and array.ndim > 2 else array


def compared(layer: QuantizedLayer) -> ir.Value:
    """The integers that a layer gives, or the floats of a last one."""
    return layer.result if layer.quantizer is None else layer.quantizer.codes


def spec_tensors(view: View) -> dict[str, Tensor]:
    """The QDQ graph's own quantized tensors in topological order, then what a last layer gives (float)."""
    values = [*(quantizer.codes for quantizer in view.inputs), *map(compared, view.layers)]
    return {str(value.name): Tensor(str(value.name), value) for value in values}


def lowered_tensors(model: ir.Model) -> dict[str, Tensor]:
    """The tensors that say whose integers they hold."""
    found = {}
    for node in model.graph:
        for value in node.outputs:
            name = value.metadata_props.get(CODES_OF)
            if name is not None:
                found[name] = Tensor(name, value, value.metadata_props.get(LAYOUT) == "NHWC")
    return found


def tensors_of(model: ir.Model) -> dict[str, Tensor]:
    """Of either kind of graph."""
    return lowered_tensors(model) or spec_tensors(read_view(model))


def with_outputs(model: ir.Model, names: list[str]) -> ir.Model:
    """A copy whose outputs are these tensors, in this order; ModelError where one is missing."""
    copy = model.clone()
    tensors = tensors_of(copy)
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ModelError(f"no tensor of the exported graph holds the integers of '{missing[0]}'")
    end_in(copy, (_exposed(tensors[name].value) for name in names))
    return copy


def cut_apart(model: ir.Model, outputs: list[str], shapes: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """A copy in which every tensor in `shapes` is also an input, named `codes_of`, that its readers read instead.

    shapes: in the QDQ graph's layout.
    """
    copy = model.clone()
    tensors = tensors_of(copy)
    # Two names may say the same value, and only the last readers count: inputs are made in topological order.
    inputs = []
    for name, shape in shapes.items():
        tensor = tensors[name]
        own = tensor.to_own(np.empty(shape, np.bool_)).shape
        new = ir.Value(name=input_name(name), type=tensor.value.type, shape=ir.Shape(own))
        for node, index in list(tensor.value.uses()):
            node.replace_input_with(index, new)
        inputs.append(new)
    copy.graph.inputs.clear()
    copy.graph.inputs.extend(inputs)
    end_in(copy, (_exposed(tensors[name].value) for name in outputs))
    for value in [value for value in copy.graph.inputs if not value.uses()]:
        copy.graph.inputs.remove(value)
    # The shapes that were inferred for another batch size would only be in the way.
    for node in copy.graph:
        for value in node.outputs:
            value.shape = None
    return copy


def begin_at(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy in which the float values of these names are inputs, called `begin_name`, and not computed.

    ModelError where no node gives one of them, as where a lowering changed what is float.
    """
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    for name in names:
        old = values.get(name)
        if old is None:
            raise ModelError(f"no node of the exported graph gives '{name}', at which integers begin")
        new = ir.Value(name=begin_name(name), type=ir.TensorType(ir.DataType.FLOAT))
        old.replace_all_uses_with(new)
        copy.graph.inputs.append(new)
    end_in(copy, list(copy.graph.outputs))
    for value in [value for value in copy.graph.inputs if not value.uses()]:
        copy.graph.inputs.remove(value)
    return copy


def begin_name(name: str) -> str:
    """How a cut graph calls the input that stands for this float value."""
    return f"begin/{name}"


def input_name(codes_of: str) -> str:
    """How a cut graph calls the input that stands for this tensor."""
    return f"cut/{codes_of}"


def _exposed(value: ir.Value) -> ir.Value:
    if value.type is None:
        raise ModelError(f"tensor '{value.name}' has no type")
    return value
