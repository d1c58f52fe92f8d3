"""A first convolution of few channels and a stride, as one without a stride on more channels.

s rows and s columns of pixels become the channels of one, so that patches are copied in runs of 12 bytes instead of 3:
for a 7x7 convolution of an image at 224x224 half of the time. K runs over other neighbours then, and pairs of weights
(see `qpipe.arith.weights`) must stay those that were kept safe: a row of the window that starts at an odd place along K
is shifted by one byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qpipe.lowering.integer_graph import Array, IntegerGraph
from qpipe.nodes import Window

MAX_CHANNELS = 4


def fold_stride(
    b: IntegerGraph, x: ir.Value, weight: Array, shape: Window, sizes: Sequence[int | None], fill: int
) -> tuple[ir.Value, Array, Window] | None:
    """x `[N, H, W, C]`, weight and window of an equal convolution; None where the form does not fit or gains nothing.

    sizes: height and width. fill: the code of the padding.
    """
    (height, width), stride, (rows, columns) = sizes, shape.strides[0], shape.kernel
    channels = weight.shape[1]
    run = columns * channels  # bytes of a window's row
    if (
        height is None
        or width is None
        or channels > MAX_CHANNELS
        or shape.strides != (stride, stride)
        or stride == 1
        or min(rows, columns) == 1
        or shape.dilations != (1, 1)
        or stride * channels % 2
        or (stride % 2 and run % 2)
    ):
        return None
    block = stride * channels
    shifts = [row * run % 2 for row in range(stride)]
    kernel = (-(-rows // stride), -(-(run + max(shifts)) // block))
    x = _folded_image(b, x, _exact_pads(shape, (height, width), kernel), (height, width), shifts, block, fill)
    window = Window(kernel=kernel, strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0))
    return x, _folded_weight(weight, kernel, shifts, block), window


def _exact_pads(shape: Window, sizes: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, ...]:
    """Pads, of which the last two may crop, after which each axis is as long as the new windows reach."""
    stride, ends = shape.strides[0], []
    for i, size in enumerate(sizes):
        positions = (size + shape.pads[i] + shape.pads[2 + i] - shape.kernel[i]) // stride + 1
        ends.append((positions - 1 + kernel[i]) * stride - size - shape.pads[i])
    return (*shape.pads[:2], *ends)


def _folded_image(
    b: IntegerGraph,
    x: ir.Value,
    pads: tuple[int, ...],
    sizes: tuple[int, int],
    shifts: list[int],
    block: int,
    fill: int,
) -> ir.Value:
    """`[N, H / s, W / s, s * s * C]`: the bytes of s pixels of the first of s rows, then those of the next."""
    stride, code = len(shifts), b.shared(np.uint8(fill))
    padded = b.node("Pad", [x, b.integers([0, *pads[:2], 0, 0, *pads[2:], 0]), code])
    height, width = (size + pads[i] + pads[2 + i] for i, size in enumerate(sizes))
    bytes_of_row = width * block // stride
    phases = []
    for row, shift in enumerate(shifts):
        phase = b.slice(padded, {1: slice(row, None, stride)})
        if shift:
            phase = b.node("Reshape", [phase, b.integers([0, height // stride, bytes_of_row])])
            phase = b.node("Pad", [phase, b.integers([0, 0, 1, 0, 0, -1]), code])
        phases.append(b.node("Reshape", [phase, b.integers([0, height // stride, width // stride, block])]))
    return b.concat(phases, 3)


def _folded_weight(weight: Array, kernel: tuple[int, int], shifts: list[int], block: int) -> Array:
    """`[O, s * s * C, *kernel]`, with zeros where the window of whole blocks is larger than the old one."""
    outputs, _, rows, _ = weight.shape
    stride, lines = len(shifts), weight.transpose(0, 2, 3, 1).reshape(outputs, rows, -1)
    folded = np.zeros((outputs, stride, kernel[0], kernel[1] * block), weight.dtype)
    for row in range(rows):
        shift = shifts[row % stride]
        folded[:, row % stride, row // stride, shift : shift + lines.shape[2]] = lines[:, row]
    split = folded.reshape(outputs, stride, kernel[0], kernel[1], block)
    return split.transpose(0, 1, 4, 2, 3).reshape(outputs, stride * block, *kernel)
