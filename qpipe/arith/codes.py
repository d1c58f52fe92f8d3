"""The integer codes of a layer's weights, whichever quantizer makes them: fixed point (FAQ), DoReFa-Net's, or signs.

`quantize` is a training step's: codes and exponents from the weights as they are. `codes_at` is what evaluation uses,
codes at exponents that are given; `stored_codes` what a file says, where unsafe pairs lie at their codes already.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from qpipe.arith.binary import BinarySpec, sign_codes
from qpipe.arith.dorefa import DoReFaSpec, dorefa_codes
from qpipe.arith.multiplier import quantize_weight
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import WeightSpec, round_rows, safe_codes

NominalSpec = DoReFaSpec | BinarySpec
"""Those whose scale is nominal: one exponent a layer, which stays."""

AnyWeightSpec = WeightSpec | NominalSpec
WeightQuantizer = Literal["fixed-point", "dorefa", "bireal", "groupnet"]


def quantize(
    rows: Any, k: Any, beta: Any, spec: AnyWeightSpec, *, source: QuantSpec, output: QuantSpec | None, xp: Any = np
) -> tuple[Any, Any]:
    """Codes `[C, K]` in the float type of rows, and exponents int `[C]`; k and beta as in `quantize_weight`."""
    if isinstance(spec, NominalSpec):
        return _nominal_codes(rows, spec, xp), xp.zeros(len(rows), dtype=xp.int32) + spec.exponent
    return quantize_weight(rows, k, beta, spec, source=source, output=output, xp=xp)


def codes_at(rows: Any, exponent: Any, spec: AnyWeightSpec, xp: Any = np) -> Any:
    """Codes `[C, K]` of float weights at exponents `[C]`, what `quantize` gives at its own."""
    return _nominal_codes(rows, spec, xp) if isinstance(spec, NominalSpec) else safe_codes(rows, exponent, spec, xp)


def stored_codes(rows: Any, exponent: Any, spec: AnyWeightSpec, xp: Any = np) -> Any:
    """Codes `[C, K]` of the float weights that a file stores, at its exponents `[C]`."""
    return _nominal_codes(rows, spec, xp) if isinstance(spec, NominalSpec) else round_rows(rows, exponent, spec, xp)


def _nominal_codes(rows: Any, spec: NominalSpec, xp: Any) -> Any:
    return sign_codes(rows, xp) if isinstance(spec, BinarySpec) else dorefa_codes(rows, spec.bits, xp)
