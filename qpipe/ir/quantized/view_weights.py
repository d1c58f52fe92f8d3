"""The weights of a QDQ graph: floats on their exponents while they are trained, integers once they are final."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.binary import BinarySpec
from qpipe.arith.lq import MAX_BITS, MIN_BITS, LQSpec, lq_limit
from qpipe.arith.power_of_two import Rounding
from qpipe.arith.weights import DEFAULT_CLIP, DEFAULT_ROUNDING, WeightSpec, pair_limit
from qpipe.errors import ModelError
from qpipe.formats.base import TrainableWeight, WeightOptions
from qpipe.formats.table import FORMATS
from qpipe.ir.files.metadata import get_object
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.qdq import ActivationQuantizer
from qpipe.ir.quantized.quantizer_functions import LQ, SIGN
from qpipe.ir.quantized.weight_codes import signed_codes, stored_bits
from qpipe.ir.quantized.weight_layout import is_depthwise, output_axis
from qpipe.nodes import constant_array, constant_input, describe, exponent_of, input_value, int_attribute

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
    for known in FORMATS.values():
        if producer.op_type == known.codes_op:
            options = WeightOptions(pair_limit=_pair_limit(get_object(model, QUANTIZATION) or {}, layer, source))
            return known.read(dequantize, producer, options, axis=output_axis(layer.node))
    if producer.op_type == SIGN:
        return _nominal_weight(dequantize, producer)
    if producer.op_type == LQ:
        return _lq_weight(model, layer, dequantize, producer, source)
    return _trainable_weight(model, layer, dequantize, source)


def _trainable_weight(
    model: ir.Model, layer: Layer, dequantize: ir.Node, source: ActivationQuantizer
) -> TrainableWeight:
    clip = dequantize.inputs[0].producer() if dequantize.inputs[0] is not None else None
    high = constant_input(clip, 2) if clip is not None and clip.op_type == "Clip" else None
    quantize = clip.inputs[0].producer() if clip is not None and clip.inputs[0] is not None else None
    values = quantize.inputs[0] if quantize is not None and quantize.op_type == "QuantizeLinear" else None
    scale = input_value(dequantize, 1)
    if high is None or values is None or scale is None or constant_array(values) is None:
        raise ModelError(f"{describe(dequantize)}: expected float weights behind QuantizeLinear and Clip")
    scales = constant_array(scale)
    assert scales is not None
    bits = int(high.reshape(-1)[0]).bit_length() + 1
    options = get_object(model, QUANTIZATION) or {}
    spec = WeightSpec(
        bits=bits,
        clip=_clip(options, layer, bits),
        per_channel=scales.ndim > 0,
        pair_limit=_pair_limit(options, layer, source),
        rounding=_rounding(options.get("weight_rounding", "ceil"), bits),
    )
    exponents = [exponent_of(dequantize, float(s)) for s in scales.reshape(-1)]
    if scales.ndim == 0:
        exponents = exponents * _channels(layer, constant_array(values))
    return TrainableWeight(values, scale, np.array(exponents, np.int64), spec)


def _pair_limit(options: Mapping[str, object], layer: Layer, source: ActivationQuantizer) -> int | None:
    waived = options.get("cpu") == "vnni" or is_depthwise(layer.node)
    return None if waived else pair_limit(source.spec.stored_max)


def _nominal_weight(dequantize: ir.Node, function: ir.Node) -> TrainableWeight:
    values, scale = function.inputs[0], input_value(dequantize, 1)
    scales = constant_array(scale)
    if values is None or scale is None or scales is None or constant_array(values) is None:
        raise ModelError(f"{describe(function)}: expected float weights, and constant scales behind it")
    exponents = [exponent_of(dequantize, float(s)) for s in scales.reshape(-1)]
    return TrainableWeight(values, scale, np.array(exponents, np.int64), BinarySpec(exponents[0]))


def _lq_weight(
    model: ir.Model, layer: Layer, dequantize: ir.Node, function: ir.Node, source: ActivationQuantizer
) -> TrainableWeight:
    values, basis, scale = (input_value(function, i) for i in range(3))
    array, scales = constant_array(basis), constant_array(scale)
    bits = int_attribute(function, "bits", 0)
    if values is None or scale is None or scales is None or array is None or constant_array(values) is None:
        raise ModelError(f"{describe(function)}: expected float weights, a basis and constant scales")
    if not MIN_BITS <= bits <= MAX_BITS or array.shape != (scales.size, bits):
        raise ModelError(f"{describe(function)}: a basis of shape {list(array.shape)} for {bits} bits, expected "
                         f"[{scales.size}, bits] of {MIN_BITS} to {MAX_BITS} bits")  # fmt: skip
    exponents = [exponent_of(dequantize, float(s)) for s in scales.reshape(-1)]
    limit = lq_limit(_pair_limit(get_object(model, QUANTIZATION) or {}, layer, source))
    return TrainableWeight(values, scale, np.array(exponents, np.int64), LQSpec(bits, limit), basis)


def _clip(options: Mapping[str, object], layer: Layer, bits: int) -> float:
    """The layer's own clip, or that of all, or the width's."""
    own = options.get("weight_clips")
    clips = [own.get(layer.name) if isinstance(own, dict) else None, options.get("weight_clip")]
    return next((float(clip) for clip in clips if isinstance(clip, int | float)), DEFAULT_CLIP[bits])


def _rounding(stored: object, bits: int) -> Rounding:
    return stored if stored in ("ceil", "nearest") else DEFAULT_ROUNDING[bits]


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
