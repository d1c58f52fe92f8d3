"""Average pooling in integers: sums of codes over a window, divided by the count of real pixels, rounded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qpipe.arith.quantize import divide_half_even
from qpipe.arith.symbolic import INT32, UINT8, Symbol
from qpipe.errors import LoweringError
from qpipe.ir.quantized.view import RequantizedLayer
from qpipe.lowering.im2col import spatial_axes, taps
from qpipe.lowering.integer_graph import Array, IntegerGraph
from qpipe.nodes import Window, describe

if TYPE_CHECKING:
    from qpipe.lowering.integer_builder import IntegerBuilder, Layout

_INT32_MAX = 2**31 - 1


def window_sums(b: IntegerGraph, x: ir.Value, shape: Window, sizes: Sequence[int | None]) -> Symbol:
    """Sums of padded uint8 codes `[N, *S, C]` under the window, the last axis first; sizes: of the result."""
    value = b.cast(x, INT32)
    for axis in reversed(spatial_axes(shape)):
        first, *others = (Symbol(b, tap, INT32, sizes) for tap in taps(b, value, shape, axis, INT32))
        for term in others:
            first = first + term
        value = first.handle
    return first


def divide(
    b: IntegerBuilder, layer: RequantizedLayer, total: Symbol, pixels: int, counts: Array, layout: Layout = "NHWC"
) -> None:
    """The layer's output: `total` sums the codes of `pixels` pixels, `counts` are real; others hold the zero point."""
    source, spec = layer.sources[0].grid, layer.clipped_to
    bias, finer = -source.zero_point * pixels, source.exponent - spec.exponent
    low, high = source.stored_min * pixels, source.stored_max * pixels
    count = int(counts.flat[0])
    if np.all(counts == count) and count & (count - 1) == 0:
        shift = count.bit_length() - 1 - finer
        b.finish(layer, total, layout, shift=shift, bias=bias, accumulators=(low, high))
        return
    steps, denominator = 1 << max(finer, 0), counts << max(-finer, 0)
    least, most = spec.qmin * denominator, spec.qmax * denominator
    if spec.stored_max * denominator.max() * 4 + steps > _INT32_MAX:
        raise LoweringError(f"{describe(layer.node)}: the grids of input and output are {abs(finer)} powers of 2 apart")
    real = total + bias
    if max(abs(low + bias), high + bias) * steps > _INT32_MAX:
        # What is cut off behind the product anyway would leave int32 in it.
        real = real.clip(least // steps, -(-most // steps))
    numerator = (real * steps).clip(least, most)
    codes = divide_half_even(numerator + spec.zero_point * denominator, denominator)
    b.define_symbol(layer, codes.astype(UINT8), layout)
