"""Weights on power-of-two grids: FAQ's step from the standard deviation, and the pair condition.

`xp` is numpy or torch. A weight matrix is `[C, K]`: output channels by what one output sums over, in the order in which
integer kernels walk it (channels fastest, see `as_rows`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qpipe.arith.power_of_two import Rounding, rounded_log2

INT16_MAX = 2**15 - 1
ZERO_EXPONENT = -7  # of a channel that is all zeros: any would do
NO_FLOOR = -126  # the exponent of the smallest normal float32

DEFAULT_CLIP = {2: 4.12, 3: 4.12, 4: 4.12, 5: 4.12, 6: 6.0, 7: 8.0, 8: 8.0}
"""c, the clip in standard deviations, per width. 4 bits: FAQ, footnote 4; the others were chosen by measurement."""

DEFAULT_ROUNDING: dict[int, Rounding] = {bits: "nearest" if bits < 8 else "ceil" for bits in DEFAULT_CLIP}
"""Per width, chosen by measurement. Below 8 bits nearest counts 1.2 % more where channels can't be rescaled (ResNet-20
with folded BatchNormalization, 4/4, calibrated only), and the same within noise where they are. At 8 bits the clip is
the largest weight, which nearest would cut off.
"""


@dataclass(frozen=True)
class WeightSpec:
    """How a weight tensor becomes integers.

    bits: width b of the narrow signed range. clip: c, in standard deviations. per_channel: one exponent per output
    channel, else one in all. rounding: of log2(step). pair_limit: what two neighbours of equal sign may sum to in
    magnitude on a CPU that adds two products in a saturating int16; None where that is waived.
    """

    bits: int = 8
    clip: float = DEFAULT_CLIP[8]
    per_channel: bool = True
    pair_limit: int | None = None
    rounding: Rounding = "ceil"

    @property
    def code_bits(self) -> int:
        """The width of a signed code."""
        return self.bits

    @property
    def qmax(self) -> int:
        """The largest magnitude of a code."""
        return int(2 ** (self.bits - 1) - 1)


def pair_limit(stored_max: int) -> int:
    """The largest `|w0| + |w1|` whose two products with uint8 codes up to `stored_max` fit int16 (128 for 255)."""
    return INT16_MAX // stored_max


def as_rows(weight: Any) -> Any:
    """`[O, I, *kernel]` as `[O, K]` with I fastest: the order of im2col in an NHWC kernel."""
    order = (0, *range(2, weight.ndim), 1)
    return permute(weight, order).reshape(weight.shape[0], -1)


def from_rows(rows: Any, shape: tuple[int, ...]) -> Any:
    """The inverse of `as_rows`."""
    stored = (shape[0], *shape[2:], shape[1])
    return permute(rows.reshape(stored), (0, len(shape) - 1, *range(1, len(shape) - 1)))


def permute(x: Any, order: tuple[int, ...]) -> Any:
    """`x` with its axes in this order, for numpy and torch."""
    return x.transpose(order) if isinstance(x, np.ndarray) else x.permute(order)


def exponents(rows: Any, spec: WeightSpec, floor: Any, xp: Any = np) -> Any:
    """`l = ceil(log2(step))`, `step = 2 c sigma / (2**b - 1)`, int `[C]`, never below `floor` (`[C]`).

    With rounding "nearest" l is `round(log2(step))` instead: the step may be up to a factor sqrt(2) too small, which
    cuts off more of the largest weights, and is never more than that too large.

    Source: FAQ, section 3.1.1. Per channel, sigma is the channel's own deviation from zero (its root mean square: the
    codes are symmetric, and a channel of few weights has a mean); per tensor, that of all. Where c sigma lies beyond
    the largest weight, that weight is the clip: a wider range would hold nothing. Sums are float64,
    so that numpy and torch agree.
    """
    step = clip_at(rows, spec, xp) * (2.0 / (2**spec.bits - 1))
    if not spec.per_channel:
        floor = xp.amax(floor) + 0 * floor
    exponent = xp.where(step > 0, rounded_log2(step, spec.rounding, xp), ZERO_EXPONENT)
    return xp.maximum(exponent, floor)


def clip_at(rows: Any, spec: WeightSpec, xp: Any = np) -> Any:
    """The largest weight that is represented, `[C]`: c sigma, or the largest weight there is."""
    square, peak = xp.mean(rows * rows, axis=1, dtype=xp.float64), xp.amax(abs(rows), axis=1)
    if not spec.per_channel:
        square, peak = xp.mean(square) + 0 * square, xp.amax(peak) + 0 * peak
    return xp.minimum(spec.clip * xp.sqrt(square), peak)


def quantize_rows(rows: Any, exponent: Any, spec: WeightSpec, xp: Any = np) -> tuple[Any, Any]:
    """Codes `[C, K]` (in the float type of rows) and exponents `[C]`, kept pair-safe.

    A channel with an unsafe pair takes the cheaper (by squared error) of two ways: its exponent is raised by one, or
    the excess is taken off both weights of each unsafe pair. (A raised channel is unsafe only in weights beyond the
    clip; there, too, the excess is taken off.)
    """
    trimmed = safe_codes(rows, exponent, spec, xp)
    if _is_pair_safe(spec):
        return trimmed, exponent
    codes, raised = round_rows(rows, exponent, spec, xp), safe_codes(rows, exponent + 1, spec, xp)
    loss_trimmed = _squared_error(rows, trimmed, exponent, xp)
    loss_raised = _squared_error(rows, raised, exponent + 1, xp)
    unsafe = xp.any(trimmed != codes, axis=1)
    if not spec.per_channel:
        zero = 0 * loss_raised
        loss_trimmed, loss_raised, unsafe = xp.sum(loss_trimmed) + zero, xp.sum(loss_raised) + zero, xp.any(unsafe)
    raise_it = unsafe & (loss_raised < loss_trimmed)
    return xp.where(raise_it[:, None], raised, trimmed), exponent + raise_it * 1


def safe_codes(rows: Any, exponent: Any, spec: WeightSpec, xp: Any = np) -> Any:
    """Codes `[C, K]` at these exponents, the excess taken off unsafe pairs; what `quantize_rows` gives at its own."""
    codes = round_rows(rows, exponent, spec, xp)
    return codes if _is_pair_safe(spec) else trim_pairs(codes, spec.pair_limit, xp)


def round_rows(rows: Any, exponent: Any, spec: WeightSpec, xp: Any = np) -> Any:
    """`clip(round(w / 2**l))`, row by row."""
    scale = xp.ldexp(xp.ones_like(rows[:, :1]), exponent[:, None])
    return xp.clip(xp.round(rows / scale), -spec.qmax, spec.qmax)


def trim_pairs(codes: Any, limit: Any, xp: Any = np) -> Any:
    """Codes `[C, K]` with half of the excess taken off each weight of each unsafe pair (0, 1), (2, 3), ..."""
    even, odd = _pairs(codes)
    excess = pair_excess(codes, limit, xp)
    trimmed = codes + 0
    trimmed[:, : 2 * odd.shape[1] : 2] = even - xp.sign(even) * xp.ceil(excess / 2)
    trimmed[:, 1::2] = odd - xp.sign(odd) * xp.floor(excess / 2)
    return trimmed


def pair_excess(codes: Any, limit: Any, xp: Any = np) -> Any:
    """By how much `|w0| + |w1|` of neighbours of equal sign is over the limit, `[C, K // 2]`; 0 where it is not."""
    return xp.clip(pair_sums(codes) - limit, 0, None)


def pair_sums(rows: Any) -> Any:
    """`|w0| + |w1|` of neighbours of equal sign, `[C, K // 2]`; 0 for others: their products don't add up."""
    even, odd = _pairs(rows)
    return abs(even + odd) * (even * odd > 0)


def _is_pair_safe(spec: WeightSpec) -> bool:
    """Whether no pair of codes can be unsafe, or none matters."""
    return spec.pair_limit is None or 2 * spec.qmax <= spec.pair_limit


def _pairs(codes: Any) -> tuple[Any, Any]:
    odd = codes[:, 1::2]
    return codes[:, : 2 * odd.shape[1] : 2], odd


def _squared_error(rows: Any, codes: Any, exponent: Any, xp: Any) -> Any:
    error = rows - codes * xp.ldexp(xp.ones_like(rows[:, :1]), exponent[:, None])
    return xp.sum(error * error, axis=1, dtype=xp.float64)
