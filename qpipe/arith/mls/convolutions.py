"""The three products of a low-bit convolution, exactly (equations 5 to 8), with all its strides, pads and groups.

They differ only in which index is summed: positions of the kernel and input channels in Conv(W, A), positions of the
kernel and output channels in Conv(W, E), positions of the output and samples in Conv(A, E). So each has its sums within
groups for every sample, output channel and input channel, `[n, g, co / g, ci / g, ...]`, of which one axis is then
summed between groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from qpipe.arith.mls.accumulator import Convolution, accumulator
from qpipe.arith.mls.exact import Operand, Sums, summed
from qpipe.arith.namespace import AnyArray

Index = tuple[Any, ...]

_SAMPLES, _OUTPUTS, _INPUTS = 0, 2, 3
"""The axes that are summed between groups."""


def conv_w_a(w: Operand, a: Operand, convolution: Convolution) -> Sums:
    """The forward product: of W `[co, ci / g, ...]` and A `[n, ci, ...]`, without bias, `[n, co, ...]`."""
    frame = _Frame(convolution, w.elements.shape, a.elements.shape)

    def within(w_: AnyArray, a_: AnyArray) -> AnyArray:
        sums = frame.zeros(frame.output)
        for tap, inputs, outputs in frame.taps():
            sums[outputs] += frame.weights_at(tap, w_) * a_[inputs]
        return sums

    width = accumulator("Conv(W, A)", convolution, frame.weight, frame.activation, (w.fmt, a.fmt))
    found = summed(within, frame.of_weight(w), frame.of_activation(a), width, _INPUTS)
    return found.reshaped(len(a.elements), len(w.elements), *frame.output)


def conv_w_e(w: Operand, e: Operand, convolution: Convolution, activation: Sequence[int]) -> Sums:
    """The gradient of the input, which has the shape `activation`: of W and E `[n, co, ...]`."""
    frame = _Frame(convolution, w.elements.shape, tuple(activation))

    def within(w_: AnyArray, e_: AnyArray) -> AnyArray:
        sums = frame.zeros(frame.spatial)
        for tap, inputs, outputs in frame.taps():
            sums[inputs] += frame.weights_at(tap, w_) * e_[outputs]
        return sums

    width = accumulator("Conv(W, E)", convolution, frame.weight, frame.activation, (w.fmt, e.fmt))
    return summed(within, frame.of_weight(w), frame.of_error(e), width, _OUTPUTS).reshaped(*activation)


def conv_a_e(a: Operand, e: Operand, convolution: Convolution, weight: Sequence[int]) -> Sums:
    """The gradient of the weight, which has the shape `weight`: of A and E."""
    frame = _Frame(convolution, tuple(weight), a.elements.shape)

    def within(a_: AnyArray, e_: AnyArray) -> AnyArray:
        sums = frame.zeros(frame.kernel)
        for tap, inputs, outputs in frame.taps():
            products = a_[inputs] * e_[outputs]
            sums[tap] = products.reshape(*products.shape[:4], -1).sum(-1)
        return sums

    width = accumulator("Conv(A, E)", convolution, frame.weight, frame.activation, (a.fmt, e.fmt))
    return summed(within, frame.of_activation(a), frame.of_error(e), width, _SAMPLES).reshaped(*weight)


@dataclass(frozen=True)
class _Frame:
    """The axes `[n, g, co / g, ci / g, ...]` of a layer: an operand has 1 for each that it lacks."""

    convolution: Convolution
    weight: tuple[int, ...]
    activation: tuple[int, ...]

    @property
    def spatial(self) -> tuple[int, ...]:
        return self.activation[2:]

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight[2:]

    @property
    def output(self) -> tuple[int, ...]:
        return self.convolution.output(self.spatial, self.kernel)

    @property
    def channels(self) -> tuple[int, int, int]:
        """Groups, output channels of one, input channels of one."""
        groups = self.convolution.groups
        return groups, self.weight[0] // groups, self.weight[1]

    def of_weight(self, w: Operand) -> Operand:
        return w.viewed(1, *self.channels)

    def of_activation(self, a: Operand) -> Operand:
        groups, _, inputs = self.channels
        return a.viewed(self.activation[0], groups, 1, inputs)

    def of_error(self, e: Operand) -> Operand:
        groups, outputs, _ = self.channels
        return e.viewed(self.activation[0], groups, outputs, 1)

    def zeros(self, axes: tuple[int, ...]) -> AnyArray:
        return np.zeros((self.activation[0], *self.channels, *axes), object)

    def weights_at(self, tap: Index, w: AnyArray) -> AnyArray:
        """The weights of one position of the kernel, beside all positions that they are multiplied with."""
        found: AnyArray = w[tap].reshape(*w.shape[:4], *[1] * len(self.kernel))
        return found

    def taps(self) -> Iterator[tuple[Index, Index, Index]]:
        """Each position of the kernel, the inputs that it reads and the outputs that it adds to, but for pads."""
        of = self.convolution
        axes = list(zip(self.spatial, self.output, of.strides, of.pads, of.dilations, strict=True))
        for tap in product(*map(range, self.kernel)):
            inputs, outputs = [], []
            for at, (size, output, stride, (before, _), dilation) in zip(tap, axes, strict=True):
                offset = at * dilation - before
                first = max(0, -(offset // stride))
                count = max(min(output - 1, (size - 1 - offset) // stride) + 1 - first, 0)
                outputs.append(slice(first, first + count))
                inputs.append(slice(first * stride + offset, (first + count) * stride + offset, stride))
            yield (..., *tap), (..., *inputs), (..., *outputs)
