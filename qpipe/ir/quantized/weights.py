"""A layer's float weight and its first power-of-two exponents."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qpipe.arith.quantize import IntArray
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import WeightSpec, round_rows
from qpipe.formats.codes import AnyWeightSpec, codes_at, quantize
from qpipe.ir.graph.affine import Float64Array, read_affine
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.weight_layout import to_rows, to_weight
from qpipe.nodes import require_constant

FloatArray = npt.NDArray[np.float32]


def initial_weight(
    layer: Layer, spec: AnyWeightSpec, source: QuantSpec, output: QuantSpec | None
) -> tuple[FloatArray, IntArray]:
    """The float weight of a layer as the QDQ file stores it, and its exponents `[C]`."""
    weight = require_constant(layer.node, 1, "weight").astype(np.float32)
    rows = to_rows(layer.node, weight)
    affine = read_affine(layer, len(rows))
    stored, exponent = rows_on_grid(rows, affine.k, affine.beta, spec, source, output)
    return np.ascontiguousarray(to_weight(layer.node, stored, weight.shape)), exponent


def rows_on_grid(
    rows: FloatArray,
    k: Float64Array,
    beta: Float64Array,
    spec: AnyWeightSpec,
    source: QuantSpec,
    output: QuantSpec | None,
) -> tuple[FloatArray, IntArray]:
    """Float weights `[C, K]` as the file stores them, and exponents `[C]`, before an affine map with k and beta."""
    _, exponent = quantize(rows, k, beta, spec, source=source, output=output)
    return storable(rows, exponent, spec), exponent.astype(np.int64)


def storable(rows: FloatArray, exponent: IntArray, spec: AnyWeightSpec) -> FloatArray:
    """Float weights as a file keeps them: what the pair condition moved lies at its code, where rounding finds it.

    Weights on a nominal scale and LQ-Net's have no such pairs, and stay as they are.
    """
    if not isinstance(spec, WeightSpec):
        return rows
    codes = codes_at(rows, exponent, spec)
    scale = np.ldexp(np.float32(1), exponent.astype(np.int32))[:, None]
    moved = round_rows(rows, exponent, spec) != codes
    stored: FloatArray = np.where(moved, codes * scale, rows).astype(np.float32)
    return stored
