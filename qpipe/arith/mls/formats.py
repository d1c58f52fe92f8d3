"""What an MLS tensor is made of, as data: x = sign * St * Sg * element (equation 1).

St is one float32 of the tensor, Sg a low-bit float of a group, the element a low-bit float of its own.

Algorithm 1 as printed contradicts itself for E = 0 and where a number underflows. It is read so: the code of a number
⟨E, M⟩ is an exponent field of E bits and a mantissa field m of M bits. A field k > 0 is the normal number
`(1 + m / 2**M) * 2**(k - 2**E)`, thus exponents from 1 - 2**E to -1. The field 0 is `m * 2**(1 - 2**E - M)`, IEEE 754's
gradual underflow; without an exponent (E = 0) there is nothing else, and the numbers are fixed point. So ⟨1, M⟩ has the
grid of ⟨0, M + 1⟩.

Groups
    A tensor is split by its first axis (`n`), its second (`c`), or both (`nc`). Of a weight W `[co, ci, ...]` these are
    output and input channels, of an activation A `[n, ci, ...]` samples and input channels, of an error E
    `[n, co, ...]` samples and output channels. A Gemm is a 1x1 convolution on one pixel.

    The second axis of a grouped convolution's weight `[co, ci / g, ...]` counts within one of its g groups. A group of
    the format is what belongs to one input channel, as it does in A. So W by `c` has ci groups, not ci / g: those of
    the channels `(group of the convolution, second index)`. By `n` and `nc` nothing changes. In each of the three
    convolutions the products of one intra-group sum then still have one scale, the product of two group scales: it runs
    over positions, for one sample, input channel and output channel. A depthwise weight `[C, 1, kh, kw]` has C groups
    by `n`, `c` and `nc` alike, one a kernel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

Grouping = Literal["none", "n", "c", "nc"]
"""Which axes of a tensor count its groups: no axis, the first, the second, both."""
Overflow = Literal["carry", "clip"]
"""Of a fraction that rounds up to 2: on to the next exponent, or, as in the paper, back to the largest fraction."""

MAX_EXPONENT = 5
"""The widest exponent of an element, as of 8-bit floating point: products of two stay clear of float32's underflow."""
MAX_MANTISSA = 8
"""The widest mantissa of an element, as the paper has it; the products of two stay exact in float32."""
MAX_GROUP_EXPONENT = 8
MIN_NORMAL, MAX_NORMAL = -126, 127
"""The exponents of the smallest normal float32 and of the largest power of two."""
FLOAT_MANTISSA = 23
"""Bits of float32's mantissa."""


def _parsed(text: str) -> tuple[int, int]:
    """The numbers of "2,1", "⟨2, 1⟩" or "(2,1)"."""
    found = re.fullmatch(r"\s*[⟨<(]?\s*(\d{1,3})\s*,\s*(\d{1,3})\s*[⟩>)]?\s*", text, re.ASCII)
    if found is None:
        raise ValueError(f"{text!r}, expected bits of exponent and mantissa such as 2,1")
    return int(found[1]), int(found[2])


