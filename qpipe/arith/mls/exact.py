"""Low-bit sums of products in big integers (section 4.2): what training simulates in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from qpipe.arith.mls.accumulator import Accumulator
from qpipe.arith.mls.formats import FLOAT_MANTISSA, MlsFormat
from qpipe.arith.mls.quantize import MlsTensor
from qpipe.arith.namespace import AnyArray


def integers(x: AnyArray) -> AnyArray:
    """Whole numbers as Python's integers, which have any width."""
    whole: AnyArray = np.vectorize(int, otypes=[object])(x)
    return whole


@dataclass(frozen=True)
class Operand:
    """A quantized tensor in integers: `elements * 2**unit * (1 + mantissas / 2) * 2**exponents * scale`.

    Arrays hold Python's integers. elements: `[n, c, ...]`. mantissas, exponents: of the groups' scales, for each sample
    (or output channel) and channel `[n, c]`.
    """

    elements: AnyArray
    mantissas: AnyArray
    exponents: AnyArray
    scale: Fraction
    fmt: MlsFormat

    @classmethod
    def of(cls, tensor: MlsTensor, fmt: MlsFormat) -> Operand:
        """Of what `quantize` gave."""
        elements = (tensor.values / tensor.group_scale).cpu().numpy().astype(np.float64)
        scales = tensor.group_scale.expand(tensor.values.shape[:2] + tensor.group_scale.shape[2:]).cpu().numpy()
        fraction, exponent = np.frexp(scales.reshape(elements.shape[:2]))
        return cls(
            integers(np.ldexp(elements, -fmt.element.unit)),
            integers(4 * fraction - 2),
            integers(exponent - 1),
            Fraction(tensor.scale.item()),
            fmt,
        )

    def viewed(self, *axes: int) -> Operand:
        """With other axes in the place of the first two."""
        return replace(
            self,
            elements=self.elements.reshape(*axes, *self.elements.shape[2:]),
            mantissas=self.mantissas.reshape(axes),
            exponents=self.exponents.reshape(axes),
        )


@dataclass(frozen=True)
class Sums:
    """The numbers `integers * 2**exponent * scale`, exact.

    magnitudes: the same sums of absolute values. units: the exponent, above `exponent`, of a power of two of which all
    that a number sums is a multiple. terms: how many products it sums at most.
    """

    integers: AnyArray
    magnitudes: AnyArray
    units: AnyArray
    exponent: int
    scale: Fraction
    terms: int

    def fractions(self) -> AnyArray:
        """The numbers."""
        found: AnyArray = self.integers * (Fraction(2) ** self.exponent * self.scale)
        return found

    def held_by_float32(self) -> AnyArray:
        """Where sums in float32 are exact in any order: all partial sums are up to 2**24 units.

        There the float simulation equals the oracle, if the scale is a power of two and no product is subnormal.
        """
        held: AnyArray = self.magnitudes <= np.left_shift(1, self.units + FLOAT_MANTISSA + 1)
        return held

    def float32_errors(self) -> AnyArray:
        """What the float simulation errs at most, where none of its numbers is subnormal.

        Rounded are the product of the tensors' scales, its product with one operand (or with the result), each product
        of elements, and a sum of n numbers n - 1 times: `(1 + 2**-24)**(n + 2) - 1` of the sum of magnitudes.
        """
        relative = (1 + Fraction(1, 2 << FLOAT_MANTISSA)) ** (self.terms + 2) - 1
        errors: AnyArray = self.magnitudes * (relative * Fraction(2) ** self.exponent * self.scale)
        return errors

    def reshaped(self, *shape: int) -> Sums:
        """With other axes."""
        return replace(
            self,
            integers=self.integers.reshape(shape),
            magnitudes=self.magnitudes.reshape(shape),
            units=self.units.reshape(shape),
        )


def summed(
    within: Callable[[AnyArray, AnyArray], AnyArray], one: Operand, other: Operand, accumulator: Accumulator, axis: int
) -> Sums:
    """Sum products of two operands within groups, and these sums between them.

    within: the sums of products of two arrays of elements (equation 7), with all the axes of both operands' scales and
    others behind. axis: the one that is summed between groups (equation 8).

    OverflowError: a sum is wider than the accumulator that was derived, in some order of its terms.
    """
    partial, magnitudes = within(one.elements, other.elements), within(abs(one.elements), abs(other.elements))
    behind = [1] * (partial.ndim - one.mantissas.ndim)
    mantissas, exponents = one.mantissas + other.mantissas, one.exponents + other.exponents
    mantissas, exponents = (array.reshape(*array.shape, *behind) for array in (mantissas, exponents))
    if accumulator.partial_sums == 1:
        # One group, or none: the scale is the same along the axis.
        partial, magnitudes = (array.sum(axis, keepdims=True) for array in (partial, magnitudes))
        mantissas, exponents = (array.take([0], axis) for array in (mantissas, exponents))
    _check(magnitudes, accumulator.bits, f"{accumulator.product} within a group")

    fraction_bits = sum(fmt.group.mantissa for fmt in (one.fmt, other.fmt) if fmt.axes)
    lowest = exponents.min()
    shifts = exponents - lowest + fraction_bits
    total, total_magnitudes = (shifted(array, mantissas, shifts).sum(axis) for array in (partial, magnitudes))
    above = accumulator.scale_bits + lowest - fraction_bits
    _check(total_magnitudes << above, accumulator.bits_between, f"{accumulator.product} between groups")
    # A sum of two shifts is a multiple of the lower one: of a half (1.5), or of a quarter (2.25).
    units = np.where(magnitudes > 0, shifts - mantissas, accumulator.bits_between).min(axis)
    terms = accumulator.terms * accumulator.partial_sums
    exponent = one.fmt.element.unit + other.fmt.element.unit + lowest - fraction_bits
    return Sums(total, total_magnitudes, units, exponent, one.scale * other.scale, terms)


def shifted(sums: AnyArray, mantissas: AnyArray, shifts: AnyArray) -> AnyArray:
    """Sums times `2**shifts` times 1, 1.5 or 2.25 = 1.5 * 1.5, for 0, 1 or 2 mantissas: two shifts, one addition."""
    once, twice = mantissas > 0, mantissas > 1
    first = np.left_shift(sums, shifts + twice)
    second = np.left_shift(sums, np.where(once, shifts - mantissas, 0))
    found: AnyArray = first + np.where(once, second, 0)
    return found


def _check(magnitudes: AnyArray, bits: int, what: str) -> None:
    widest = int(magnitudes.max(initial=0)).bit_length() + 1
    if widest > bits:
        raise OverflowError(f"{what}: a sum of {widest} bits, expected {bits}")
