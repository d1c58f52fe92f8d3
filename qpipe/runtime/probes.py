"""Integers that a kernel is most likely to get wrong: the ends of the range, and patterns made from the weights.

A pattern has the largest code wherever a weight of one output channel is positive and the smallest where it is
negative, or the reverse: it gives that channel its largest sum, and each pair of its weights its largest pair of
products, which is what saturates an int16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from qpipe.arith.spec import QuantSpec
from qpipe.ir.quantized.view import QuantizedLayer, Weighted, is_final
from qpipe.ir.quantized.view_weights import FinalWeight
from qpipe.nodes import group_count, window
from qpipe.ops import product_of
from qpipe.ops.weight_layout import output_axis, to_rows

Codes = npt.NDArray[Any]

MAX_PATCHES = 64  # of weights' patterns in one row of a batch
ROUNDS = 6


def extremes(shape: tuple[int, ...], spec: QuantSpec, rng: np.random.Generator) -> Codes:
    """Rows: random, smallest, largest, alternating in space, alternating between channels, random ends, ..."""
    if len(shape) == 1:
        return extremes((*shape, 1), spec, rng)[:, 0]
    low, high = spec.stored_min, spec.stored_max
    index = np.indices(shape[1:], sparse=True)
    kinds: list[Callable[[], npt.ArrayLike]] = [
        lambda: random_codes(shape[1:], spec, rng),
        lambda: low,
        lambda: high,
        lambda: np.where(sum(index, np.zeros((), np.int64)) % 2 == 0, low, high),
        lambda: np.where(index[0] % 2 == 0, high, low),
        lambda: np.where(rng.integers(0, 2, shape[1:], np.uint8) == 0, low, high),
        lambda: spec.zero_point,
        lambda: np.clip(random_codes(shape[1:], spec, rng) % 4 + np.int32(spec.zero_point), low, high),
    ]
    first = int(rng.integers(len(kinds)))
    codes = np.empty(shape, spec.dtype)
    for row in range(shape[0] if codes.size else 0):
        codes[row] = kinds[(first + row) % len(kinds)]()
    return codes


def random_codes(shape: tuple[int, ...], spec: QuantSpec, rng: np.random.Generator) -> Codes:
    """Any that the grid stores."""
    return rng.integers(spec.stored_min, spec.stored_max, shape, spec.dtype, endpoint=True)


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
        return random_codes(shape, spec, rng)
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
    dims = len(found.kernel)
    starts = [
        range(-begin, size + end - extent + 1, stride * -(-extent // stride))
        for begin, end, size, extent, stride in zip(
            found.pads, found.pads[dims:], codes.shape[2:], found.extent, found.strides, strict=False
        )
    ]
    places = np.array(np.meshgrid(*starts, indexing="ij")).reshape(dims, -1).T
    places = places[rng.permutation(len(places))[:MAX_PATCHES]]
    # Each row begins a channel later, lest one of them has the same place in all.
    row, number = np.divmod(np.arange(len(codes) * len(places)), max(len(places), 1))
    drawn = channels[(row * (len(places) + 1) + number) % len(channels)]
    # What hangs over the image is drawn on a border, and lost.
    border = np.maximum(found.pads, 0).reshape(2, dims)
    wide = np.pad(codes, [(0, 0), (0, 0), *border.T])
    grouped = wide.reshape(len(wide), groups, -1, *wide.shape[2:])
    # [N, G, *S', C / G, *kernel], a view of every place that a window can have.
    seen = sliding_window_view(grouped, found.extent, tuple(range(3, 3 + dims)), writeable=True)
    for axis, dilation in enumerate(reversed(found.dilations), 1):
        seen = seen[(slice(None),) * (seen.ndim - axis) + (slice(None, None, dilation),)]
    seen = np.moveaxis(seen, 2, 2 + dims)
    at = np.tile(places + border[0], (len(codes), 1)).T
    seen[row, drawn // (len(ends) // groups), *at] = ends[drawn]
    codes[:] = wide[:, :, *(slice(b, b + size) for b, size in zip(border[0], codes.shape[2:], strict=True))]


def worst_channels(layer: Weighted[FinalWeight], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Output channels: by turns those of the largest pairs, and random ones."""
    rows = to_rows(layer.node, layer.weight.codes.astype(np.int64))
    paired = rows[:, : rows.shape[1] // 2 * 2].reshape(len(rows), -1, 2)
    largest = np.abs(paired.sum(axis=2)).max(axis=1, initial=0)
    order = np.argsort(-largest, kind="stable")
    return np.stack([order, rng.permutation(len(rows))], axis=1).reshape(-1)