@dataclass(frozen=True)
class _Format:
    """⟨exponent, mantissa⟩: widths in bits."""

    exponent: int
    mantissa: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The format that "2,1" or "⟨2, 1⟩" names. ValueError where it names none."""
        return cls(*_parsed(text))

    @property
    def smallest_exponent(self) -> int:
        """The least exponent of a normal number; an element below it has the same."""
        return 1 - (1 << self.exponent)

    def __str__(self) -> str:
        return f"⟨{self.exponent}, {self.mantissa}⟩"

    def _refuse(self, kind: str, expected: str) -> None:
        raise ValueError(f"{kind} {self}, expected {expected}")


@dataclass(frozen=True)
class ElementFormat(_Format):
    """⟨E, M⟩ of the elements; a sign bit is extra.

    ValueError where E or M is outside 0 to 5 and 0 to 8, or nothing but zero could be written.
    """

    def __post_init__(self) -> None:
        if not (0 <= self.exponent <= MAX_EXPONENT and 0 <= self.mantissa <= MAX_MANTISSA):
            self._refuse("element", f"0 to {MAX_EXPONENT} bits of exponent and 0 to {MAX_MANTISSA} of mantissa")
        if self.exponent == self.mantissa == 0:
            self._refuse("element", "at least one bit beside the sign")

    @property
    def bits(self) -> int:
        """Of an element as it is stored, its sign included."""
        return 1 + self.exponent + self.mantissa

    @property
    def unit(self) -> int:
        """The exponent of the smallest number above 0: every number is an integer times `2**unit`."""
        return self.smallest_exponent - self.mantissa

    @property
    def largest_integer(self) -> int:
        """The largest number in units of `2**unit`."""
        return round(self.largest * 2.0**-self.unit)

    @property
    def fixed_point(self) -> bool:
        """Whether all numbers lie equally far apart (E of 0 and 1)."""
        return self.exponent <= 1

    @property
    def largest(self) -> float:
        """The largest number, just below 1."""
        return 1 - 2.0 ** -(self.mantissa + (self.exponent > 0))


@dataclass(frozen=True)
class GroupFormat(_Format):
    """⟨Eg, Mg⟩ of the groups' scales `(1 + m / 2**Mg) * 2**e`, `1 - 2**Eg <= e <= 0`, up to 1; Mg is 0 or 1.

    ValueError where Eg is outside 1 to 8, or Mg is another: a product of two scales would be no sum of two shifts
    (equation 8).
    """

    def __post_init__(self) -> None:
        if not 1 <= self.exponent <= MAX_GROUP_EXPONENT:
            self._refuse("group", f"1 to {MAX_GROUP_EXPONENT} bits of exponent")
        if self.mantissa not in (0, 1):
            self._refuse("group", "a mantissa of 0 or 1 bits, so that scales are shifts and sums of two")

    @property
    def bits(self) -> int:
        """Of a scale as it is stored; it has no sign."""
        return self.exponent + self.mantissa


@dataclass(frozen=True)
class MlsFormat:
    """How a tensor is quantized; `group` has no effect without groups.

    power_of_two: the tensor's scale is rounded up to a power of two, which makes it the scale of a fixed-point file.
    """

    element: ElementFormat
    grouping: Grouping = "nc"
    group: GroupFormat = GroupFormat(8, 1)
    overflow: Overflow = "carry"
    power_of_two: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("grouping", self.grouping, get_args(Grouping)),
            ("overflow", self.overflow, get_args(Overflow)),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r}, expected one of {', '.join(known)}")

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that count groups."""
        return {"none": (), "n": (0,), "c": (1,), "nc": (0, 1)}[self.grouping]

    def counts(self, axis: int) -> bool:
        """Whether this axis counts groups."""
        return axis in self.axes

    def check_axes(self, shape: Sequence[int]) -> None:
        """ValueError where a tensor of this shape lacks an axis that counts groups."""
        if self.axes and len(shape) <= max(self.axes):
            raise ValueError(
                f"grouping '{self.grouping}' of a tensor of shape {list(shape)}, expected two axes or more"
            )

    def group_shape(self, shape: Sequence[int], groups: int = 1) -> tuple[int, ...]:
        """How many groups a tensor of this shape has along each axis.

        groups: of the convolution whose weight it is; by input channel the first axis counts them, see above.
        """
        uncounted = [groups if self.grouping == "c" and axis == 0 else 1 for axis in range(len(shape))]
        return tuple(shape[axis] if self.counts(axis) else size for axis, size in enumerate(uncounted))

    def group_repeats(self, shape: Sequence[int], groups: int = 1) -> int:
        """How many neighbours along the first axis of a tensor share each entry along that of its groups."""
        return shape[0] // groups if self.grouping == "c" and groups > 1 else 1

    @property
    def smallest_group_scale(self) -> int:
        """The least exponent of a group's scale: the format's, but no element times its scale leaves float32's normals.

        No group that is not 2**-87 and less of the tensor's largest number is touched by that, whatever the format.
        """
        if not self.axes:
            return 0
        return max(self.group.smallest_exponent, MIN_NORMAL - self.element.unit)

    def __str__(self) -> str:
        groups = f", {self.grouping} {self.group}" if self.axes else ""
        return f"{self.element}{groups}"
