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

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qpipe.arith.spec import SIGNED_ZERO_POINT, QuantSpec
from qpipe.arith.table import SIZE, CodeTable, Grid

SIGNS = QuantSpec(0, -1, 1, SIGNED_ZERO_POINT)
"""The grid of an activation's sign; its 0 is what padding puts between them."""

CLIP = 1.0  # beyond this magnitude a weight has no gradient


@dataclass(frozen=True)
class BinarySpec:
    """exponent: log2 of the nominal scale, that of all output channels."""

    exponent: int
    bits: ClassVar[int] = 1
    code_bits: ClassVar[int] = 2  # of a signed code
    qmax: ClassVar[int] = 1
    per_channel: ClassVar[bool] = True  # in the file: the multiplier rides in the scale of each channel


def sign_codes(weight: Any, xp: Any = np) -> Any:
    """-1 where a weight is below 0, else +1, in its float type."""
    return 2 * xp.asarray(weight >= 0, dtype=weight.dtype) - 1


def magnitudes(rows: Any, xp: Any = np) -> Any:
    """`mean |w|` of each row, float64 `[C]`: the scale at which the signs err least."""
    return xp.mean(abs(rows), axis=1, dtype=xp.float64)


def nominal_exponent(rows: Any) -> int:
    """log2 of the power of two nearest to the mean magnitude of a layer's weights `[C, K]`; 0 where all are zero."""
    mean = float(magnitudes(rows).mean())
    return round(float(np.log2(mean))) if mean > 0 else 0


def sign_table(before: QuantSpec) -> CodeTable:
    """The sign of a tensor on this grid: +1 from its zero on, -1 below."""
    codes = np.where(np.arange(SIZE) >= before.zero_point, 1, -1) + SIGNS.zero_point
    return CodeTable(before, SIGNS, tuple(codes.tolist()))


def is_sign(grid: Grid) -> bool:
    """Whether it is the table of a sign."""
    return isinstance(grid, CodeTable) and grid == sign_table(grid.before)
