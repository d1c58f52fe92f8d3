"""LQ-Net's quantizers: levels that a learned basis spans, Q(x, v) = v^T e_l, the level nearest to x.

    weights:      e in {-1, 1}**K, a basis v in R**K per output channel        levels  sum +- v_i
    activations:  e in {0, 1}**K, a basis per layer                            levels  sum of some v_i

The basis is learned by QEM (quantization error minimization), two steps of an alternation in every forward of training:

    B = codes of the levels nearest to x, v fixed          v* = (B B^T)^-1 B x, B fixed          v <- 0.9 v + 0.1 v*

What is computed with are integers: a weight's levels are rounded to at most `limit` steps of a power of two per
channel, an activation's to uint8 steps of its layer's grid, in training as in the file. x goes to the nearest of these.

What the paper leaves open: (B B^T) may be singular, where a v_i is in use for all x or for none; a small term
delta |v* - v|**2 keeps such a v_i where it was. It can't make an iteration raise the error. An activation's x is
what its 8-bit quantizer gives, so that 256 counts are all that is known of a batch.

Source: Zhang et al. 2018, *LQ-Nets*, sections 3.1 and 3.2, equations 3 to 8 and Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from operator import sub
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, no_type_check

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.arith.namespace import A, AnyArray, FloatArray, namespace, take_along
from qpipe.arith.power_of_two import rounded_log2
from qpipe.arith.spec import STORAGE_MAX, QuantSpec
from qpipe.arith.table import SIZE, CodeTable
from qpipe.arith.weights import ZERO_EXPONENT
from qpipe.errors import ModelError
from qpipe.formats import WeightQuantizer
from qpipe.formats.base import (
    Around,
    TrainableWeight,
    WeightFormat,
    WeightOptions,
    WeightPlace,
    exponent_floor,
    stored_weight,
)
from qpipe.formats.functions import call_function
from qpipe.nodes import DOMAIN, constant_array, describe, initializer, input_value, int_attribute

if TYPE_CHECKING:
    from onnxscript import FLOAT, INT8

MOMENTUM = 0.9  # of the moving average (section 3.2)
INT8_MAX = 127
_DELTA = 1e-4
_FIRST_ITERATIONS = 20

Floats = npt.NDArray[np.float64]
Low = Literal[-1, 0]
"""What the bit 0 of an encoding stands for: -1 in weights, 0 in activations."""


@dataclass(frozen=True)
class LQ(WeightFormat):
    """bits: K. limit: the largest magnitude of an integer level."""

    name: ClassVar[WeightQuantizer] = "lq"
    widths: ClassVar[range] = range(2, 5)
    learned_widths: ClassVar[range] = widths
    codes_op: ClassVar[str] = "LQCodes"

    bits: int
    limit: int

    @property
    def qmax(self) -> int:
        """The largest magnitude of a code."""
        return self.limit

    @classmethod
    def first(
        cls, node: ir.Node, rows: FloatArray, bits: int, source: QuantSpec, options: WeightOptions
    ) -> tuple[Self, FloatArray]:
        """On the basis that suits the weights as they are."""
        return cls(bits, lq_limit(options.pair_limit)), first_basis(rows, bits)

    @classmethod
    def learned_table(cls, bits: int, before: QuantSpec, ymax: float, percentile: float) -> CodeTable:
        """Those of a basis that suits the positive half of a normal distribution."""
        return lq_table(first_activation_basis(ymax, percentile, bits), before)

    def quantize(self, rows: A, around: Around[A], *, basis: A | None = None, raised: A | None = None) -> tuple[A, A]:
        """The nearest levels, at exponents that leave the multiplier behind its bits."""
        assert basis is not None
        exponent = lq_exponents(basis, self.limit, exponent_floor(rows, around))
        return lq_codes(rows, exponent, basis), exponent

    def codes_at(self, rows: A, exponent: A, basis: A | None = None) -> A:
        """The nearest levels: no pair of them can be unsafe."""
        assert basis is not None
        return lq_codes(rows, exponent, basis)

    def learn(self, rows: A, basis: A) -> A:
        """One iteration of QEM."""
        return averaged(basis, solve(rows, basis, -1))

    @classmethod
    def codes_function(cls) -> Any:
        """See `codes_function` of this module."""
        return codes_function()

    def code_nodes(self, at: WeightPlace) -> list[ir.Node]:
        """A call of `LQCodes`."""
        assert at.basis is not None
        assert at.weight.shape is not None
        shape = [len(at.basis) if i == at.axis else 1 for i in range(len(at.weight.shape))]
        inputs = [at.weight, initializer(at.model.graph, f"{at.base}_weight_basis", at.basis), at.scale]
        return [call_function(at.model, codes_function(), inputs, f"{at.base}_weight_lq", bits=self.bits, shape=shape)]

    @classmethod
    def read(cls, dequantize: ir.Node, codes: ir.Node, options: WeightOptions, *, axis: int) -> TrainableWeight:
        """The width is in the call, as are the basis and the scale."""
        floats, basis = input_value(codes, 0), input_value(codes, 1)
        array, bits = constant_array(basis), int_attribute(codes, "bits", 0)
        values, scale, exponents = stored_weight(
            dequantize, None if array is None else floats, axis, codes, "float weights, a basis and constant scales"
        )
        shape = () if array is None else array.shape
        if bits not in cls.widths or shape != (len(exponents), bits):
            raise ModelError(
                f"{describe(codes)}: a basis of shape {list(shape)} for {bits} bits, expected "
                f"[{len(exponents)}, bits] of {cls.widths[0]} to {cls.widths[-1]} bits"
            )
        return TrainableWeight(values, scale, exponents, cls(bits, lq_limit(options.pair_limit)), basis)


def lq_limit(pair_limit: int | None) -> int:
    """The largest magnitude of an integer level at which no pair can be unsafe; None: pairs don't matter."""
    return INT8_MAX if pair_limit is None else min(pair_limit // 2, INT8_MAX)


def levels_of(basis: A, low: Low) -> tuple[A, A]:
    """Ascending levels `[C, 2**K]`, float64, and the encoding of each, whose bit i is that of v_i; basis: `[C, K]`."""
    xp = namespace(basis)
    wide = xp.asarray(basis, dtype=xp.float64)
    levels = xp.zeros_like(wide[:, :1])
    for i in range(wide.shape[1]):
        levels = xp.concatenate([levels + low * wide[:, i : i + 1], levels + wide[:, i : i + 1]], 1)
    order = xp.argsort(levels, 1)
    return take_along(levels, order), order


def nearest(x: A, levels: A) -> A:
    """Of each x `[C, N]` the nearest of its row's ascending levels `[C, L]`; of two as near the lower."""
    xp = namespace(x)
    found = xp.broadcast_to(levels[:, :1], x.shape)
    for i in range(1, levels.shape[1]):
        found = xp.where(x > (levels[:, i - 1 : i] + levels[:, i : i + 1]) / 2, levels[:, i : i + 1], found)
    return found


def lq_exponents(basis: A, limit: int, floor: A) -> A:
    """The least `[C]`, never below `floor`, at which the largest level has at most `limit` steps."""
    xp = namespace(basis)
    levels, _ = levels_of(basis, -1)
    largest = xp.amax(abs(levels), axis=1)
    exponent = xp.where(largest > 0, rounded_log2(largest / limit, "ceil"), ZERO_EXPONENT)
    return xp.maximum(exponent, floor)


def lq_codes(rows: A, exponent: A, basis: A) -> A:
    """Codes `[C, N]` of float weights, in their type: the nearest of the integer levels, exact in float32."""
    xp = namespace(rows)
    levels, _ = levels_of(basis, -1)
    steps = xp.round(xp.ldexp(levels, -exponent[:, None]))
    in_steps = xp.ldexp(xp.asarray(rows, dtype=xp.float64), -exponent[:, None])
    return xp.asarray(nearest(in_steps, steps), dtype=rows.dtype)


def lq_table(basis: AnyArray, before: QuantSpec) -> CodeTable:
    """The table behind an unsigned 8-bit quantizer, for a basis `[K]`."""
    levels, _ = levels_of(np.asarray(basis, np.float64)[None], 0)
    after = QuantSpec.unsigned(8, before.exponent)
    steps = np.clip(np.round(levels / after.scale), 0, STORAGE_MAX)
    codes = nearest(np.arange(SIZE, dtype=np.float64)[None], steps)[0]
    return CodeTable(before, after, tuple(int(code) for code in codes), tuple(np.asarray(basis).tolist()))


def solve(x: A, basis: A, low: Low, counts: A | None = None) -> A:
    """v* `[C, K]`, float64: one iteration of QEM for x `[C, N]`, which occur `counts` times each (None: once)."""
    xp = namespace(x)
    x, wide = xp.asarray(x, dtype=xp.float64), xp.asarray(basis, dtype=xp.float64)
    weight = xp.ones_like(x)
    if counts is not None:
        weight = xp.broadcast_to(xp.asarray(counts, dtype=xp.float64), x.shape)
    weight = weight / xp.clip(xp.sum(weight, axis=1), 1, None)[:, None]
    levels, encoding = levels_of(wide, low)
    # Of the x of each level, the part of all and the sum.
    parts, sums = _differences(x, weight, levels)
    bits = [((encoding >> i) & 1) * (1 - low) + low for i in range(wide.shape[1])]
    square = xp.stack([xp.stack([xp.sum(parts * a * b, axis=1) for b in bits], 1) for a in bits], 1)
    product = xp.stack([xp.sum(sums * a, axis=1) for a in bits], 1)
    for i in range(len(bits)):
        square[:, i, i] += _DELTA
    return xp.linalg.solve(square, (product + _DELTA * wide)[..., None])[..., 0]


def averaged(basis: A, solution: A) -> A:
    """The moving average, in the basis' own type."""
    xp = namespace(basis)
    moved = MOMENTUM * xp.asarray(basis, dtype=xp.float64) + (1 - MOMENTUM) * solution
    return xp.asarray(moved, dtype=basis.dtype)


def first_basis(rows: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    """The basis `[C, K]` that QEM finds for weights as they are, from evenly spaced levels."""
    largest = 2 * np.abs(rows).mean(axis=1, dtype=np.float64)[:, None]
    basis = largest * 2.0 ** np.arange(bits) / (2**bits - 1)
    for _ in range(_FIRST_ITERATIONS):
        basis = solve(rows, basis, -1)
    found: npt.NDArray[np.float32] = basis.astype(np.float32)
    return found


def first_activation_basis(ymax: float, percentile: float, bits: int) -> npt.NDArray[np.float32]:
    """The basis `[K]` that QEM finds for the positive half of a normal distribution with ymax at this percentile."""
    normal = NormalDist()
    sigma = ymax / max(normal.inv_cdf((1 + min(percentile, 99.999) / 100) / 2), 1.0)
    x = sigma * np.array([[normal.inv_cdf(0.5 + (i + 0.5) / (2 * SIZE)) for i in range(SIZE)]])
    basis = 2 * sigma * 2.0 ** np.arange(bits)[None] / (2**bits - 1)
    for _ in range(_FIRST_ITERATIONS):
        basis = solve(x, basis, 0)
    found: npt.NDArray[np.float32] = basis[0].astype(np.float32)
    return found


@cache
def codes_function() -> Any:
    """The ONNX function of the trainable file, which onnxscript compiles from its source.

    Levels are integers, and what lies between two of them is exact: the file's codes are those of `lq_codes`.
    """
    global FLOAT, INT8  # where onnxscript looks for them
    from onnxscript import FLOAT, INT8, script
    from onnxscript import opset21 as op
    from onnxscript.values import Opset

    @no_type_check
    @script(Opset(DOMAIN, 1), default_opset=op)
    def LQCodes(w: FLOAT[...], basis: FLOAT[...], scale: FLOAT[...], bits: int, shape: Sequence[int]) -> INT8[...]:  # noqa: N802
        """The integer level nearest to each weight; shape broadcasts `[C]` along the weight."""
        count = op.Constant(value_int=bits)
        along = op.Constant(value_ints=shape)
        powers = op.Pow(2, op.Range(0, count, 1))
        numbers = op.Unsqueeze(op.Range(0, op.Pow(2, count), 1), [0])
        signs = op.Cast(op.Mod(op.Div(numbers, op.Unsqueeze(powers, [1])), 2) * 2 - 1, to=11)
        levels = op.MatMul(op.Cast(basis, to=11), signs) / op.Unsqueeze(op.Cast(scale, to=11), [1])
        ascending, _ = op.TopK(op.Round(levels), op.Unsqueeze(op.Pow(2, count), [0]), axis=-1, largest=0)
        steps = op.Cast(op.Transpose(ascending, perm=[1, 0]), to=1)
        below = op.Slice(steps, [0], [-1], [0])
        above = op.Slice(steps, [1], [17], [0])
        each = op.Concat([-1], along, axis=0)
        passed = op.Cast(
            op.Unsqueeze(w / op.Reshape(scale, along), [0]) > op.Reshape((below + above) / 2.0, each), to=1
        )
        climbed = op.ReduceSum(passed * op.Reshape(above - below, each), [0], keepdims=0)
        lowest = op.Reshape(op.Slice(steps, [0], [1], [0]), along)
        return op.Cast(lowest + climbed, to=3)

    return LQCodes


def _differences(x: A, weight: A, levels: A) -> tuple[A, A]:
    """`[C, L]`: the weight of the x nearest to each level, and their weighted sum."""
    xp = namespace(x)
    masses, sums = [xp.sum(weight, axis=1)], [xp.sum(weight * x, axis=1)]
    for i in range(1, levels.shape[1]):
        above = weight * (x > (levels[:, i - 1 : i] + levels[:, i : i + 1]) / 2)
        masses.append(xp.sum(above, axis=1))
        sums.append(xp.sum(above * x, axis=1))
    return _one_by_one(masses), _one_by_one(sums)


def _one_by_one(sums: list[A]) -> A:
    """Of each level alone, what is given of it and all above."""
    return namespace(sums[0]).stack([*map(sub, sums[:-1], sums[1:]), sums[-1]], 1)
