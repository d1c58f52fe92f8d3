"""How wide the integers of a low-bit convolution become (section 4.2), derived from formats, grouping and sizes.

Inside a group all scales are one, and elements are integers times a power of two: products are accumulated as integers.
Between groups, partial sums are shifted and added by their scales (equation 8).

The paper counts `2M + 2**(E + 1) - 2` bits for a product and concludes that 16 are enough to accumulate. They are not
in general: ⟨2, 4⟩ has products of 14 bits, so that with the sign two fit, and the nine of a 3x3 kernel need 19 (its
Table 2 has 32 there). `docs/low_bit_training.md` has a table of what holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qpipe.arith.mls.formats import MlsFormat

Product = Literal["Conv(W, A)", "Conv(W, E)", "Conv(A, E)"]
"""Forward, the gradient of the input, the gradient of the weight."""

PAPER_BITS = 16
"""Of the paper's accumulator."""


@dataclass(frozen=True)
class Convolution:
    """How a convolution's window moves; a Gemm has no spatial axis. pads: before and behind, for each spatial axis."""

    strides: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] = ()
    dilations: tuple[int, ...] = ()
    groups: int = 1

    def output(self, spatial: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """The output's spatial axes, from the input's and the kernel's."""
        axes = zip(spatial, kernel, self.strides, self.pads, self.dilations, strict=True)
        return tuple((size + sum(pad) - d * (k - 1) - 1) // s + 1 for size, k, s, pad, d in axes)


@dataclass(frozen=True)
class Accumulator:
    """One of the three products of a convolution.

    largest_product: of two elements, as integers. terms: how many of them one group sums at most. partial_sums: how
    many groups' sums one number of the result adds. scale_bits: how many bits of a fixed-point number the product of
    two groups' scales may move them.
    """

    product: Product
    largest_product: int
    terms: int
    partial_sums: int
    scale_bits: int

    @property
    def bits(self) -> int:
        """Within a group, sign included."""
        return (self.terms * self.largest_product).bit_length() + 1

    @property
    def bits_between(self) -> int:
        """Between groups, sign included, were it exact: hardware has a float32 there, as its 8 bits of exponent ask."""
        return ((self.partial_sums * self.terms * self.largest_product) << self.scale_bits).bit_length() + 1

    @property
    def terms_that_fit(self) -> int:
        """How many products the paper's accumulator holds, whatever their signs."""
        return ((1 << PAPER_BITS - 1) - 1) // self.largest_product


def accumulator(
    product: Product,
    convolution: Convolution,
    weight: Sequence[int],
    activation: Sequence[int],
    formats: tuple[MlsFormat, MlsFormat],
) -> Accumulator:
    """Of one product of a layer with these shapes, W `[co, ci / g, ...]` and A `[n, ci, ...]`.

    formats: of its two operands, as its name has them. A group sums over positions, of the kernel or, in Conv(A, E), of
    the output. It goes on over channels or samples where neither operand has a scale for each of them.
    """
    one, other = formats
    (co, ci_within, *kernel), (n, _, *spatial) = weight, activation
    if product == "Conv(W, A)":
        inside, across, scaled = math.prod(kernel), ci_within, one.counts(1) or other.counts(1)
    elif product == "Conv(W, E)":
        # A stride passes over positions of the kernel, unless dilation makes it come back to them.
        axes = zip(kernel, convolution.strides, convolution.dilations, strict=True)
        inside = math.prod(-(-k // (stride // math.gcd(stride, dilation))) for k, stride, dilation in axes)
        across, scaled = co // convolution.groups, one.counts(0) or other.counts(1)
    else:
        inside = math.prod(convolution.output(spatial, kernel))
        across, scaled = n, one.counts(0) or other.counts(0)
    return Accumulator(
        product,
        one.element.largest_integer * other.element.largest_integer,
        terms=inside if scaled else inside * across,
        partial_sums=across if scaled else 1,
        scale_bits=sum(fmt.group.mantissa - fmt.group.smallest_exponent for fmt in formats if fmt.axes),
    )


def accumulators(
    convolution: Convolution,
    weight: Sequence[int],
    activation: Sequence[int],
    *,
    formats: tuple[MlsFormat, MlsFormat, MlsFormat],
) -> tuple[Accumulator, Accumulator, Accumulator]:
    """Of a layer's three products; formats: of W, A and E."""
    w, a, e = formats
    return (
        accumulator("Conv(W, A)", convolution, weight, activation, (w, a)),
        accumulator("Conv(W, E)", convolution, weight, activation, (w, e)),
        accumulator("Conv(A, E)", convolution, weight, activation, (a, e)),
    )
