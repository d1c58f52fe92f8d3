"""The quantizers of constant operands in a QDQ graph: written, taken away, and their floats replaced by codes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.ir.graph.layers import Layer
from qpipe.nodes import initializer, name_value
from qpipe.ops.constant_operand import read_constant
from qpipe.ops.quantizer_parts import quantizes, stored


def insert_constant(graph: ir.Graph, layer: Layer, index: int, grid: QuantSpec) -> None:
    """Put a quantizer between a constant and the layer's node, which alone reads it then."""
    node, value = layer.node, layer.node.inputs[index]
    assert value is not None
    base = f"{layer.name}_constant{index}"
    parts = [
        initializer(graph, f"{base}_scale", np.float32(grid.scale)),
        initializer(graph, f"{base}_zero_point", np.uint8(grid.zero_point)),
    ]
    quantize = ir.node("QuantizeLinear", [value, *parts], name=f"{base}_quantize")
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *parts], name=f"{base}_dequantize")
    name_value(quantize.outputs[0], f"{base}_codes", ir.TensorType(ir.DataType.UINT8), value.shape)
    name_value(dequantize.outputs[0], f"{base}_dequantized", ir.TensorType(ir.DataType.FLOAT), value.shape)
    graph.insert_before(node, [quantize, dequantize])
    node.replace_input_with(index, dequantize.outputs[0])


def remove_constants(layer: Layer) -> None:
    """Let the layer's node read its constants as they were before they were quantized."""
    for index in layer.op.fixed_operands(layer.node):
        layer.node.replace_input_with(index, stored(layer.node.inputs[index]))


def finalize_constants(graph: ir.Graph, layer: Layer) -> None:
    """Codes in the place of the layer's constants; a final one stays."""
    for index in layer.op.fixed_operands(layer.node):
        value = layer.node.inputs[index]
        dequantize = None if value is None else value.producer()
        codes = None if dequantize is None else dequantize.inputs[0]
        if value is None or dequantize is None or codes is None or not quantizes(codes.producer()):
            continue
        name = f"{layer.name}_constant{index}_final"
        dequantize.replace_input_with(0, initializer(graph, name, read_constant(value).codes))
