"""Integers that a kernel is most likely to get wrong: the ends of the range, and patterns made from the weights.

A pattern has the largest code wherever a weight of one output channel is positive and the smallest where it is
negative, or the reverse: it gives that channel its largest sum, and each pair of its weights its largest pair of
products, which is what saturates an int16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qpipe.arith.spec import QuantSpec
from qpipe.ir.quantized.view import QuantizedLayer, Weighted, is_final
from qpipe.ir.quantized.view_weights import FinalWeight
from qpipe.nodes import group_count, window
from qpipe.ops import product_of
from qpipe.ops.weight_layout import output_axis, to_rows

Codes = npt.NDArray[np.uint8]

MAX_PATCHES = 64  # of weights' patterns in one row of a batch
ROUNDS = 6


def extremes(shape: tuple[int, ...], spec: QuantSpec, rng: np.random.Generator) -> Codes:
    """uint8 rows: random, smallest, largest, alternating in space, alternating between channels, random ends, ..."""
    if len(shape) == 1:
        return extremes((*shape, 1), spec, rng)[:, 0]
    low, high = spec.stored_min, spec.stored_max
    if not math.prod(shape):
        return np.zeros(shape, np.uint8)
    codes = rng.integers(low, high + 1, shape).astype(np.uint8)
    ends = np.where(rng.random(shape) < 0.5, low, high)
    index = np.indices(shape[1:], sparse=True)
    checker = sum(index, np.zeros((), np.int64)) % 2
    channel = index[0] % 2 + np.zeros(shape[1:], np.int64)
    kinds = [
        codes,
        np.full(shape, low),
        np.full(shape, high),
        np.broadcast_to(np.where(checker == 0, low, high), shape),
        np.broadcast_to(np.where(channel == 0, high, low), shape),
        ends,
        np.full(shape, spec.zero_point),
        np.clip(codes % 4 + spec.zero_point, low, high),
    ]
    first = int(rng.integers(len(kinds)))
    return np.stack([kinds[(first + row) % len(kinds)][row] for row in range(shape[0])]).astype(np.uint8)


def random_numbers(shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    """Normal floats; a byte's integers, 0 to 127 with a sign; of wider ones, which index or count, 0 and 1."""
    if dtype.kind in "iub":
        return rng.integers(0, {"u1": 256, "i1": 128}.get(dtype.str[1:], 2), shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def layer_probe(
    shape: tuple[int, ...],
    spec: QuantSpec,
    readers: Sequence[QuantizedLayer],
    *,
    round_: int,
    rng: np.random.Generator,
) -> Codes:
    """One tensor's codes in one round: random, extreme, then the patterns of one of its weighted readers."""
    if round_ == 0:
        return rng.integers(spec.stored_min, spec.stored_max + 1, shape).astype(np.uint8)
    codes = extremes(shape, spec, rng)
    weighted = [layer for layer in readers if is_final(layer)]
    if round_ > 1 and weighted:
        sign = 1 if round_ % 2 else -1
        draw_patterns(codes, weighted[round_ // 2 % len(weighted)], spec, sign, rng)
    return codes


def draw_patterns(
    codes: Codes, layer: Weighted[FinalWeight], spec: QuantSpec, sign: int, rng: np.random.Generator
) -> None:
    """Write the layer's patterns into `codes` `[N, C, *S]` (or `[N, ..., K]`), in place."""
    weight = layer.weight
    channels = worst_channels(layer, rng)
    ends = np.where(sign * weight.codes > 0, spec.stored_max, spec.stored_min).astype(np.uint8)
    if not product_of(layer.node).spatial_dims(layer.node):
        rows = ends if output_axis(layer.node) == 0 else ends.T
        flat = codes.reshape(-1, codes.shape[-1])
        flat[:] = rows[channels[np.arange(len(flat)) % len(channels)]]
        return
    found, groups = window(layer.node), group_count(layer.node)
    inputs = weight.codes.shape[1]
    starts = [
        range(-begin, size + end - extent + 1, stride * -(-extent // stride))
        for begin, end, size, extent, stride in zip(
            found.pads, found.pads[len(found.kernel) :], codes.shape[2:], found.extent, found.strides, strict=False
        )
    ]
    places = np.array(np.meshgrid(*starts, indexing="ij")).reshape(len(starts), -1).T
    places = places[rng.permutation(len(places))[:MAX_PATCHES]]
    drawn = 0
    for row in codes:
        for place in places:
            channel = int(channels[drawn % len(channels)])
            drawn += 1
            first = channel // (len(weight.codes) // groups) * inputs
            _draw(row[first : first + inputs], ends[channel], place, found.dilations)


def worst_channels(layer: Weighted[FinalWeight], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Output channels: by turns those of the largest pairs, and random ones."""
    rows = to_rows(layer.node, layer.weight.codes.astype(np.int64))
    paired = rows[:, : rows.shape[1] // 2 * 2].reshape(len(rows), -1, 2)
    largest = np.abs(paired.sum(axis=2)).max(axis=1, initial=0)
    order = np.argsort(-largest, kind="stable")
    return np.stack([order, rng.permutation(len(rows))], axis=1).reshape(-1)


def _draw(row: Codes, pattern: Codes, place: npt.NDArray[np.int64], dilations: tuple[int, ...]) -> None:
    """Write `pattern` `[C, *kernel]` into `row` `[C, *S]` at `place`; what lies in the padding is cut off."""
    into, out_of = [slice(None)], [slice(None)]
    for start, size, dilation, axis in zip(place, row.shape[1:], dilations, range(1, row.ndim), strict=True):
        taps = [k for k in range(pattern.shape[axis]) if 0 <= start + k * dilation < size]
        if not taps:
            return
        into.append(slice(int(start) + taps[0] * dilation, int(start) + taps[-1] * dilation + 1, dilation))
        out_of.append(slice(taps[0], taps[-1] + 1))
    row[tuple(into)] = pattern[tuple(out_of)]
