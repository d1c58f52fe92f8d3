"""The integers of a trainable layer, computed from nothing but what its file says."""

from __future__ import annotations

import numpy as np

from qpipe.arith.multiplier import IntegerAffine, fit
from qpipe.arith.quantize import IntArray
from qpipe.arith.weights import WeightSpec, exponents, round_rows
from qpipe.errors import LoweringError
from qpipe.ir.affine import Affine, batch_norm_parameters, read_affine
from qpipe.ir.attributes import constant_array
from qpipe.ir.view import FinalWeight, QuantizedLayer, TrainableWeight
from qpipe.ir.weight_layout import to_rows, to_weight
from qpipe.ir.weights import NO_FLOOR

INT32_MAX = 2**31 - 1


def final_weight(layer: QuantizedLayer) -> FinalWeight:
    """Codes, multiplier, exponent and bias of a Conv, Gemm or MatMul."""
    weight = layer.weight
    assert isinstance(weight, TrainableWeight)
    values = constant_array(weight.values)
    assert values is not None
    rows = to_rows(layer.node, values.astype(np.float32))
    codes = round_rows(rows, weight.exponents, weight.spec)
    affine = read_affine(layer.layer, len(rows))
    if layer.output is None:
        return _last(layer, weight, to_weight(layer.node, codes, values.shape), affine)
    largest = np.abs(codes).sum(axis=1, dtype=np.float64) * max(layer.inputs[0].spec.qmax, -layer.inputs[0].spec.qmin)
    integers = _fit(layer, affine, weight.exponents, largest)
    signed = codes * integers.sign[:, None].astype(np.float32)
    return _final(to_weight(layer.node, signed, values.shape), weight.spec.bits, weight.exponents, integers)


def standalone_batch_norm(layer: QuantizedLayer) -> FinalWeight:
    """A BatchNormalization after a quantizer: `k` itself is the weight `[C, 1, 1, 1]`, 8 bits, of multiplier 1."""
    k, beta, mean = batch_norm_parameters(layer.layer)
    spec = WeightSpec(bits=8)
    rows = k[:, None]
    assert layer.output is not None
    source = layer.inputs[0].spec
    exponent = exponents(rows, spec, np.full(len(k), NO_FLOOR))
    codes = round_rows(rows, exponent, spec)
    # What the codes say k is decides the bias, so the channel's centre stays where it is.
    k_coded = np.ldexp(codes[:, 0], exponent)
    affine = Affine(np.ones(len(k)), beta - k_coded * mean, np.zeros(len(k)))
    integers = _fit(layer, affine, exponent, np.abs(codes[:, 0]) * max(source.qmax, -source.qmin))
    return _final(codes[:, :, None, None], 8, exponent, integers)


def _fit(layer: QuantizedLayer, affine: Affine, exponent: IntArray, largest: np.ndarray) -> IntegerAffine:  # type: ignore[type-arg]
    assert layer.output is not None
    return fit(
        affine.k,
        affine.beta,
        affine.mean,
        weight_exponent=exponent,
        input_exponent=layer.inputs[0].spec.exponent,
        output=layer.output.spec,
        weight_sum=largest,
    )


def _final(codes: np.ndarray, bits: int, exponent: IntArray, integers: IntegerAffine) -> FinalWeight:  # type: ignore[type-arg]
    return FinalWeight(
        codes=codes.astype(np.int8),
        bits=bits,
        multiplier=integers.multiplier.astype(np.int64),
        exponent=exponent + integers.exponent.astype(np.int64),
        bias=integers.bias.astype(np.int64),
    )


def _last(layer: QuantizedLayer, weight: TrainableWeight, codes: np.ndarray, affine: Affine) -> FinalWeight:  # type: ignore[type-arg]
    """One scale for all channels, no multiplier: the outputs are comparable integers."""
    unit = weight.exponents + layer.inputs[0].spec.exponent
    bias = np.round(np.ldexp(affine.beta, -unit))
    if np.any(np.abs(bias) > INT32_MAX):
        raise LoweringError(f"{layer.op_type} '{layer.name}': a bias of {bias[np.abs(bias).argmax()]:g} is over int32")
    ones = np.ones_like(weight.exponents)
    return FinalWeight(codes.astype(np.int8), weight.spec.bits, ones, weight.exponents, bias.astype(np.int64))
