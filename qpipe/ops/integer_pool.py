"""Average pooling in integers: sums of codes over a window, divided by the count of real pixels, rounded once."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from qpipe.arith.quantize import divide_half_even
from qpipe.arith.symbolic import INT32, UINT8, Symbol
from qpipe.errors import LoweringError
from qpipe.ir.attributes import Window, describe, int_attribute, static_shape, window
from qpipe.ir.view import QuantizedLayer
from qpipe.ops.integer_builder import Array, IntegerBuilder, Layout, result_spec
from qpipe.ops.integer_conv import HEIGHT, WIDTH, pad, taps

_INT32_MAX = 2**31 - 1


def average(layer: QuantizedLayer, b: IntegerBuilder) -> None:
    """Write an AveragePool, GlobalAveragePool or spatial ReduceMean."""
    sizes = _spatial_sizes(layer)
    x = b.codes(layer.inputs[0], "NHWC")
    if layer.op_type != "AveragePool":
        whole = b.symbol(b.cast(x, INT32), layer.layer.output, "NHWC")
        total = whole.sum((HEIGHT, WIDTH))
        _divide(layer, b, total, math.prod(sizes), np.array(math.prod(sizes)))
        return
    shape = window(layer.node)
    if len(shape.kernel) != 2:
        raise LoweringError(f"{describe(layer.node)}: {len(shape.kernel)} spatial dimensions, expected 2")
    ceil_mode = bool(int_attribute(layer.node, "ceil_mode", 0))
    include = bool(int_attribute(layer.node, "count_include_pad", 0))
    pads, counts = zip(*(_axis(shape, i, size, ceil_mode, include) for i, size in enumerate(sizes)), strict=True)
    zero_point = layer.inputs[0].spec.zero_point
    x = pad(b, x, [pads[0][0], pads[1][0], pads[0][1], pads[1][1]], zero_point)
    total = _windowed(layer, b, x, shape)
    # [H', W', 1]: so many real pixels are under each position of the window.
    _divide(layer, b, total, math.prod(shape.kernel), np.multiply.outer(*counts)[..., None])


def _spatial_sizes(layer: QuantizedLayer) -> list[int]:
    shape = static_shape(layer.inputs[0].codes) or ()
    sizes = [size for size in shape[2:] if size is not None]
    if not sizes or len(sizes) != len(shape) - 2:
        raise LoweringError(f"{describe(layer.node)}: the image's size is unknown, expected a fixed one to divide by")
    return sizes


def _axis(shape: Window, i: int, size: int, ceil_mode: bool, include: bool) -> tuple[tuple[int, int], Array]:
    """Pads before and behind, with what ceil_mode adds, and how many pixels of this axis each position counts."""
    kernel, stride, begin = shape.kernel[i], shape.strides[i], shape.pads[i]
    end = shape.pads[len(shape.kernel) + i]
    steps, rest = divmod(size + begin + end - kernel, stride)
    # A window that would start behind the image and its begin is none.
    outputs = steps + 1 + int(ceil_mode and rest > 0 and (steps + 1) * stride < size + begin)
    first = np.arange(outputs) * stride - begin
    low, high = (-begin, size + end) if include else (0, size)
    counts = np.minimum(first + kernel, high) - np.maximum(first, low)
    return (begin, max(end, int(first[-1]) + kernel - size)), counts


def _windowed(layer: QuantizedLayer, b: IntegerBuilder, x: ir.Value, shape: Window) -> Symbol:
    """Sums of codes under the window, first along the row."""
    value = b.cast(x, INT32)
    for axis in (WIDTH, HEIGHT):
        terms = [b.symbol(tap, layer.layer.output, "NHWC") for tap in taps(b, value, shape, axis, INT32)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        value = total.handle
    return total


def _divide(layer: QuantizedLayer, b: IntegerBuilder, total: Symbol, pixels: int, counts: Array) -> None:
    """`total` sums the codes of `pixels` pixels, `counts` of which are real; the others hold the zero point."""
    assert layer.output is not None
    layout: Layout = "NHWC"
    source, spec = layer.inputs[0].spec, result_spec(layer)
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
