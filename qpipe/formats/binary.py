"""Binary weights, the sign of each and the mean magnitude of each output channel; and binary activations, signs alone.

    w_b = a sign(w),   a = mean |w| of the output channel,   sign(0) = +1

The codes are -1 and +1, for which INT2 is wide enough. They get a nominal scale, one power of two a layer, fixed; the
magnitude a, as every other factor of a channel, is in the BatchNormalization that follows, so in its 8-bit multiplier:
`rescale-channels` brings every channel's a to the nominal scale, and the statistics carry what that takes off.

An activation's sign is looked up behind the 8-bit grid of the stream that it is taken from (see `qpipe.arith.table`):

    x_b = +1 where x >= 0, -1 where x < 0        d x_b / d x ~ 2 - 2 |x| within |x| < 1, 0 beyond

which is the derivative of a piecewise quadratic that is nearer to the sign than a clip. x is in the stream's own real
units, those of the BatchNormalizations that write it.

Source: Liu et al. 2018, *Bi-Real Net*, section 3.3 (ApproxSign, and the magnitude-aware weight); Rastegari et al. 2016,
*XNOR-Net*, equation 6 (the mean magnitude is the scale of least squared error); the quantizers of AG, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, no_type_check

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import A, AnyArray, Float64Array, FloatArray, IntArray, namespace
from qpipe.arith.spec import SIGNED_ZERO_POINT, QuantSpec
from qpipe.arith.table import SIZE, CodeTable, GridOrTable
from qpipe.arith.weights import rows_along
from qpipe.errors import LoweringError, RecipeError
from qpipe.formats import WeightQuantizer
from qpipe.formats.base import NominalFormat, TrainableWeight, WeightOptions, WeightPlace, stored_weight
from qpipe.formats.functions import call_function
from qpipe.nodes import DOMAIN, describe

if TYPE_CHECKING:
    from onnxscript import FLOAT, INT8

SIGNS = QuantSpec(0, -1, 1, SIGNED_ZERO_POINT)
"""The grid of an activation's sign; its 0 is what padding puts between them."""

BASES = 5  # of GroupNet: what the paper's best networks have

SIGNED_8_BITS = QuantSpec.signed(8, 0).qmax

CLIP = 1.0  # beyond this magnitude a weight has no gradient

_NEXT_TO_ONE = 1e-6  # a few units in the last place of float32


@dataclass(frozen=True)
class Binary(NominalFormat):
    """exponent: log2 of the nominal scale, that of all output channels."""

    widths: ClassVar[range] = range(0)
    codes_op: ClassVar[str] = "SignCodes"

    exponent: int
    bits = 1
    qmax = 1

    @classmethod
    def check(cls, node: ir.Node, bits: int, *, has_batch_norm: bool) -> None:
        """It has one bit, whatever the others have; its magnitude is in the multiplier."""
        if bits != 8:
            raise RecipeError(f"{describe(node)}: {bits}-bit weights, expected no bits given: a binary layer has one")
        if not has_batch_norm:
            raise LoweringError(f"{describe(node)}: no BatchNormalization follows it, expected one to be binary")

    @classmethod
    def first(
        cls, node: ir.Node, rows: FloatArray, bits: int, source: QuantSpec, options: WeightOptions
    ) -> tuple[Binary, None]:
        """On the nominal scale nearest to the mean magnitude."""
        return Binary(nominal_exponent(rows)), None

    @classmethod
    def input_table(cls, source: QuantSpec) -> CodeTable:
        """Its sign."""
        return sign_table(source)

    def codes(self, rows: A) -> A:
        """See `sign_codes`."""
        return sign_codes(rows)

    def rounded_from(self, weight: A, values: A, axis: int) -> A:
        """`a clip(w)` with a constant a: the gradient is `mean |w|` within |w| <= 1, and none beyond (section 3.3)."""
        xp = namespace(weight)
        mean = xp.asarray(magnitudes(rows_along(values, axis)), dtype=weight.dtype)
        return xp.clip(weight, -CLIP, CLIP) * mean.reshape(tuple(-1 if i == axis else 1 for i in range(weight.ndim)))

    def filling_ratio(
        self,
        rows: FloatArray,
        k: Float64Array,
        exponent: IntArray,
        source: QuantSpec,
        output: QuantSpec,
        spread: float | None = None,
    ) -> Float64Array:
        """`2**exponent / mean |w|`, so that signs on the nominal scale are the magnitude-aware weights.

        1 for zeros, and where float32 holds nothing nearer.
        """
        mean, nominal = magnitudes(rows), np.ldexp(1.0, self.exponent)
        ratio = nominal / np.where(mean > 0, mean, nominal)
        return np.where(abs(ratio - 1) < _NEXT_TO_ONE, 1.0, ratio)

    @classmethod
    def codes_function(cls) -> Any:
        """See `codes_function` of this module."""
        return codes_function()

    def code_nodes(self, at: WeightPlace) -> list[ir.Node]:
        """A call of `SignCodes`."""
        return [call_function(at.model, codes_function(), [at.weight], f"{at.base}_weight_sign")]

    @classmethod
    def read(cls, dequantize: ir.Node, codes: ir.Node, options: WeightOptions, *, axis: int) -> TrainableWeight:
        """The nominal scale is all that there is."""
        expected = "float weights, and constant scales behind it"
        values, scale, exponents = stored_weight(dequantize, codes.inputs[0], axis, codes, expected)
        return TrainableWeight(values, scale, exponents, Binary(int(exponents[0])))


