"""The weights of a QDQ graph: floats on their exponents while they are trained, integers once they are final."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.weights import pair_limit
from qpipe.errors import ModelError
from qpipe.formats.base import TrainableWeight, WeightOptions
from qpipe.formats.table import format_of_codes
from qpipe.ir.files.metadata import get_object
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.weight_codes import signed_codes, stored_bits
from qpipe.nodes import constant_array, constant_input, describe, input_value
from qpipe.ops.weight_layout import is_depthwise, output_axis

QUANTIZATION = "quantization"
"""Metadata for whoever trains on: `weight_clip` (null: the width's own), `weight_clips` (of layers that have their own,
by name), `weight_rounding` (null: the width's own; absent: "ceil") and `cpu` ("portable" | "vnni").
"""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FinalWeight:
    """What ships: codes in the node's layout, `scale[c] = multiplier[c] * 2**exponent[c]`, bias in accumulator units.

    Accumulator, bias and multiplier: `y = (acc + bias) * multiplier * 2**(l_x + exponent)`, all `[C]`.
    """

    codes: npt.NDArray[np.int8]
    bits: int
    multiplier: IntArray
    exponent: IntArray
    bias: IntArray

    @property
    def scales(self) -> npt.NDArray[np.float32]:
        """`multiplier * 2**exponent`, `[C]`, exact."""
        return (self.multiplier * np.exp2(self.exponent.astype(np.float64))).astype(np.float32)


def read_weight(model: ir.Model, layer: Layer, source: ActivationQuantizer) -> TrainableWeight | FinalWeight:
    """The weight of a Conv, Gemm or MatMul that reads `source`.

    ModelError names the node whose weight is not of the form that calibration or finalizing writes.
    """
    dequantize = layer.node.inputs[1].producer() if layer.node.inputs[1] is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        raise ModelError(f"{describe(layer.node)}: its weight is not quantized, expected a DequantizeLinear")
    scales = constant_input(dequantize, 1)
    codes = dequantize.inputs[0]
    if scales is None or codes is None:
        raise ModelError(f"{describe(dequantize)}: expected constant scales")
    producer = codes.producer()
    if producer is None or producer.op_type == "Cast":
        return _final_weight(layer, codes, scales)
    options = _options(model, layer, source)
    return format_of_codes(producer.op_type).read(dequantize, producer, options, axis=output_axis(layer.node))


def _options(model: ir.Model, layer: Layer, source: ActivationQuantizer) -> WeightOptions:
    """What the file says of the layer's weights: its own clip, or that of all."""
    options = get_object(model, QUANTIZATION) or {}
    own = options.get("weight_clips")
    rounding: object = options.get("weight_rounding", "ceil")
    clips = [own.get(layer.name) if isinstance(own, dict) else None, options.get("weight_clip")]
    waived = options.get("cpu") == "vnni" or is_depthwise(layer.node)
    return WeightOptions(
        clip=next((float(clip) for clip in clips if isinstance(clip, int | float)), None),
        rounding=rounding if rounding in ("ceil", "nearest") else None,
        pair_limit=None if waived else pair_limit(source.grid.stored_max),
    )


def _final_weight(layer: Layer, codes: ir.Value, scales: npt.NDArray[np.generic]) -> FinalWeight:
    producer = codes.producer()
    stored = producer.inputs[0] if producer is not None else codes
    array = constant_array(stored)
    if array is None or stored is None:
        raise ModelError(f"{describe(layer.node)}: its weight's codes are no constant")
    count = _channels(layer, array)
    multiplier, exponent = split_scale(scales.astype(np.float64).reshape(-1) * np.ones(count))
    bias = np.zeros(count, np.int64)
    bias_value = input_value(layer.node, 2)
    if bias_value is not None:
        dequantize = bias_value.producer()
        bias_codes = constant_input(dequantize, 0) if dequantize is not None else None
        if bias_codes is None:
            raise ModelError(f"{describe(layer.node)}: its bias is not the DequantizeLinear of an int32 constant")
        bias = bias_codes.astype(np.int64)
    bits = stored_bits(stored.dtype)
    zero_point = constant_input(layer.node.inputs[1].producer(), 2)  # type: ignore[union-attr,arg-type]
    return FinalWeight(signed_codes(array, zero_point), bits, multiplier, exponent, bias)


def _channels(layer: Layer, weight: npt.NDArray[np.generic] | None) -> int:
    assert weight is not None
    return int(weight.shape[output_axis(layer.node)])


def split_scale(scales: npt.NDArray[np.float64]) -> tuple[IntArray, IntArray]:
    """`scale = m * 2**e` with an odd m, exactly; ModelError where m needs more than 8 bits."""
    mantissa, exponent = np.frexp(scales)
    m, e = np.ldexp(mantissa, 8), exponent - 8
    if np.any(m != np.round(m)) or np.any(scales <= 0):
        raise ModelError(f"weight scale {scales.min():g}, expected an 8-bit integer times a power of two")
    whole = m.astype(np.int64)
    zeros = np.log2(whole & -whole).astype(np.int64)
    return whole >> zeros, e.astype(np.int64) + zeros
