"""Weights on power-of-two grids: FAQ's step from the standard deviation, and codes that no pair of makes unsafe.

    l = ceil(log2(2 c sigma / (2**b - 1)))        q = clip(round(w / 2**l), -(2**(b-1) - 1), 2**(b-1) - 1)

c sigma is a clip for weights that are shaped like a bell. At 8 bits the largest weight is the clip, and at fewer it is
wherever c sigma would cost much more: a kernel of one large tap and many small ones is nothing without its tap.

Where a pair of neighbours could saturate (see `qpipe.arith.weights`), the channel's l is raised, or the excess is taken
off: what errs less.

Source: FAQ, section 3.1.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import onnx_ir as ir

from qpipe.arith.feedback import OutputError
from qpipe.arith.namespace import A, AnyArray, Float64Array, FloatArray, IntArray, namespace
from qpipe.arith.power_of_two import Rounding, rounded_log2
from qpipe.arith.rescale import channel_ratio
from qpipe.arith.spec import QuantSpec
from qpipe.arith.weights import NO_FLOOR, ZERO_EXPONENT, trim_pairs
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
from qpipe.nodes import constant_input, describe, initializer, rank

DEFAULT_CLIP = {2: 4.12, 3: 4.12, 4: 4.12, 5: 4.12, 6: 6.0, 7: 8.0, 8: math.inf}
"""c, the clip in standard deviations, per width. 4 bits: FAQ, footnote 4; the others were chosen by measurement. The
paper has 8 at 8 bits: no weight of a bell-shaped channel is beyond it, and where one is, cutting it off costs more.
"""

CUTS_TOO_MUCH = 4.0
"""By this factor the squared error that c sigma leaves must exceed that of the largest weight. The channels of
pretrained networks stay below it (1.2 up to 4 bits, 3.1 at 5, 1.6 at 6: ResNet-20, ResNet-8, DS-CNN).
"""

DEFAULT_ROUNDING: dict[int, Rounding] = {bits: "nearest" if bits < 8 else "ceil" for bits in DEFAULT_CLIP}
"""Per width, chosen by measurement. Below 8 bits nearest counts 1.2 % more where channels can't be rescaled (ResNet-20
with folded BatchNormalization, 4/4, calibrated only), and the same within noise where they are. At 8 bits the clip is
the largest weight, which nearest would cut off.
"""


@dataclass(frozen=True)
class FixedPoint(WeightFormat):
    """bits: width b of the narrow signed range. clip: c, in standard deviations; None is the width's own, or the
    largest weight of a channel where that errs less. The others: as in `WeightOptions`.
    """

    name: ClassVar[WeightQuantizer] = "fixed-point"
    widths: ClassVar[range] = range(2, 9)
    takes: ClassVar[frozenset[str]] = frozenset({"weight_clip", "weight_rounding", "per_channel"})
    holds_floats: ClassVar[bool] = True
    codes_op: ClassVar[str] = "Clip"

    bits: int = 8
    clip: float | None = None
    per_channel: bool = True
    pair_limit: int | None = None
    rounding: Rounding = "ceil"

    @classmethod
    def of(cls, bits: int, options: WeightOptions) -> Self:
        """That of a width, with its own clip and rounding where none is said."""
        rounding = options.rounding or DEFAULT_ROUNDING[bits]
        return cls(bits, options.clip, options.per_channel, options.pair_limit, rounding)

    @classmethod
    def first(
        cls, node: ir.Node, rows: FloatArray, bits: int, source: QuantSpec, options: WeightOptions
    ) -> tuple[Self, None]:
        """What is said of it: the weights themselves give the exponents."""
        return cls.of(bits, options), None

    @property
    def qmax(self) -> int:
        """The largest magnitude of a code, `2**(b-1) - 1`."""
        return int(2 ** (self.bits - 1) - 1)

    def quantize(self, rows: A, around: Around[A], *, basis: A | None = None, raised: A | None = None) -> tuple[A, A]:
        """Pair-safe codes at exponents that leave the multiplier behind its bits."""
        return self.pair_safe(rows, self.exponents(rows, exponent_floor(rows, around), raised))

    def raised(self, rows: A, exponent: A, around: Around[A]) -> A | None:
        """So that training goes on from codes that were fitted to their layer's output, or are another tool's.

        Zero where `quantize` chooses the file's exponent by itself, and where all weights are zero.
        """
        xp = namespace(rows)
        chosen = self.quantize(rows, around)[1]
        if not xp.any(chosen != exponent):
            return None
        step = self._step(rows)
        differs = (chosen != exponent) & (step > 0)
        found: A = xp.where(differs, exponent - self._rounded(rows, xp.where(step > 0, step, 1.0)), 0)
        return found

    def exponents(self, rows: A, floor: A, raised: A | None = None) -> A:
        """`l = ceil(log2(step)) + raised`, `step = 2 c sigma / (2**b - 1)`, int `[C]`, never below `floor` (`[C]`).

        With rounding "nearest" l is `round(log2(step))` instead: the step may be up to a factor sqrt(2) too small,
        which cuts off more of the largest weights, and is never more than that too large.

        Per channel, sigma is the channel's own deviation from zero (its root mean square: the codes are symmetric, and
        a channel of few weights has a mean); per tensor, that of all. Where c sigma lies beyond the largest weight,
        that weight is the clip: a wider range would hold nothing. Sums are float64, so that numpy and torch agree.
        """
        xp = namespace(rows)
        step = self._step(rows)
        if not self.per_channel:
            floor = xp.broadcast_to(xp.amax(floor), floor.shape)
        log2 = self._rounded(rows, step)
        at = log2 if raised is None else log2 + raised
        return xp.maximum(xp.where(step > 0, at, ZERO_EXPONENT), floor)

    def _step(self, rows: A) -> A:
        step: A = self.clip_at(rows) * (2.0 / (2**self.bits - 1))
        return step

    def _rounded(self, rows: A, step: A) -> A:
        """log2 of the step, as an integer."""
        xp = namespace(rows)
        log2 = rounded_log2(step, self.rounding)
        if self.rounding == "nearest" and self.per_channel:
            # A weight that is the only one is all that its channel says: nothing is to be cut off.
            log2 = xp.where(xp.sum(rows != 0, axis=1) == 1, rounded_log2(step, "ceil"), log2)
        return log2

    def clip_at(self, rows: A) -> A:
        """The largest weight that is represented, float64 `[C]`: c sigma, or the largest weight there is."""
        xp = namespace(rows)
        peak = xp.asarray(xp.amax(abs(rows), axis=1), dtype=xp.float64)
        if not self.per_channel:
            peak = xp.broadcast_to(xp.amax(peak), peak.shape)
        sigmas = DEFAULT_CLIP[self.bits] if self.clip is None else self.clip
        if math.isinf(sigmas):
            return peak
        # Squares of very small and very large weights would leave float32; a power of two changes nothing else.
        _, size = xp.frexp(peak)
        size = xp.clip(size, NO_FLOOR, -NO_FLOOR)
        rows, peak = xp.ldexp(rows, -size[:, None]), xp.ldexp(peak, -size)
        square = xp.mean(rows * rows, axis=1, dtype=xp.float64)
        if not self.per_channel:
            square = xp.broadcast_to(xp.mean(square), square.shape)
        clip = xp.minimum(sigmas * xp.sqrt(square), peak)
        if self.clip is None:
            clip = self._unless_it_cuts_too_much(rows, clip, peak)
        return xp.ldexp(clip, size)

    def _unless_it_cuts_too_much(self, rows: A, clip: A, peak: A) -> A:
        """The clip `[C]`, or the peak where the clip leaves `CUTS_TOO_MUCH` times the squared error that the peak does.

        A weight errs by what is cut off of it, and by a twelfth of the step's square or its own where that is less.
        """
        xp = namespace(rows)

        def error(at: A) -> A:
            inside = xp.minimum(abs(rows), at[:, None])
            noise = (at * (2.0 / (2**self.bits - 1))) ** 2 / 12
            each = xp.minimum(inside * inside, noise[:, None]) + (abs(rows) - inside) ** 2
            total: A = xp.sum(each, axis=1, dtype=xp.float64)
            return total if self.per_channel else xp.broadcast_to(xp.sum(total), total.shape)

        return xp.where(error(clip) > CUTS_TOO_MUCH * error(peak), peak, clip)

    def pair_safe(self, rows: A, exponent: A) -> tuple[A, A]:
        """Codes `[C, K]` (in the float type of rows) and exponents `[C]`, kept pair-safe.

        A channel with an unsafe pair takes the cheaper (by squared error) of two ways: its exponent is raised by one,
        or the excess is taken off both weights of each unsafe pair. (A raised channel is unsafe only in weights beyond
        the clip; there, too, the excess is taken off.)
        """
        xp = namespace(rows)
        trimmed = self.codes_at(rows, exponent)
        if self._is_pair_safe:
            return trimmed, exponent
        codes, raised = self.stored_codes(rows, exponent), self.codes_at(rows, exponent + 1)
        # In squares of the lower step, so that none leaves float32.
        loss_trimmed = _squared_error(rows, trimmed, exponent)
        loss_raised = 4 * _squared_error(rows, raised, exponent + 1)
        unsafe = xp.any(trimmed != codes, axis=1)
        if not self.per_channel:
            loss_trimmed, loss_raised, unsafe = xp.sum(loss_trimmed), xp.sum(loss_raised), xp.any(unsafe)
        raise_it = xp.broadcast_to(unsafe & (loss_raised < loss_trimmed), exponent.shape)
        return xp.where(raise_it[:, None], raised, trimmed), exponent + raise_it * 1

    def codes_at(self, rows: A, exponent: A, basis: A | None = None) -> A:
        """The rounded weights, the excess taken off unsafe pairs; what `pair_safe` gives at its own exponents."""
        codes = self.stored_codes(rows, exponent)
        return codes if self.pair_limit is None or self._is_pair_safe else trim_pairs(codes, self.pair_limit)

    def stored_codes(self, rows: A, exponent: A, basis: A | None = None) -> A:
        """`clip(round(w / 2**l))`, row by row: unsafe pairs lie at their codes in a file."""
        xp = namespace(rows)
        scale = xp.ldexp(xp.ones_like(rows[:, :1]), exponent[:, None])
        return xp.clip(xp.round(rows / scale), -self.qmax, self.qmax)

    def free_exponents(self, rows: FloatArray, around: Around[AnyArray]) -> IntArray:
        """Those of the step, and not below the floor."""
        floor: AnyArray = exponent_floor(rows, around)
        return self.exponents(rows, floor).astype(np.int64)

    def fitted_codes(self, rows: FloatArray, exponent: IntArray, error: OutputError) -> Float64Array:
        """Rounded one after the other (see `qpipe.arith.feedback`), pair-safe."""
        limit = None if self._is_pair_safe else self.pair_limit
        steps = np.ldexp(rows.astype(np.float64), -exponent.astype(np.int32)[..., None])
        return error.round(steps, qmax=self.qmax, pair_limit=limit)

    def storable(self, rows: FloatArray, exponent: AnyArray) -> FloatArray:
        """What the pair condition moved lies at its code, where rounding finds it."""
        codes = self.codes_at(rows, exponent)
        scale = np.ldexp(np.float32(1), exponent.astype(np.int32))[:, None]
        moved = self.stored_codes(rows, exponent) != codes
        stored: FloatArray = np.where(moved, codes * scale, rows).astype(np.float32)
        return stored

    def filling_ratio(
        self,
        rows: FloatArray,
        k: Float64Array,
        exponent: IntArray,
        source: QuantSpec,
        output: QuantSpec,
        spread: float | None = None,
    ) -> Float64Array | None:
        """So that the clip is the largest code (see `qpipe.arith.rescale`); None where channels share an exponent."""
        if not self.per_channel:
            return None
        clip = np.asarray(self.clip_at(rows), np.float64)
        limit = self.pair_limit if spread is None else None
        return channel_ratio(
            rows, k, exponent, clip=clip * (spread or 1.0), qmax=self.qmax, pair_limit=limit, rounding=self.rounding,
            input_exponent=source.exponent, output=output,
        )  # fmt: skip

    def code_nodes(self, at: WeightPlace) -> list[ir.Node]:
        """QuantizeLinear, and Clip to the narrow range."""
        attributes = {"axis": at.axis} if self.per_channel else {}
        inputs = [at.weight, at.scale, at.zero_point]
        quantize = ir.node("QuantizeLinear", inputs, attributes, name=f"{at.base}_weight_quantize")
        low = initializer(at.model.graph, f"{at.base}_weight_min", np.int8(-self.qmax))
        high = initializer(at.model.graph, f"{at.base}_weight_max", np.int8(self.qmax))
        return [quantize, ir.node("Clip", [quantize.outputs[0], low, high], name=f"{at.base}_weight_clip")]

    @classmethod
    def read(cls, dequantize: ir.Node, codes: ir.Node, options: WeightOptions, *, axis: int) -> TrainableWeight:
        """The width is the range of the Clip."""
        high = constant_input(codes, 2) if codes.op_type == cls.codes_op else None
        qmax = 0 if high is None else int(high.reshape(-1)[0])
        quantize = codes.inputs[0].producer() if qmax and codes.inputs[0] is not None else None
        found = quantize.inputs[0] if quantize is not None and quantize.op_type == "QuantizeLinear" else None
        expected = "float weights behind QuantizeLinear and Clip"
        values, scale, exponents = stored_weight(dequantize, found, axis, dequantize, expected)
        bits = qmax.bit_length() + 1
        if bits not in DEFAULT_ROUNDING or qmax != 2 ** (bits - 1) - 1:
            widths = f"{min(DEFAULT_ROUNDING)} to {max(DEFAULT_ROUNDING)} bits"
            raise ModelError(f"{describe(codes)}: clips weights to {qmax}, expected 2**(b-1) - 1 for {widths}")
        return TrainableWeight(values, scale, exponents, cls.of(bits, replace(options, per_channel=bool(rank(scale)))))

    @property
    def _is_pair_safe(self) -> bool:
        """Whether no pair of codes can be unsafe, or none matters."""
        return self.pair_limit is None or 2 * self.qmax <= self.pair_limit


def _squared_error(rows: A, codes: A, exponent: A) -> A:
    """Of each row, in squares of a step."""
    xp = namespace(rows)
    error = xp.ldexp(rows, -exponent[:, None]) - codes
    return xp.sum(error * error, axis=1, dtype=xp.float64)