class BiReal(Binary):
    """Of a network with a shortcut around every convolution."""

    name: ClassVar[WeightQuantizer] = "bireal"
    rebuild: ClassVar[str] = "shortcut-every-convolution"


class GroupNet(Binary):
    """Of a network with several bases in the place of each block's convolutions."""

    name: ClassVar[WeightQuantizer] = "groupnet"
    rebuild: ClassVar[str] = "expand-bases"


def sign_codes(weight: A) -> A:
    """-1 where a weight is below 0, else +1, in its float type."""
    return 2 * namespace(weight).asarray(weight >= 0, dtype=weight.dtype) - 1


def magnitudes(rows: A) -> A:
    """`mean |w|` of each row, float64 `[C]`: the scale at which the signs err least."""
    xp = namespace(rows)
    return xp.mean(abs(rows), axis=1, dtype=xp.float64)


def nominal_exponent(rows: AnyArray) -> int:
    """log2 of the power of two nearest to the mean magnitude of a layer's weights `[C, K]`; 0 where all are zero."""
    mean = float(magnitudes(rows).mean())
    return round(float(np.log2(mean))) if mean > 0 else 0


def sign_table(before: QuantSpec) -> CodeTable:
    """The sign of a tensor on this grid: +1 from its zero on, -1 below."""
    codes = np.where(np.arange(SIZE) >= before.zero_point, 1, -1) + SIGNS.zero_point
    return CodeTable(before, SIGNS, tuple(codes.tolist()))


def is_sign(grid: GridOrTable) -> bool:
    """Whether it is the table of a sign."""
    return isinstance(grid, CodeTable) and grid == sign_table(grid.rounded_to)


def base_grid(grids: Sequence[QuantSpec]) -> QuantSpec:
    """The common grid of bases that are summed, from the signed 8-bit grid that each would have alone.

    Its range is a share of 127 for each, 25 of five, so that no partial sum leaves `[-127, 127]` on the same steps: it
    has 8 bits, and is exact. Steps are 4 times the coarsest of theirs, which for five cuts a base at 25/32 of its power
    of two: the next finer step would cut it at less than half of its percentile, perhaps, the next coarser one never.
    """
    limit = SIGNED_8_BITS // len(grids)
    steps = round(float(np.log2(SIGNED_8_BITS / limit)))
    return QuantSpec(max(grid.exponent for grid in grids) + steps, -limit, limit, SIGNED_ZERO_POINT)


@cache
def codes_function() -> Any:
    """The ONNX function of the trainable file, which onnxscript compiles from its source."""
    global FLOAT, INT8  # where onnxscript looks for them
    from onnxscript import FLOAT, INT8, script
    from onnxscript import opset21 as op
    from onnxscript.values import Opset

    @no_type_check
    @script(Opset(DOMAIN, 1), default_opset=op)
    def SignCodes(w: FLOAT[...]) -> INT8[...]:  # noqa: N802
        """-1 where a weight is below 0, else +1."""
        return op.Cast(op.Where(w >= 0.0, 1.0, -1.0), to=3)

    return SignCodes
