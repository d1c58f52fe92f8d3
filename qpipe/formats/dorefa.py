"""DoReFa-Net's quantizer of weights: tanh, normalized by the layer's largest, on 2**k evenly spaced levels.

    w_q = 2 quantize_k(tanh(w) / (2 max |tanh(w)|) + 1/2) - 1        quantize_k(r) = round((2**k - 1) r) / (2**k - 1)

so `w_q = c / (2**k - 1)` with an odd code `c = 2j - (2**k - 1)`; there is no code 0. The codes get a nominal scale, one
power of two a layer, fixed, which brings them near the weights that training starts from; the factor 1 / (2**k - 1), as
every other of the whole layer, is in the statistics of the BatchNormalization that follows, so in its 8-bit multiplier.
Activations, `round((2**k - 1) x) / (2**k - 1)` of x clipped to [0, 1], are in the same way an unsigned fixed-point grid
whose top code stands for 1: gamma and beta of the BatchNormalization before it hold the factor.

Source: Zhou et al. 2016, *DoReFa-Net*, equations 5, 9 and 11 (f_w^k and f_a^k); the quantizer of AG, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, no_type_check

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import A, AnyArray, FloatArray, namespace
from qpipe.arith.spec import QuantSpec
from qpipe.errors import RecipeError
from qpipe.formats import WeightQuantizer
from qpipe.formats.base import NominalFormat, TrainableWeight, WeightOptions, WeightPlace, stored_weight
from qpipe.formats.functions import call_function
from qpipe.nodes import DOMAIN, describe, int_attribute

if TYPE_CHECKING:
    from onnxscript import FLOAT, INT8

TINY = float(np.finfo(np.float32).smallest_subnormal)
"""What the largest tanh counts as at least: weights of nothing but zeros have codes too, and no other number is less.
"""


@dataclass(frozen=True)
class DoReFa(NominalFormat):
    """bits: k, 2 to 7. exponent: log2 of the nominal scale, that of all output channels."""

    name: ClassVar[WeightQuantizer] = "dorefa"
    widths: ClassVar[range] = range(2, 8)  # codes up to 2**7 - 1 are the last that int8 holds
    codes_op: ClassVar[str] = "DoReFaCodes"

    bits: int
    exponent: int

    @property
    def qmax(self) -> int:
        """`2**k - 1`: codes are odd, and so have one bit more than k."""
        return int(2**self.bits - 1)

    @classmethod
    def first(
        cls, node: ir.Node, rows: FloatArray, bits: int, source: QuantSpec, options: WeightOptions
    ) -> tuple[Self, None]:
        """On the nominal scale nearest to the weights as they are; RecipeError where pairs of codes would be unsafe."""
        spec = cls(bits, nominal_exponent(rows, dorefa_codes(rows, bits)))
        if options.pair_limit is not None and 2 * spec.qmax > options.pair_limit:
            raise RecipeError(
                f"{describe(node)}: {bits}-bit dorefa weights on a {source.bits}-bit input saturate on x86 without "
                "VNNI, expected fewer bits of either, or cpu 'vnni'"
            )
        return spec, None

    def codes(self, rows: A) -> A:
        """See `dorefa_codes`."""
        return dorefa_codes(rows, self.bits)

    def unrounded(self, weight: A) -> A:
        """The normalized tanh: the gradient of the rounding is that of this function (equation 9)."""
        return unrounded(weight, self.bits) * 2.0**self.exponent

    @classmethod
    def codes_function(cls) -> Any:
        """See `codes_function` of this module."""
        return codes_function()

    def code_nodes(self, at: WeightPlace) -> list[ir.Node]:
        """A call of `DoReFaCodes`."""
        return [call_function(at.model, codes_function(), [at.weight], f"{at.base}_weight_dorefa", bits=self.bits)]

    @classmethod
    def read(cls, dequantize: ir.Node, codes: ir.Node, options: WeightOptions, *, axis: int) -> TrainableWeight:
        """The width is in the call, the nominal scale in the file."""
        expected = "float weights, and constant scales behind it"
        values, scale, exponents = stored_weight(dequantize, codes.inputs[0], axis, codes, expected)
        return TrainableWeight(values, scale, exponents, cls(int_attribute(codes, "bits", 0), int(exponents[0])))


def unrounded(weight: A, bits: int) -> A:
    """`(2**k - 1) tanh(w) / max |tanh(w)|` in w's type: what is rounded to the nearest odd code."""
    xp = namespace(weight)
    squashed = xp.tanh(weight)
    # Divided first: the reciprocal of a subnormal number is infinite in float32.
    steps: A = squashed / xp.clip(xp.amax(abs(squashed)), TINY, None) * (2**bits - 1)
    return steps


def dorefa_codes(weight: A, bits: int) -> A:
    """The odd codes of a layer's weights, in w's float type; computed in float64, where numpy and torch agree."""
    xp = namespace(weight)
    wide, n = xp.asarray(weight, dtype=xp.float64), 2**bits - 1
    codes = 2 * xp.round((unrounded(wide, bits) + n) / 2) - n
    return xp.asarray(codes, dtype=weight.dtype)


def nominal_exponent(weight: AnyArray, codes: AnyArray) -> int:
    """log2 of the power of two nearest to the factor that brings the codes nearest to the weights (least squares)."""
    product, energy = float((weight * codes).sum()), float((codes * codes).sum())
    return round(float(np.log2(product / energy))) if product > 0 else 0


@cache
def codes_function() -> Any:
    """The ONNX function of the trainable file, which onnxscript compiles from its source."""
    global FLOAT, INT8  # where onnxscript looks for them
    from onnxscript import FLOAT, INT8, script
    from onnxscript import opset21 as op
    from onnxscript.values import Opset

    @no_type_check
    @script(Opset(DOMAIN, 1), default_opset=op)
    def DoReFaCodes(w: FLOAT[...], bits: int) -> INT8[...]:  # noqa: N802
        """`2 round((n tanh(w) / max |tanh(w)| + n) / 2) - n`, n = 2**bits - 1."""
        width = op.Cast(op.Constant(value_int=bits), to=1)
        n = op.Pow(2.0, width) - 1.0
        # Of what is small it is the number itself; some runtimes give 0 for the smallest.
        squashed = op.Where(op.Abs(w) < 0.000244140625, w, op.Tanh(w))
        largest = op.Max(op.ReduceMax(op.Abs(squashed), keepdims=0), TINY)
        return op.Cast(op.Round((squashed / largest * n + n) / 2.0) * 2.0 - n, to=3)

    return DoReFaCodes
