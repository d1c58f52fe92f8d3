"""Turn a trainable QDQ graph into what ships: integer weights, int32 biases, no BatchNormalization.

`y = k (conv - mean) + beta` becomes `(acc + bias) * m * 2**-n` output steps (see `qpipe.arith.multiplier`): m rides in
the weight's scale, `2**l * m[c]`, a negative k in the weights' signs. A BatchNormalization that stands alone becomes a
1×1 depthwise Conv whose 8-bit weight is the multiplier; a Softmax or a LayerNormalization a function of the domain
`qpipe` on int32 (see `qpipe.ops.float_form`); an embedding's table becomes its codes. The pass chooses nothing: every
exponent is the file's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from passes.rewrites.explicit_pools import ExplicitPools
from passes.rewrites.remove_dead_code import RemoveDeadCode
from passes.shipping.bounds_apart import set_bounds_apart
from passes.shipping.exact_average_pool import ExactAveragePool
from qpipe.errors import LoweringError
from qpipe.ir.files.upgrade import label_opset
from qpipe.ir.graph.numbers import check_numbers
from qpipe.ir.quantized.final_weights import final_weight, standalone_batch_norm
from qpipe.ir.quantized.view import QuantizedLayer, RequantizedLayer, is_trainable, read_view
from qpipe.ir.quantized.view_weights import FinalWeight
from qpipe.ir.quantized.weight_codes import PACKED, stored_weight
from qpipe.ir.quantized.write_constant import finalize_constants, finalize_table
from qpipe.nodes import initializer, rank
from qpipe.ops.weight_layout import output_axis


@dataclass(frozen=True, kw_only=True)
class Finalize(ir.passes.InPlacePass):
    """Every trainable layer becomes final."""

    name: ClassVar[str] = "finalize"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Finalize; of a final graph pools and bounds alone change. Raises ModelError on what is not a number."""
        pools = ExplicitPools()(model).modified
        pools |= ExactAveragePool()(model).modified
        view = read_view(model)
        if view.is_final:
            return ir.passes.PassResult(model, set_bounds_apart(model.graph, view.layers) or pools)
        check_numbers(model.graph)
        for quantizer in view.inputs:
            finalize_table(model.graph, quantizer)
        for layer in view.layers:
            finalize_constants(model.graph, layer)
            if isinstance(layer, RequantizedLayer) and layer.op_type == "BatchNormalization":
                _replace_batch_norm(model.graph, layer)
            elif is_trainable(layer):
                _write(model.graph, layer, final_weight(layer))
        RemoveDeadCode()(model)
        label_opset(model)
        for layer in view.layers:
            if isinstance(layer, RequantizedLayer):
                layer.op.finalize(model, layer)
        set_bounds_apart(model.graph, view.layers)
        return ir.passes.PassResult(model, True)


def _write(graph: ir.Graph, layer: QuantizedLayer, final: FinalWeight) -> None:
    """Constants instead of the weight's quantizer and the bias; the BatchNormalization goes."""
    node = layer.node
    if layer.op_type == "MatMul" and final.bias.any():
        # It comes from a BatchNormalization, and only a Gemm can hold it.
        if rank(node.inputs[0]) != 2:
            raise LoweringError(f"MatMul '{layer.name}': followed by a bias, expected an input of two dimensions")
        node.op_type = "Gemm"
    weight, bias = _dequantized(graph, node, layer, final)
    node.replace_input_with(1, weight)
    if node.op_type != "MatMul":
        node.resize_inputs(3)
        node.replace_input_with(2, bias)
    if layer.batch_norm is not None:
        batch_norm = layer.batch_norm
        batch_norm.outputs[0].replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
        graph.remove(batch_norm, safe=True)


def _dequantized(
    graph: ir.Graph, node: ir.Node, layer: QuantizedLayer, final: FinalWeight
) -> tuple[ir.Value, ir.Value]:
    """The DequantizeLinear of the weight (through a Cast where it is packed) and of the bias."""
    base = f"{layer.name}_final"
    # What outputs compare has one scale; what islands alone read has one for each channel.
    per_channel = layer.quantizer is not None or bool(np.any(final.scales != final.scales[0]))
    scales = final.scales if per_channel else final.scales[0]
    scale = initializer(graph, f"{base}_weight_scale", scales)
    codes = _codes(graph, node, base, final)
    axis = {"axis": output_axis(node)} if per_channel else {}
    # Without zero points onnxruntime leaves a Gemm in float.
    zero_point = initializer(graph, f"{base}_weight_zero_point", np.zeros(scales.shape, np.int8))
    weight = ir.node("DequantizeLinear", [codes, scale, zero_point], axis, name=f"{base}_weight_dequantize")
    bias_scale = initializer(graph, f"{base}_bias_scale", scales * np.float32(layer.sources[0].grid.scale))
    bias_codes = initializer(graph, f"{base}_bias", final.bias.astype(np.int32))
    bias = ir.node(
        "DequantizeLinear", [bias_codes, bias_scale], {"axis": 0} if per_channel else {}, name=f"{base}_bias_dequantize"
    )
    for new, name, shape in ((weight, "weight", final.codes.shape), (bias, "bias", final.bias.shape)):
        value = new.outputs[0]
        value.name, value.type = f"{base}_{name}_dequantized", ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape(shape)
    graph.insert_before(node, [weight, bias])
    return weight.outputs[0], bias.outputs[0]


def _codes(graph: ir.Graph, node: ir.Node, base: str, final: FinalWeight) -> ir.Value:
    """int8 codes, or packed ones behind a Cast: no integer kernel takes them straight from a DequantizeLinear."""
    tensor, _ = stored_weight(final.codes, final.bits)
    stored = initializer(graph, f"{base}_weight", tensor)
    if tensor.dtype not in PACKED:
        return stored
    cast = ir.node("Cast", [stored], {"to": ir.DataType.INT8}, name=f"{base}_weight_cast")
    cast.outputs[0].name = f"{base}_weight_int8"
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.INT8), ir.Shape(final.codes.shape)
    graph.insert_before(node, cast)
    return cast.outputs[0]


def _replace_batch_norm(graph: ir.Graph, layer: RequantizedLayer) -> None:
    """BatchNormalization alone -> depthwise Conv of kernel 1, in two dimensions a Gemm."""
    node = layer.node
    final = standalone_batch_norm(layer)
    kernel = [1] * (final.codes.ndim - 2)
    attributes: dict[str, Any] = {"group": len(final.bias), "kernel_shape": kernel} if kernel else {}
    conv = ir.node("Conv" if kernel else "Gemm", [node.inputs[0], None, None], attributes, name=node.name)
    graph.insert_before(node, conv)
    weight, bias = _dequantized(graph, conv, layer, final)
    conv.replace_input_with(1, weight)
    conv.replace_input_with(2, bias)
    conv.outputs[0].type, conv.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    node.outputs[0].replace_all_uses_with(conv.outputs[0], replace_graph_outputs=True)
    name = node.outputs[0].name
    graph.remove(node, safe=True)
    conv.outputs[0].name = name
