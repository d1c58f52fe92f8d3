"""A layer's float weight and its first power-of-two exponents."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qpipe.arith.multiplier import weight_exponent_floor
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import WeightSpec, exponents, quantize_rows, round_rows
from qpipe.ir.affine import read_affine
from qpipe.ir.attributes import require_constant
from qpipe.ir.layers import Layer
from qpipe.ir.weight_layout import to_rows, to_weight


def initial_weight(
    layer: Layer, spec: WeightSpec, source: QuantSpec, output: QuantSpec | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The float weight as the QDQ file stores it, and its exponents `[C]`."""
    weight = require_constant(layer.node, 1, "weight").astype(np.float32)
    rows = to_rows(layer.node, weight)
    affine = read_affine(layer, len(rows))
    floor = weight_exponent_floor(affine.k, affine.beta, source.exponent, output)
    codes, exponent = quantize_rows(rows, exponents(rows, spec, floor), spec)
    stored = storable(rows, codes, exponent, spec)
    return np.ascontiguousarray(to_weight(layer.node, stored, weight.shape)), exponent.astype(np.int64)


def storable(
    rows: npt.NDArray[np.float32], codes: npt.NDArray[np.float32], exponent: npt.NDArray[np.int64], spec: WeightSpec
) -> npt.NDArray[np.float32]:
    """Float weights that plain rounding turns into `codes`: a weight that the pair condition moved lies at its code."""
    scale = np.ldexp(np.float32(1), exponent.astype(np.int32))[:, None]
    moved = round_rows(rows, exponent, spec) != codes
    return np.where(moved, codes * scale, rows).astype(np.float32)
