"""The ends of a lowered graph: what is looked up begins it, its results leave as floats, the QDQ nodes go."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.errors import LoweringError
from qpipe.ir.graph.ending import remove_unused
from qpipe.ir.quantized.oracle import codes_of
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.view import QuantizedLayer, View, is_final
from qpipe.lowering.integer_builder import IntegerBuilder
from qpipe.lowering.qoperator_builder import QOperatorBuilder
from qpipe.ops import product_of
from qpipe.ops.choices import choices_of
from qpipe.ops.lookup import lookup_of

_TO_FLOAT, _TO_INT32 = {"to": ir.DataType.FLOAT}, {"to": ir.DataType.INT32}
Builder = QOperatorBuilder | IntegerBuilder


def add_nodes(model: ir.Model, nodes: Sequence[ir.Node]) -> None:
    """Put the new nodes into the graph and drop those that nothing reads any more."""
    model.graph.extend(nodes)
    remove_unused(model)
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
    for layer in view.layers if outputs else ():
        _choose_integers(layer, b)
    leaving = set(view.leaving(outputs=outputs))
    for quantizer in view.inputs:
        if quantizer.output in leaving:
            _replace(quantizer.output, _dequantize_codes(quantizer, f"{quantizer.source.name}_dequantize", b))
    for layer in view.layers:
        if layer.result in leaving:
            _replace(layer.result, _dequantize(layer, b))


def _choose_integers(layer: QuantizedLayer, b: Builder) -> None:
    """Let what only asks for the largest numbers of a result read its integers, where these have one unit."""
    choices = list(choices_of(layer.result))
    if not choices or len(scales := result_scales(layer)) > 1:
        return
    integers, name = b.result(layer.result), f"{layer.name}_order"
    if layer.quantizer is not None:
        integers = b.emit("Cast", [integers], name=f"{name}_int32", attributes=_TO_INT32, dtype=ir.DataType.INT32)
        zero = b.constant(f"{name}_zero_point", np.array(layer.quantizer.grid.zero_point, np.int32))
        integers = b.emit("Sub", [integers, zero], name=name, dtype=ir.DataType.INT32)
    for choice in choices:
        choice.entry.replace_input_with(0, integers)
        for value in (*choice.moved, *choice.numbers):
            value.type = ir.TensorType(ir.DataType.INT32)
        for number in choice.numbers:
            if number.uses() or number.is_graph_output():
                _scale(number, scales[0], b)


def _scale(number: ir.Value, scale: np.float32, b: Builder) -> None:
    """Real numbers for the readers of int32 ones, under their name."""
    name = str(number.name)
    uses, is_output = list(number.uses()), number.is_graph_output()
    steps = b.emit("Cast", [number], name=f"{name}_cast", attributes=_TO_FLOAT, dtype=ir.DataType.FLOAT)
    real = b.emit(
        "Mul", [steps, b.constant(f"{name}_scale", np.asarray(scale))], name=f"{name}_real", dtype=ir.DataType.FLOAT
    )
    real.shape = number.shape
    for node, index in uses:
        node.replace_input_with(index, real)
    if is_output:
        outputs = b.graph.outputs
        outputs[list(outputs).index(number)] = real
    number.name, real.name = f"{name}/int32", name


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
        scale = b.constant(f"{layer.name}_scale", spread_scales(layer) if len(scales) > 1 else scales[0])
        steps = b.emit("Cast", [value], name=f"{layer.name}_cast", attributes=_TO_FLOAT, dtype=ir.DataType.FLOAT)
        return b.emit("Mul", [steps, scale], name=name, dtype=ir.DataType.FLOAT)
    attributes = {"axis": 1} if len(scales) > 1 else {}
    scale = b.constant(f"{layer.name}_scale", scales if len(scales) > 1 else scales[0])
    return b.emit("DequantizeLinear", [value, scale], name=name, attributes=attributes, dtype=ir.DataType.FLOAT)


def spread_scales(layer: QuantizedLayer) -> npt.NDArray[np.float32]:
    """`result_scales` of a product as they broadcast to its result."""
    return result_scales(layer).reshape(-1, *[1] * product_of(layer.node).spatial_dims(layer.node))


def result_scales(layer: QuantizedLayer) -> npt.NDArray[np.float32]:
    """Real units per step of what a layer gives: float32, `[1]` where all channels have one, else `[C]`."""
    if layer.quantizer is not None:
        return np.array([layer.quantizer.grid.scale], np.float32)
    if not is_final(layer):
        raise LoweringError(f"{layer.op_type} '{layer.name}': its weights are floats, expected a finalized layer")
    scales = layer.weight.scales * np.float32(layer.sources[0].grid.scale)
    return scales[:1] if np.all(scales == scales[0]) else scales
