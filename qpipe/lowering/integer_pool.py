"""Average pooling in integers: sums of codes over a window, divided by the count of real pixels, rounded once."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from qpipe.arith.quantize import divide_half_even
from qpipe.arith.symbolic import INT32, UINT8, Symbol
from qpipe.errors import LoweringError
from qpipe.ir.quantized.view import RequantizedLayer
from qpipe.lowering.im2col import HEIGHT, WIDTH, pad, taps
from qpipe.lowering.integer_builder import Array, IntegerBuilder, Layout
from qpipe.nodes import Window, describe, int_attribute, static_shape, window

_INT32_MAX = 2**31 - 1


def average(layer: RequantizedLayer, b: IntegerBuilder) -> None:
    """Write an AveragePool, GlobalAveragePool or spatial ReduceMean."""
    sizes = _spatial_sizes(layer)
    x = b.codes(layer.sources[0], "NHWC")
    if layer.op_type != "AveragePool":
        whole = b.symbol(b.cast(x, INT32), layer.output, "NHWC")
        total = whole.sum((HEIGHT, WIDTH))
        _divide(layer, b, total, math.prod(sizes), np.array(math.prod(sizes)))
        return
    shape = window(layer.node)
    if len(shape.kernel) != 2:
        raise LoweringError(f"{describe(layer.node)}: {len(shape.kernel)} spatial dimensions, expected 2")
    check_windows(layer)
    include = bool(int_attribute(layer.node, "count_include_pad", 0))
    pads = shape.padded(sizes, ceil_mode=bool(int_attribute(layer.node, "ceil_mode", 0)))
    total = _windowed(layer, b, pad(b, x, pads, layer.sources[0].spec.zero_point), shape)
    # [H', W', 1]: so many real pixels are under each position of the window.
    rows, columns = (_counts(shape, pads, i, size, include) for i, size in enumerate(sizes))
    _divide(layer, b, total, math.prod(shape.kernel), np.multiply.outer(rows, columns)[..., None])


def check_windows(layer: RequantizedLayer) -> None:
    """LoweringError where the file's sizes count a window that lies in the padding alone, which runtimes leave out."""
    shape, ceil_mode = window(layer.node), bool(int_attribute(layer.node, "ceil_mode", 0))
    sizes = (static_shape(layer.sources[0].codes) or ())[2:]
    known = [size for size in sizes if size is not None]
    said = static_shape(layer.output) or ()
    if not ceil_mode or len(known) != len(shape.kernel) or len(said) != len(sizes) + 2:
        return
    pads = shape.padded(known, ceil_mode=True)
    for i, size in enumerate(known):
        count = _positions(shape, pads, i, size)
        if said[2 + i] not in {None, count}:
            raise LoweringError(
                f"{describe(layer.node)}: the file says {said[2 + i]} windows, but only {count} begin on the image; "
                "expected pads without ceil_mode"
            )


def _spatial_sizes(layer: RequantizedLayer) -> list[int]:
    shape = static_shape(layer.sources[0].codes) or ()
    sizes = [size for size in shape[2:] if size is not None]
    if not sizes or len(sizes) != len(shape) - 2:
        raise LoweringError(f"{describe(layer.node)}: the image's size is unknown, expected a fixed one to divide by")
    return sizes


def _positions(shape: Window, pads: tuple[int, ...], i: int, size: int) -> int:
    return (size + pads[i] + pads[len(shape.kernel) + i] - shape.extent[i]) // shape.strides[i] + 1


def _counts(shape: Window, pads: tuple[int, ...], i: int, size: int, include: bool) -> Array:
    """How many pixels of this axis each position counts; what ceil_mode adds to the padding is never one."""
    first = np.arange(_positions(shape, pads, i, size)) * shape.strides[i] - shape.pads[i]
    low, high = (-shape.pads[i], size + shape.pads[len(shape.kernel) + i]) if include else (0, size)
    return np.asarray(np.minimum(first + shape.kernel[i], high) - np.maximum(first, low))


def _windowed(layer: RequantizedLayer, b: IntegerBuilder, x: ir.Value, shape: Window) -> Symbol:
    """Sums of codes under the window, first along the row."""
    value = b.cast(x, INT32)
    for axis in (WIDTH, HEIGHT):
        terms = [b.symbol(tap, layer.output, "NHWC") for tap in taps(b, value, shape, axis, INT32)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        value = total.handle
    return total


def _divide(layer: RequantizedLayer, b: IntegerBuilder, total: Symbol, pixels: int, counts: Array) -> None:
    """`total` sums the codes of `pixels` pixels, `counts` of which are real; the others hold the zero point."""
    layout: Layout = "NHWC"
    source, spec = layer.sources[0].spec, layer.target
    bias, finer = -source.zero_point * pixels, source.exponent - spec.exponent
    low, high = source.stored_min * pixels, source.stored_max * pixels
    count = int(counts.flat[0])
    if np.all(counts == count) and count & (count - 1) == 0:
        shift = count.bit_length() - 1 - finer
        b.finish(layer, total, layout, shift=shift, bias=bias, accumulators=(low, high))
        return
    steps, denominator = 1 << max(finer, 0), counts << max(-finer, 0)
    if max(abs(low + bias), high + bias) * steps > _INT32_MAX or spec.stored_max * denominator.max() * 4 > _INT32_MAX:
        raise LoweringError(f"{describe(layer.node)}: the grids of input and output are {abs(finer)} powers of 2 apart")
    numerator = ((total + bias) * steps).clip(spec.qmin * denominator, spec.qmax * denominator)
    codes = divide_half_even(numerator + spec.zero_point * denominator, denominator)
    b.define_symbol(layer, codes.astype(UINT8), layout)
