"""Give a layer DoReFa-Net's weights, and its BatchNormalization the scale that they have (see `qpipe.arith.dorefa`)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.arith.dorefa import DoReFaSpec, dorefa_codes
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import pair_limit
from qpipe.errors import LoweringError, RecipeError
from qpipe.ir.attributes import describe, input_value, require_constant
from qpipe.ir.layers import Layer
from qpipe.ir.plan import QuantizationPlan
from qpipe.ir.qdq import insert_weight_quantizer, set_constant_input
from qpipe.ir.weight_layout import is_depthwise, to_rows

MAX_BITS = 7  # codes up to 2**7 - 1 are the last that int8 holds


def takes_dorefa(layer: Layer, plan: QuantizationPlan) -> bool:
    """Whether it is an inner layer of weights: the first and the last keep 8-bit fixed-point ones."""
    return layer.is_weighted and layer.node not in plan.edges


def check_dorefa(plan: QuantizationPlan) -> None:
    """Raise an error that names the first layer that can't have DoReFa-Net's weights.

    Raises:
        RecipeError: a width of more than 7 bits.
        LoweringError: no BatchNormalization follows, whose multiplier could hold the factor 1 / (2**k - 1).
    """
    for layer in plan.layers:
        if not takes_dorefa(layer, plan):
            continue
        bits = plan.weight_bits[layer.node]
        if bits > MAX_BITS:
            raise RecipeError(f"{describe(layer.node)}: {bits}-bit weights, expected 2 to {MAX_BITS} with dorefa")
        if layer.batch_norm is None:
            raise LoweringError(f"{describe(layer.node)}: no BatchNormalization follows it, expected one with dorefa")


def quantize_dorefa(model: ir.Model, layer: Layer, bits: int, source: QuantSpec, *, cpu: str) -> None:
    """Insert the quantizer; the statistics of the BatchNormalization become those of the new weights' products.

    The weights change by more than rounding, so the running mean and variance are scaled by the factor that brings the
    old weights nearest to the new ones in the least squares' sense; training measures them anew.
    """
    spec = DoReFaSpec(bits)
    if cpu != "vnni" and not is_depthwise(layer.node) and 2 * spec.qmax > pair_limit(source.stored_max):
        raise RecipeError(
            f"{describe(layer.node)}: {bits}-bit dorefa weights on a {source.bits}-bit input saturate on x86 without "
            "VNNI, expected fewer bits of either, or cpu 'vnni'"
        )
    weight = require_constant(layer.node, 1, "weight").astype(np.float32)
    codes = dorefa_codes(to_rows(layer.node, weight), spec)
    exponents = np.full(len(codes), spec.exponent, np.int64)
    rows = to_rows(layer.node, weight).astype(np.float64)
    energy = float(np.square(rows).sum())
    ratio = float((rows * codes).sum()) / energy * 2.0**spec.exponent if energy else 1.0
    insert_weight_quantizer(model, layer.node, weight, exponents, spec)
    assert layer.batch_norm is not None
    mean, variance = (require_constant(layer.batch_norm, i, "statistics").astype(np.float64) for i in (3, 4))
    set_constant_input(layer.batch_norm, 3, (mean * ratio).astype(np.float32))
    set_constant_input(layer.batch_norm, 4, (variance * ratio**2).astype(np.float32))
    if input_value(layer.node, 2) is not None:
        bias = require_constant(layer.node, 2, "bias")
        set_constant_input(layer.node, 2, (bias * ratio).astype(np.float32))
