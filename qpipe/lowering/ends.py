"""The ends of a lowered graph: what is looked up begins it, its results leave as floats, the QDQ nodes go."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.errors import LoweringError
from qpipe.ir.quantized.oracle import codes_of
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import QuantizedLayer, View, is_final
from qpipe.lowering.integer_builder import IntegerBuilder
from qpipe.lowering.qoperator_builder import QOperatorBuilder
from qpipe.ops import product_of
from qpipe.ops.lookup import lookup_of

Builder = QOperatorBuilder | IntegerBuilder


def add_nodes(model: ir.Model, nodes: Sequence[ir.Node]) -> None:
    """Put the new nodes into the graph and drop those that nothing reads any more."""
    model.graph.extend(nodes)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    model.graph.sort()
    ir.passes.common.NameFixPass()(model)


def first_grid(quantizer: ActivationQuantizer, b: Builder) -> tuple[ir.Value, ir.Value]:
    """Scale and zero point where integers begin: the network's input may be counted in a unit of its own."""
    scale, zero_point = b.grid(quantizer.rounded_to)
    if quantizer.unit == 1:
        return scale, zero_point
    of_input = b.shared if isinstance(b, IntegerBuilder) else lambda step: b.scalar(f"step_{step}", step)
    return of_input(quantizer.step), zero_point


def look_up(quantizer: ActivationQuantizer, b: Builder) -> ir.Value | None:
    """The quantizer's codes where integers alone say them; None where they are made of floats."""
    found = lookup_of(quantizer.source)
    return None if found is None else found.write(partial(codes_of, quantizer), b, str(quantizer.source.name))


def dequantize_results(view: View, b: Builder, *, outputs: bool = True) -> None:
    """Real numbers of every tensor that leaves the quantized part: for islands, and for the float tail and outputs."""
    leaving = set(view.leaving(outputs=outputs))
    for quantizer in view.inputs:
        if quantizer.output in leaving:
            _replace(quantizer.output, _dequantize_codes(quantizer, f"{quantizer.source.name}_dequantize", b))
    for layer in view.layers:
        if layer.result in leaving:
            _replace(layer.result, _dequantize(layer, b))


def _replace(old: ir.Value, real: ir.Value) -> None:
    """Floats read what was dequantized; integer layers of the QDQ graph do so as well, and are dropped."""
    real.shape = None if old.shape is None else old.shape.copy()
    old.replace_all_uses_with(real, replace_graph_outputs=True)
    real.name = old.name


def _dequantize_codes(quantizer: ActivationQuantizer, name: str, b: Builder) -> ir.Value:
    inputs = [b.result(quantizer.output), *b.grid(quantizer.grid)]
    return b.emit("DequantizeLinear", inputs, name=name, dtype=ir.DataType.FLOAT)


def _dequantize(layer: QuantizedLayer, b: Builder) -> ir.Value:
    """The layer's result in real numbers."""
    name = f"{layer.name}_dequantize"
    if layer.quantizer is not None:
        return _dequantize_codes(layer.quantizer, name, b)
    value = b.result(layer.result)
    scales = result_scales(layer)
    if layer.result.uses():
        # onnxruntime pushes a DequantizeLinear of one scale through a Reshape, and then can't open what it made.
        spatial = [1] * product_of(layer.node).spatial_dims(layer.node)
        scale = b.constant(f"{layer.name}_scale", scales.reshape(-1, *spatial) if len(scales) > 1 else scales[0])
        to_float = {"to": ir.DataType.FLOAT}
        steps = b.emit("Cast", [value], name=f"{layer.name}_cast", attributes=to_float, dtype=ir.DataType.FLOAT)
        return b.emit("Mul", [steps, scale], name=name, dtype=ir.DataType.FLOAT)
    attributes = {"axis": 1} if len(scales) > 1 else {}
    scale = b.constant(f"{layer.name}_scale", scales if len(scales) > 1 else scales[0])
    return b.emit("DequantizeLinear", [value, scale], name=name, attributes=attributes, dtype=ir.DataType.FLOAT)


def result_scales(layer: QuantizedLayer) -> npt.NDArray[np.float32]:
    """Real units per step of what a layer gives: float32, `[1]` where all channels have one, else `[C]`."""
    if layer.quantizer is not None:
        return np.array([layer.quantizer.grid.scale], np.float32)
    if not is_final(layer):
        raise LoweringError(f"{layer.op_type} '{layer.name}': its weights are floats, expected a finalized layer")
    scales = layer.weight.scales * np.float32(layer.sources[0].grid.scale)
    return scales[:1] if np.all(scales == scales[0]) else scales
