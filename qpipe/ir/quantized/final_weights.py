"""The integers of a trainable layer, computed from nothing but what its file says."""

from __future__ import annotations

import numpy as np

from qpipe.arith.multiplier import MULTIPLIER_BITS, IntegerAffine, fit, fit_alone
from qpipe.arith.namespace import AnyArray, FloatArray, IntArray
from qpipe.formats.base import TrainableWeight
from qpipe.ir.graph.affine import batch_norm_parameters, read_affine
from qpipe.ir.quantized.view import RequantizedLayer, Weighted
from qpipe.ir.quantized.view_weights import FinalWeight
from qpipe.nodes import rank
from qpipe.ops.weight_layout import to_rows, to_weight


def final_weight(layer: Weighted[TrainableWeight]) -> FinalWeight:
    """Codes, multiplier, exponent and bias of a Conv, Gemm or MatMul; a negative k has its sign in the codes."""
    weight = layer.weight
    rows: AnyArray = float_rows(layer)
    codes = weight.format.stored_codes(rows, weight.exponents, weight.basis_array)
    integers = fit_layer(layer, codes)
    signed = codes * integers.sign[:, None]
    shape = tuple(weight.values.shape.numpy()) if weight.values.shape is not None else ()
    return _final(to_weight(layer.node, signed, shape), weight.format.code_bits, weight.exponents, integers)


def float_rows(layer: Weighted[TrainableWeight]) -> FloatArray:
    """The float weights as `[C, K]`."""
    rows: FloatArray = to_rows(layer.node, layer.weight.array)
    return rows


def fit_layer(layer: Weighted[TrainableWeight], codes: FloatArray) -> IntegerAffine[AnyArray]:
    """The integers of the affine map behind these codes `[C, K]`."""
    affine = read_affine(layer, len(codes))
    source = layer.sources[0].grid
    return fit(
        affine.k,
        affine.beta,
        affine.mean,
        weight_exponent=layer.weight.exponents,
        input_exponent=source.exponent,
        output=None if layer.quantizer is None else layer.quantizer.rounded_to,
        weight_sum=np.abs(codes).sum(axis=1, dtype=np.float64) * source.largest,
    )


def standalone_batch_norm(layer: RequantizedLayer) -> FinalWeight:
    """A BatchNormalization after a quantizer, as a depthwise Conv of kernel 1: weight `[C, 1, ...]`.

    In two dimensions, where there is no Conv, as a Gemm: a diagonal `[C, C]`.
    """
    k, beta, mean = batch_norm_parameters(layer)
    codes, exponent, integers = fit_alone(
        k, beta, mean, source=layer.sources[0].grid, output=layer.quantizer.rounded_to
    )
    dims = rank(layer.node.inputs[0]) or 4
    weight = np.diag(codes) if dims == 2 else codes.reshape(-1, *([1] * (dims - 1)))
    return _final(weight, MULTIPLIER_BITS, exponent.astype(np.int64), integers)


def _final(codes: AnyArray, bits: int, exponent: IntArray, integers: IntegerAffine[AnyArray]) -> FinalWeight:
    return FinalWeight(
        codes=codes.astype(np.int8),
        bits=bits,
        multiplier=integers.multiplier.astype(np.int64),
        exponent=exponent + integers.exponent.astype(np.int64),
        bias=integers.bias.astype(np.int64),
    )
