"""The quantizers of constant operands in a QDQ graph: written, taken away, and their floats replaced by codes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.oracle import codes_of
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.nodes import initializer, name_value
from qpipe.ops.constant_operand import read_constant, real_constant
from qpipe.ops.lookup import lookup_of
from qpipe.ops.quantizer_parts import dequantizes, quantizes, stored


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


def finalize_table(graph: ir.Graph, quantizer: ActivationQuantizer) -> None:
    """Codes in the place of a table that is looked up for this quantizer alone; a final one stays."""
    found = lookup_of(quantizer.source)
    table = None if found is None else found.table
    if found is None or table is None or dequantizes(table.producer()) or quantizer.table is not None:
        return
    given = [node.outputs[0] for node in found.nodes]
    if any(len(value.uses()) > 1 or value.is_graph_output() for value in given):
        return
    base, grid = f"{quantizer.source.name}_table", quantizer.grid
    parts = [
        initializer(graph, f"{base}_codes", codes_of(quantizer, found.numbers(real_constant(table)))),
        initializer(graph, f"{base}_scale", np.float32(grid.scale)),
        initializer(graph, f"{base}_zero_point", np.uint8(grid.zero_point)),
    ]
    dequantize = ir.node("DequantizeLinear", parts, name=f"{base}_dequantize")
    name_value(dequantize.outputs[0], f"{base}_dequantized", ir.TensorType(ir.DataType.FLOAT), table.shape)
    graph.insert_before(found.root, dequantize)
    found.root.replace_input_with(0, dequantize.outputs[0])
    found.take_out_steps()


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
