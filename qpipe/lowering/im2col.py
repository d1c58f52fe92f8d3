"""Convolution as a product of integer matrices: patches `[N, *S', K]` of uint8 codes times int8 weights `[K, O]`.

K runs over planes, rows, columns and channels of the window, channels fastest: the order in which
`qpipe.arith.weights` keeps pairs of weights safe. Narrow groups are joined to wider ones with zeros between them (a
depthwise convolution is nothing else), because onnxruntime multiplies 32 channels as fast as one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qpipe.arith.symbolic import INT32, UINT8, DType
from qpipe.arith.weights import pair_excess
from qpipe.ir.quantized.weight_codes import PACKED, stored_weight
from qpipe.lowering.integer_graph import Array, IntegerGraph
from qpipe.nodes import Window

ROWS_BELOW = 128  # channels: narrower pixels are joined along the row first, so that the larger copy has longer runs
GROUP_WIDTH = 32
PAIR_LIMIT = 128  # |w0| + |w1| that every uint8 code can multiply within int16


def convolve(
    b: IntegerGraph, x: ir.Value, weight: Array, bits: int, shape: Window, groups: int, zero_point: int
) -> ir.Value:
    """int32 `[N, *S', O]` of uint8 x `[N, *S, C]`, without the bias. weight: codes `[O, C / groups, *kernel]`."""
    x = pad(b, x, shape.pads, zero_point)
    size, outputs, last_axis = weight.shape[1], len(weight) // groups, 1 + len(shape.kernel)
    parts = []
    for first, last in _group_runs(weight, groups, b.weights):
        count = last - first
        part = x if count == groups else b.slice(x, {last_axis: slice(first * size, last * size)})
        matrix = weight_matrix(b, weight[first * outputs : last * outputs], bits, count)
        parts.append(multiply(b, im2col(b, part, shape, size * count), matrix, zero_point))
    return b.concat(parts, last_axis, INT32)


def multiply(b: IntegerGraph, x: ir.Value, matrix: tuple[ir.Value, int], zero_point: int) -> ir.Value:
    """int32 `(x - zero_point) w` of uint8 `[..., K]` and stored weights `[K, O]` with their own zero point."""
    stored, weight_zero_point = matrix
    inputs: list[ir.Value | None] = [x, stored]
    if zero_point or weight_zero_point:
        inputs.append(b.shared(np.uint8(zero_point)))
    if weight_zero_point:
        inputs.append(b.shared(np.uint8(weight_zero_point)))
    return b.node("MatMulInteger", inputs, INT32)


def pad(b: IntegerGraph, x: ir.Value, pads: Sequence[int], fill: int) -> ir.Value:
    """x `[N, *S, C]` with a border of the code `fill`; pads: all begins, all ends."""
    if not any(pads):
        return x
    half = len(pads) // 2
    everywhere = b.integers([0, *pads[:half], 0, 0, *pads[half:], 0])
    return b.node("Pad", [x, everywhere, b.shared(np.uint8(fill))])


def taps(b: IntegerGraph, x: ir.Value, shape: Window, axis: int, dtype: DType = UINT8) -> list[ir.Value]:
    """What each tap of the window along the axis sees, over all positions of the window."""
    i = axis - 1
    if shape.kernel[i] == 1 and shape.strides[i] == 1:
        return [x]
    return [b.slice(x, {axis: tap_slice(shape, i, tap)}, dtype) for tap in range(shape.kernel[i])]


def tap_slice(shape: Window, i: int, tap: int) -> slice:
    """The positions that one tap sees, of a dimension already padded: the end counts from the far side."""
    offset = tap * shape.dilations[i]
    behind = shape.extent[i] - 1 - offset
    return slice(offset, -behind if behind else None, shape.strides[i])


def spatial_axes(shape: Window) -> range:
    """Those that a window slides over, of images with channels last."""
    return range(1, 1 + len(shape.kernel))


def im2col(b: IntegerGraph, x: ir.Value, shape: Window, channels: int) -> ir.Value:
    """Patches `[N, *S', kernel * C]` of padded x."""
    axes, last_axis = spatial_axes(shape), 1 + len(shape.kernel)
    if all(size == 1 for size in shape.kernel):
        cut = {axis: slice(0, None, stride) for axis, stride in zip(axes, shape.strides, strict=True)}
        return x if all(stride == 1 for stride in shape.strides) else b.slice(x, cut)
    if channels < ROWS_BELOW or 1 in shape.kernel:
        for axis in reversed(axes):
            x = b.concat(taps(b, x, shape, axis), last_axis)
        return x
    windows = [
        b.slice(x, {axis: tap_slice(shape, axis - 1, tap) for axis, tap in zip(axes, place, strict=True)})
        for place in itertools.product(*map(range, shape.kernel))
    ]
    return b.concat(windows, last_axis)


def weight_matrix(b: IntegerGraph, codes: Array, bits: int, groups: int = 1) -> tuple[ir.Value, int]:
    """`[K, O]` and its zero point, of `groups` joined groups: codes `[O, C / groups, *kernel]`, O over all of them.

    The file stores the codes alone; zeros between groups come from a product with a unit matrix, which is folded when
    a session starts.
    """
    size, outputs = codes.shape[1], len(codes) // groups
    kernel = math.prod(codes.shape[2:])
    # [kernel, channel of the group, group, output of the group]
    compact = codes.reshape(groups, outputs, size, kernel).transpose(3, 2, 0, 1)
    if groups == 1:
        tensor, zero_point = stored_weight(compact.reshape(kernel * size, outputs), bits, b.weights)
        return _stored(b, tensor), int(zero_point)
    tensor, _ = stored_weight(compact.reshape(kernel, 1, size, groups, outputs), bits)
    unit = b.shared(np.eye(groups, dtype=np.int8).reshape(1, groups, 1, groups, 1))
    product = b.node("Mul", [_stored(b, tensor), unit], np.dtype(np.int8))
    matrix = b.integers([kernel * groups * size, groups * outputs])
    return b.node("Reshape", [product, matrix], np.dtype(np.int8)), 0


def _stored(b: IntegerGraph, tensor: ir.TensorProtocol) -> ir.Value:
    value = b.constant(b.scoped("weight"), tensor)
    return b.cast(value, np.dtype(np.int8)) if tensor.dtype in PACKED else value


def _group_runs(codes: Array, groups: int, weights: str) -> list[tuple[int, int]]:
    """First and last (exclusive) of the groups that are multiplied together."""
    size = codes.shape[1]
    together = max(1, GROUP_WIDTH // size) if groups > 1 else 1
    if size > 1 and (weights == "uint8" or not _stays_safe(codes, groups, together)):
        together = 1
    count = -(-groups // together)
    bounds = [groups * i // count for i in range(count + 1)]
    return list(itertools.pairwise(bounds))


def _stays_safe(codes: Array, groups: int, together: int) -> bool:
    """Whether joining moves no weights into one pair that must not be: that have an odd count of channels may."""
    if codes.shape[1] % 2 == 0 or together == 1:
        return True
    rows = codes.astype(np.int64).reshape(len(codes), codes.shape[1], -1).transpose(0, 2, 1)
    shifted = np.pad(rows, ((0, 0), (0, 0), (1, 0)))
    both = (np.pad(rows, ((0, 0), (0, 0), (0, 1))), shifted)
    return not any(pair_excess(x.reshape(len(codes), -1), PAIR_LIMIT).any() for x in both)
