"""Give a layer DoReFa-Net's weights (see `qpipe.arith.dorefa`)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qpipe.arith.dorefa import DoReFaSpec, dorefa_codes, nominal_exponent
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weight_quantizer import WEIGHT_BITS
from qpipe.arith.weights import pair_limit
from qpipe.errors import LoweringError, RecipeError
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.insert_weight import insert_weight_quantizer
from qpipe.ir.quantized.plan import QuantizationPlan
from qpipe.ir.quantized.weight_layout import is_depthwise, to_rows
from qpipe.nodes import describe, require_constant

MAX_BITS = WEIGHT_BITS["dorefa"][-1]


def check_dorefa(plan: QuantizationPlan) -> None:
    """Raise an error that names the first layer that can't have DoReFa-Net's weights.

    Raises:
        RecipeError: a width of more than 7 bits.
        LoweringError: no BatchNormalization follows, whose multiplier could hold the factor 1 / (2**k - 1).
    """
    for layer in plan.layers:
        if not plan.is_inner(layer):
            continue
        bits = plan.weight_bits[layer.node]
        if bits > MAX_BITS:
            raise RecipeError(f"{describe(layer.node)}: {bits}-bit weights, expected 2 to {MAX_BITS} with dorefa")
        if layer.batch_norm is None:
            raise LoweringError(f"{describe(layer.node)}: no BatchNormalization follows it, expected one with dorefa")


def quantize_dorefa(model: ir.Model, layer: Layer, bits: int, source: QuantSpec, *, cpu: str) -> None:
    """Insert the quantizer, on the nominal scale nearest to the weights as they are."""
    weight = require_constant(layer.node, 1, "weight").astype(np.float32)
    rows = to_rows(layer.node, weight)
    codes = dorefa_codes(rows, bits)
    spec = DoReFaSpec(bits, nominal_exponent(rows, codes))
    if cpu != "vnni" and not is_depthwise(layer.node) and 2 * spec.qmax > pair_limit(source.stored_max):
        raise RecipeError(
            f"{describe(layer.node)}: {bits}-bit dorefa weights on a {source.bits}-bit input saturate on x86 without "
            "VNNI, expected fewer bits of either, or cpu 'vnni'"
        )
    insert_weight_quantizer(model, layer.node, weight, np.full(len(rows), spec.exponent, np.int64), spec)
