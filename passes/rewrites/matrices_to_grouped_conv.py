"""Write a MatMul by several constant matrices as one layer: a Conv of kernel 1, or a MatMul by one matrix.

    MatMul(x [N, H, T, K], w [1, H, K, C])  =  Transpose(Reshape(Conv(Reshape(Transpose(x)) [N, H K, T])))

where Conv has H groups and the weights `[H C, K, 1]`. Of the axes before the last two

    x and w have H                 they are the groups: heads, capsules, the channels of a grouped Linear
    w alone has more than one      its matrices are columns beside each other: experts, votes for each class
    x alone has more than one      they are rows, as T is

The batch is the one axis that is open, else the first of the rows. A weight of more than two axes has no integer form;
a Conv's has, each channel with a scale of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray
from qpipe.ir.graph.rewrite import Steps, rewrite
from qpipe.nodes import constant_input, input_value, static_shape


@dataclass(frozen=True, kw_only=True)
class MatricesToGroupedConv(ir.passes.InPlacePass):
    """MatMul by constants of more than one matrix, where no size of x is open but one of rows, the batch."""

    name: ClassVar[str] = "matrices-to-grouped-conv"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every match."""
        return rewrite(model, frozenset({"MatMul"}), _try_replace)


@dataclass(frozen=True)
class _Axes:
    """Which of the result's axes `[..., T, C]` are what, each in the order of the result, and how large they are."""

    batch: int
    groups: tuple[int, ...]
    columns: tuple[int, ...]
    rows: tuple[int, ...]
    sizes: tuple[int | None, ...]

    def count(self, axes: Sequence[int]) -> int:
        """Elements along these, of which none is open."""
        return math.prod(self.sizes[axis] or 0 for axis in axes)


def _try_replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, shape, weight = input_value(node, 0), static_shape(node.inputs[0]), constant_input(node, 1)
    if x is None or shape is None or weight is None or weight.dtype != np.float32 or len(shape) < 2:
        return False
    if x.dtype not in {ir.DataType.FLOAT, None} or weight.ndim < 3 or not math.prod(weight.shape[:-2]) > 1:
        return False
    axes = _axes(shape, weight.shape)
    if axes is None:
        return False
    _replace(graph, node, x, axes, weight)
    return True


def _axes(shape: Sequence[int | None], weight: Sequence[int]) -> _Axes | None:
    """None where an axis is open that is no row, or several are, or where there is no batch."""
    most = max(len(shape), len(weight))
    left = [*[1] * (most - len(shape)), *shape]
    right = [*[1] * (most - len(weight)), *weight]
    sizes = [a if b == 1 else b for a, b in zip(left[:-1], right[:-1], strict=True)]
    sizes[-1] = left[-2]
    leading = range(most - 2)
    groups = tuple(axis for axis in leading if right[axis] > 1 and left[axis] == right[axis])
    columns = tuple(axis for axis in leading if right[axis] > 1 and left[axis] == 1)
    rows = [axis for axis in range(most - 1) if axis not in {*groups, *columns}]
    if any(right[axis] > 1 for axis in rows if axis in leading) or left[-1] is None or not all(right):
        return None
    opened = [axis for axis in rows if sizes[axis] is None]
    # An axis that x does not have is none that a batch could be.
    held = [axis for axis in rows if axis >= most - len(shape)]
    if len(opened) > 1 or not held:
        return None
    batch = (opened or held)[0]
    rows.remove(batch)
    return _Axes(batch, groups, columns, tuple(rows), (*sizes, weight[-1]))


def _replace(graph: ir.Graph, node: ir.Node, x: ir.Value, axes: _Axes, weight: AnyArray) -> None:
    assert x.shape is not None
    steps, most = Steps(graph, node, x), len(axes.sizes)
    absent, (K, C) = most - len(x.shape), weight.shape[-2:]
    dims = [*[1] * absent, *x.shape.dims]
    batch = dims[axes.batch]
    # The operand, without the axes that it lacks: the batch, then what is summed beside its groups.
    last = most - 1
    order = [axes.batch, *axes.groups, last, *axes.rows] if axes.groups else [axes.batch, *axes.rows, last]
    order = [axis for axis in (*order[:1], *axes.columns, *order[1:]) if axis >= absent]
    if order != sorted(order):
        steps.add("Transpose", "turned", [], [dims[axis] for axis in order], perm=[axis - absent for axis in order])
    G, T, wide = axes.count(axes.groups), axes.count(axes.rows), axes.count(axes.columns) * C
    matrices = weight.reshape([1] * (most - weight.ndim) + list(weight.shape))
    matrices = matrices.transpose(*axes.groups, *axes.columns, *(a for a in axes.rows if a < most - 2), *_rest(axes))
    if axes.groups:
        steps.add("Reshape", "channels", [np.array([0, G * K, T])], [batch, G * K, T])
        filters = matrices.reshape(G, wide // C, K, C).transpose(0, 1, 3, 2).reshape(G * wide, K, 1)
        window = {"kernel_shape": [1], "pads": [0, 0], "strides": [1], "dilations": [1]}
        steps.add("Conv", "product", [np.ascontiguousarray(filters)], [batch, G * wide, T], group=G, **window)
        given = [axes.batch, *axes.groups, *axes.columns, last, *axes.rows]
    else:
        steps.add("Reshape", "rows", [np.array([0, T, K])], [batch, T, K])
        matrix = matrices.reshape(wide // C, K, C).transpose(1, 0, 2).reshape(K, wide)
        steps.add("MatMul", "product", [np.ascontiguousarray(matrix)], [batch, T, wide])
        given = [axes.batch, *axes.rows, *axes.columns, last]
    sizes = [0, *(axes.sizes[axis] or 0 for axis in given[1:])]
    steps.add("Reshape", "apart", [np.array(sizes)], [batch, *sizes[1:]])
    back = [given.index(axis) for axis in range(most)]
    if back != sorted(back):
        steps.add("Transpose", "in_place", [], [batch if a == axes.batch else axes.sizes[a] or 0 for a in range(most)],
                  perm=back)  # fmt: skip
    steps.replace()


def _rest(axes: _Axes) -> tuple[int, ...]:
    """The axes of a weight that are left behind its groups, columns and rows: the batch's, K and C."""
    most = len(axes.sizes)
    return (*((axes.batch,) if axes.batch < most - 2 else ()), most - 2, most - 1)
