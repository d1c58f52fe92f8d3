"""The integer codes of a layer's weights, whichever quantizer makes them: fixed point, DoReFa-Net's, LQ-Net's, signs.

`quantize` is a training step's: codes and exponents from the weights as they are. `codes_at` is what evaluation uses,
codes at exponents that are given; `stored_codes` what a file says, where unsafe pairs lie at their codes already.
`basis` is that of LQ-Net's weights, `[C, K]`; others have none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qpipe.arith.binary import BinarySpec, sign_codes
from qpipe.arith.lq import LQSpec, lq_codes, lq_exponents
from qpipe.arith.multiplier import quantize_weight, weight_exponent_floor
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import WeightSpec, round_rows, safe_codes
from qpipe.formats.base import WeightFormat

AnyWeightSpec = WeightSpec | BinarySpec | LQSpec | WeightFormat


def quantize(
    rows: Any,
    k: Any,
    beta: Any,
    spec: AnyWeightSpec,
    *,
    source: QuantSpec,
    output: QuantSpec | None,
    basis: Any = None,
    xp: Any = np,
) -> tuple[Any, Any]:
    """Codes `[C, K]` in the float type of rows, and exponents int `[C]`; k and beta as in `quantize_weight`."""
    if isinstance(spec, WeightFormat):
        return spec.quantize(rows, k, beta, source=source, output=output, basis=basis, xp=xp)
    if isinstance(spec, BinarySpec):
        return sign_codes(rows, xp), xp.zeros(len(rows), dtype=xp.int32) + spec.exponent
    if isinstance(spec, LQSpec):
        largest = xp.sum(abs(rows), axis=1, dtype=xp.float64) * (source.largest * source.scale)
        floor = weight_exponent_floor(k, beta, source.exponent, output, largest=largest, xp=xp)
        exponent = lq_exponents(basis, spec, floor, xp)
        return lq_codes(rows, exponent, basis, xp), exponent
    return quantize_weight(rows, k, beta, spec, source=source, output=output, xp=xp)


def codes_at(rows: Any, exponent: Any, spec: AnyWeightSpec, basis: Any = None, xp: Any = np) -> Any:
    """Codes `[C, K]` of float weights at exponents `[C]`, what `quantize` gives at its own."""
    if isinstance(spec, WeightSpec):
        return safe_codes(rows, exponent, spec, xp)
    return stored_codes(rows, exponent, spec, basis, xp)


def stored_codes(rows: Any, exponent: Any, spec: AnyWeightSpec, basis: Any = None, xp: Any = np) -> Any:
    """Codes `[C, K]` of the float weights that a file stores, at its exponents `[C]`."""
    if isinstance(spec, WeightFormat):
        return spec.stored_codes(rows, exponent, basis, xp)
    if isinstance(spec, LQSpec):
        return lq_codes(rows, exponent, basis, xp)
    return sign_codes(rows, xp) if isinstance(spec, BinarySpec) else round_rows(rows, exponent, spec, xp)
