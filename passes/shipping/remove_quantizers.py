"""Remove the quantizers of a trainable QDQ graph: the float network that it holds is what is left.

    Conv(x on a grid, w on a grid)   becomes   Conv(x, w)

A ReLU6, which a QDQ graph keeps in the integers' range alone, stands there as a Clip again, and what became a table as
the function that it was. So a network that was trained at one width can be calibrated to another: at 8 bits it learns
to do without its skips, say, and goes down to 2 bits from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.ir.files.metadata import TRAINING, set_json
from qpipe.ir.graph.curve_units import take_back_units
from qpipe.ir.graph.ending import remove_unused
from qpipe.ir.graph.layers import group_layers
from qpipe.ir.graph.scale_groups import input_groups
from qpipe.ir.quantized.bypass import replace_value
from qpipe.ir.quantized.qdq import ActivationQuantizer, quantizer_nodes
from qpipe.ir.quantized.view import QuantizedLayer, is_final, is_trainable, read_view
from qpipe.ir.quantized.view_weights import QUANTIZATION
from qpipe.ir.quantized.write_constant import remove_constants
from qpipe.nodes import describe, name_value
from qpipe.ops import ActivationFunction


@dataclass(frozen=True, kw_only=True)
class RemoveQuantizers(ir.passes.InPlacePass):
    """QDQ, trainable, becomes float; what the metadata say of its grids and of its last training goes too."""

    name: ClassVar[str] = "remove-quantizers"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raise ModelError, before anything is changed, where weights are integers, or floats of another meaning."""
        view = read_view(model)
        for layer in view.layers:
            _refuse(layer)
        for layer in view.layers:
            if is_trainable(layer):
                layer.node.replace_input_with(1, layer.weight.values)
            remove_constants(layer)
        for quantizer in view.inputs:
            _remove(model, quantizer, None)
        for layer in view.layers:
            if layer.quantizer is not None:
                _remove(model, layer.quantizer, layer.function if layer.activation is None else None)
        remove_unused(model)
        units = {quantizer.source: quantizer.unit for quantizer in view.inputs if quantizer.unit != 1}
        for group in input_groups(group_layers(model.graph)) if units else []:
            for value in group.inputs:
                group.divide(1 / units.get(value, 1.0))
        take_back_units(model)
        for key in (QUANTIZATION, TRAINING):
            set_json(model, key, None)
        return ir.passes.PassResult(model, True)


def _refuse(layer: QuantizedLayer) -> None:
    """Weights behind a quantizer that normalizes them are not on the scale of a float network's."""
    if is_final(layer):
        raise ModelError(f"{describe(layer.node)}: its weights are integers, expected the file that can be trained")
    if is_trainable(layer) and not layer.weight.format.holds_floats:
        raise ModelError(
            f"{describe(layer.node)}: its weights are on the scale of another quantizer, expected fixed-point ones"
        )


def _remove(model: ir.Model, quantizer: ActivationQuantizer, function: ActivationFunction | None) -> None:
    """Let the quantizer's readers read its source, behind an activation where its range or its table was one."""
    dequantize = quantizer.output.producer()
    assert dequantize is not None
    # A quantizer before it may be gone already.
    source = quantizer_nodes(dequantize)[0].inputs[0]
    assert source is not None
    if function is not None:
        source = _activated(model, source, function)
    replace_value(quantizer.output, source)


def _activated(model: ir.Model, source: ir.Value, function: ActivationFunction) -> ir.Value:
    """The activation as a node behind `source`."""
    node, graph = function.node(model, source), model.graph
    node.name = f"{source.name}_activation"
    name_value(node.outputs[0], f"{source.name}_activated", ir.TensorType(ir.DataType.FLOAT), source.shape)
    producer = source.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return node.outputs[0]
