"""Which numbers of a tensor may be divided by one factor, so that what writes them and what reads them takes it along.

    x' = x / r      w_writer' = w_writer / r,  b' = b / r      w_reader'[:, c] = w_reader[:, c] r[c]

Any r > 0 for each channel leaves a network the same function, as far as what lies between writers and readers passes a
factor on: Relu, pools, sums, what moves numbers. A product of two activations sums `a[k] b[k]`, so that what divides
a[k] may multiply b[k]. Each op says of itself what it does to factors (`Op.factors`), and which of its parameters take
them.

A tensor's factors are an array of numbers of factors, with as many axes as the tensor, each as long as the tensor's or
of one element: i where a number is divided by factor i, -i where it is multiplied by it, 0 where it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qpipe.arith.namespace import AnyArray, IntArray

if TYPE_CHECKING:
    import onnx_ir as ir

Spread = Callable[[AnyArray], AnyArray]
"""An array that has one number for each channel, as an array that broadcasts to a parameter."""


@dataclass(frozen=True)
class Parameter:
    """A constant that takes factors: input `index` of the node is multiplied by `factor ** power`, spread over it.

    channels: their factors. is_weight: whether its sizes count, because channels share a step in it.
    """

    node: ir.Node
    index: int
    channels: IntArray
    power: int
    spread: Spread = lambda channels: channels
    is_weight: bool = False


class Factors:
    """All factors of a graph: which of them must be equal, or each other's reciprocal, and which must be 1."""

    def __init__(self) -> None:
        # Of each its parent and whether it is that one's reciprocal (-1). The root 0 is what stays.
        self._parents, self._signs = [0], [1]
        self.parameters: list[Parameter] = []

    def new(self, count: int) -> IntArray:
        """So many factors, `[count]`, which nothing is known of yet."""
        first = len(self._parents)
        self._parents += range(first, first + count)
        self._signs += [1] * count
        return np.arange(first, first + count)

    def take(
        self,
        node: ir.Node,
        index: int,
        channels: IntArray,
        power: int,
        spread: Spread = lambda channels: channels,
        *,
        is_weight: bool = False,
    ) -> None:
        """Say that a constant of a node takes these factors: see `Parameter`."""
        self.parameters.append(Parameter(node, index, channels, power, spread, is_weight))

    def roots(self, factors: IntArray) -> IntArray:
        """The same array with one number for all factors that are equal, its negative for their reciprocals."""
        known, places = np.unique(factors, return_inverse=True)
        found = np.array([np.sign(i) * sign * root for i in known for root, sign in [self._root(abs(int(i)))]])
        return found.astype(np.int64)[places].reshape(factors.shape)

    def is_one(self, factors: IntArray) -> bool:
        """Whether all of these numbers stay as they are."""
        return not self.roots(factors).any()

    def unite(self, a: IntArray, b: IntArray) -> IntArray:
        """Let numbers that meet, by broadcasting, have one factor; returns theirs."""
        a, b = np.broadcast_arrays(a, b)
        for one, other in np.unique(np.stack([a.reshape(-1), b.reshape(-1)]), axis=1).T:
            self._unite(int(one), int(other))
        return a

    def fix(self, *tensors: IntArray) -> None:
        """Let all of these numbers stay as they are."""
        for factors in tensors:
            self.unite(factors, np.zeros_like(factors))

    def over(self, factors: IntArray, axes: Sequence[int]) -> IntArray:
        """Let the numbers along these axes have one factor: they become axes of one element."""
        for axis in axes:
            first = factors.take([0], axis)
            if factors.shape[axis] > 1:
                self.unite(factors, first)
            factors = first
        return factors

    def along(self, factors: IntArray, axis: int, size: int) -> IntArray:
        """Those of an axis, `[size]`, all other axes having one."""
        axis %= factors.ndim
        merged = self.over(factors, [each for each in range(factors.ndim) if each != axis])
        return np.broadcast_to(merged.reshape(-1), (size,))

    def _root(self, factor: int) -> tuple[int, int]:
        sign, path = 1, []
        while (above := self._parents[factor]) != factor:
            path.append(factor)
            factor = above
        for each in reversed(path):
            sign *= self._signs[each]
            self._parents[each], self._signs[each] = factor, sign
        return factor, sign

    def _unite(self, one: int, other: int) -> None:
        (a, first), (b, second) = self._root(abs(one)), self._root(abs(other))
        same = first * second * (1 if (one >= 0) == (other >= 0) else -1)
        if a == b:
            # A number that is its own reciprocal.
            if same < 0:
                self._parents[a] = 0
            return
        child, parent = (a, b) if b == 0 else (b, a)
        self._parents[child], self._signs[child] = parent, same


def placed(channels: IntArray, axis: int, dims: int) -> IntArray:
    """Factors of an axis, `[C]`, as those of a tensor of so many axes."""
    shape = [1] * dims
    shape[axis] = -1
    return channels.reshape(shape)
