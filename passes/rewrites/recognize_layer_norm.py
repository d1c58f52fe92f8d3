"""Make one LayerNormalization of the nodes that exporters write for it, whatever the order.

    y = gamma (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) + beta

along the last axis, the last two, or axis 1; gamma and beta are constants along it, or 1 and 0. As PyTorch writes it
(ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add) and as Keras does (`x g + (beta - mean g)` with `g = gamma
/ sqrt(variance + eps)`; tf2onnx takes the means of sequences [N, T, C] by GlobalAveragePool) and Flax (`max(0,
mean(x^2) - mean(x)^2)`, of sums), it is recognized by its values on samples, in float64: gamma and beta are the ones
that err least, and must not err. Along axis 1 (channels of an image) there is a Transpose before and behind. Without
the mean (Zhang and Sennrich 2019: Llama, T5), along the last axis and before weights, it is one of each row beside its
negative, whose mean is 0:

    gamma x / sqrt(mean(x^2) + eps)  =  LayerNormalization([x, -x], [gamma, gamma])[:K]

Along any other axes but the batch, as groups of channels that come last are normalized ([N, H, W, G, C / G] along 1, 2
and 4), it is one of rows, and gamma and beta are a Mul and an Add behind it. Sources: Ba, Kiros and Hinton 2016,
equations 3 and 4; Wu and He 2018, *Group Normalization*; ONNX operator specification, LayerNormalization-17.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.layer_norm import LONGEST_ROW
from qpipe.arith.namespace import Float64Array
from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.rewrite import Steps, rewrite
from qpipe.nodes import constant_input, initializer, name_value, static_shape
from qpipe.ops.formula import ELEMENTWISE, KEEPING, REDUCING, Formula

TOLERANCE: Final = 1e-6
"""Relative to the largest result: both are float64, of the same constants."""
_ROWS: Final = 5
"""Of samples, along each axis that is not normalized."""
_FEWER_ROWS: Final = 3
"""Where gamma and beta may change along other axes too: each has few samples, and there are many of them."""
_LARGEST_EPSILON: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class RecognizeLayerNorm(ir.passes.InPlacePass):
    """Whatever computes the normalization of one value along its last axis, its last two, axis 1, or others."""

    name: ClassVar[str] = "recognize-layer-norm"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match, the last in the graph first: with gamma and beta, where they are there."""
        if not any(node.op_type in REDUCING for node in model.graph):
            return ir.passes.PassResult(model, False)
        positions = {node: place for place, node in enumerate(model.graph)}
        leading = leading_to_weights(model.graph)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            result = node.outputs[0]
            formula = Formula(node, positions, ELEMENTWISE | REDUCING | KEEPING)
            is_read = bool(result.uses()) or result.is_graph_output()
            return is_read and _try_replace(graph, formula, leads=result in leading)

        return rewrite(model, frozenset({"Add", "Sub", "Mul", "Div"}), attempt, backwards=True)


@dataclass(frozen=True)
class _Normalization:
    """gamma, beta: `[*axes]`; where others are kept, in x's own axes, each as long as x's or 1."""

    is_centred: bool
    axes: tuple[int, ...]
    kept: tuple[int, ...]
    gamma: Float64Array
    beta: Float64Array
    epsilon: float


def _try_replace(graph: ir.Graph, formula: Formula, *, leads: bool) -> bool:
    for x in formula.sources():
        shape = static_shape(x)
        if shape is None or len(shape) < 2 or x.dtype not in {ir.DataType.FLOAT, None}:
            continue
        reducing = [node for node in formula.nodes(x) if node.op_type in REDUCING]
        if not reducing:
            continue
        last = len(shape) - 1
        usual = dict.fromkeys(((last,), (last - 1, last), (1,)))
        for axes in usual:
            found = _recognized(formula, x, shape, axes)
            if found is not None and (found.is_centred or leads):
                _replace(graph, formula.root, x, len(shape), found)
                return True
        axes = _reduced(reducing[0], len(shape))
        if axes in usual or None in shape[1:] or math.prod(shape[axis] or 0 for axis in axes) > LONGEST_ROW:
            continue
        found = _recognized(formula, x, shape, axes, [axis for axis in range(1, len(shape)) if axis not in axes])
        if found is not None:
            _replace_by_rows(graph, formula.root, x, found)
            return True
    return False


def _reduced(node: ir.Node, dims: int) -> tuple[int, ...]:
    """The axes of a mean, in order; none where they are computed."""
    if node.op_type == "GlobalAveragePool":
        return tuple(range(2, dims))
    axes = constant_input(node, 1)
    return () if axes is None else tuple(sorted({int(axis) % dims for axis in axes.reshape(-1)}))


def _recognized(
    formula: Formula,
    x: ir.Value,
    shape: tuple[int | None, ...],
    axes: tuple[int, ...],
    kept: Sequence[int] | None = None,
) -> _Normalization | None:
    """kept: axes that are not normalized, along which gamma and beta may change nevertheless."""
    lengths = [size for axis in axes if (size := shape[axis]) is not None]
    if not axes or len(lengths) < len(axes) or math.prod(lengths) < 2 or axes[0] == 0:
        return None
    order = [*(kept or ()), *axes]
    full, count = set(order), _FEWER_ROWS if kept else _ROWS
    sizes = [size if size and axis in full else 1 if size == 1 and axis else count for axis, size in enumerate(shape)]
    sample = _sample(sizes, axes)
    result = formula(x, sample)
    if result is None or result.shape != sample.shape or not np.isfinite(result).all():
        return None
    ends, width = range(-len(order), 0), math.prod(lengths)
    each = math.prod(sizes[axis] for axis in kept or ())
    rows, results = (np.moveaxis(a, order, ends).reshape(-1, each, width) for a in (sample, result))
    epsilons = [float(one.reshape(-1)[0]) for one in formula.constants(x) if one.size == 1]
    for is_centred in (True, False):
        mean = rows.mean(axis=-1, keepdims=True) if is_centred else 0.0
        if not is_centred and (kept is not None or axes != (len(shape) - 1,) or 2 * lengths[0] > LONGEST_ROW):
            continue
        for epsilon in epsilons:
            if 0 < epsilon <= _LARGEST_EPSILON and (found := _fitted(rows - mean, results, epsilon)) is not None:
                gamma, beta = (array.reshape([sizes[axis] for axis in order]) for array in found)
                if kept is not None:
                    gamma, beta = (_compressed(array.transpose(np.argsort(order))[None]) for array in (gamma, beta))
                return _Normalization(is_centred, axes, tuple(kept or ()), gamma, beta, epsilon)
    return None


def _fitted(rows: Float64Array, results: Float64Array, epsilon: float) -> tuple[Float64Array, Float64Array] | None:
    """gamma and beta, `[kept, K]`, with which rows `[R, kept, K]` by the root of their mean square give the results."""
    normal = rows / np.sqrt(np.square(rows).mean(axis=-1, keepdims=True) + epsilon)
    spread = normal - normal.mean(axis=0)
    gamma = (spread * results).sum(axis=0) / np.square(spread).sum(axis=0)
    beta = results.mean(axis=0) - gamma * normal.mean(axis=0)
    fits = (np.abs(gamma * normal + beta - results) <= TOLERANCE * np.abs(results).max()).all()
    return (gamma, beta) if fits else None


def _compressed(array: Float64Array) -> Float64Array:
    """One element for each axis along which nothing changes but by roundings."""
    for axis in range(array.ndim):
        first = array.take([0], axis)
        if np.abs(array - first).max() <= TOLERANCE * np.abs(array).max():
            array = first
    return array


def _sample(sizes: list[int], axes: tuple[int, ...]) -> Float64Array:
    """Rows along the axes of many sizes, so that eps is felt in some, each with a mean of its own."""
    draw = np.random.default_rng(0)
    each = [1 if axis in axes else size for axis, size in enumerate(sizes)]
    size = 10 ** draw.uniform(-3, 1, each)
    return np.asarray(size * (draw.standard_normal(sizes) + draw.standard_normal(each)))


def _replace_by_rows(graph: ir.Graph, node: ir.Node, x: ir.Value, found: _Normalization) -> None:
    """As rows that are normalized: what is kept comes first."""
    dims = list((x.shape or ir.Shape([])).dims)
    order, steps = [0, *found.kept, *found.axes], Steps(graph, node, x)
    sizes = [dims[axis] for axis in order]
    inner = [size for size in sizes[1:] if isinstance(size, int)]
    width = math.prod(inner[len(found.kept) :])
    rows = [math.prod(inner) // width, width]
    if order != sorted(order):
        steps.add("Transpose", "last", [], sizes, perm=order)
    # A zero keeps the batch as it is.
    steps.add("Reshape", "rows", [np.array([0, *rows])], [dims[0], *rows])
    constants = [np.ones(width, np.float32), np.zeros(width, np.float32)]
    steps.add("LayerNormalization", "norm", constants, [dims[0], *rows], axis=-1, epsilon=found.epsilon)
    steps.add("Reshape", "back", [np.array([0, *inner])], sizes)
    if order != sorted(order):
        steps.add("Transpose", "first", [], dims, perm=[int(place) for place in np.argsort(order)])
    gamma, beta = (array.astype(np.float32) for array in (found.gamma, found.beta))
    if (gamma != 1).any():
        steps.add("Mul", "gamma", [gamma], dims)
    if np.abs(beta).max() > TOLERANCE * np.abs(gamma).max():
        steps.add("Add", "beta", [beta], dims)
    steps.replace()


def _replace(graph: ir.Graph, node: ir.Node, x: ir.Value, dims: int, found: _Normalization) -> None:
    name, result = node.name or str(node.outputs[0].name), node.outputs[0]
    constants = [
        initializer(graph, f"{name}_{what}", np.tile(array, 1 if found.is_centred else 2).astype(np.float32))
        for what, array in (("gamma", found.gamma), ("beta", found.beta))
    ]
    attributes = {"axis": -len(found.axes), "epsilon": found.epsilon}
    sizes = None if x.shape is None else list(x.shape.dims)
    if not found.is_centred:
        (length,), last = found.gamma.shape, dims - 1
        both = None if sizes is None else [*sizes[:last], 2 * length]
        part = [initializer(graph, f"{name}_{what}", np.array([n])) for what, n in (("from", 0), ("to", length))]
        axis = initializer(graph, f"{name}_axis", np.array([last]))
        negative = ir.node("Neg", [x], name=f"{name}_negative")
        beside = ir.node("Concat", [x, negative.outputs[0]], {"axis": last}, name=f"{name}_both")
        normal = ir.node("LayerNormalization", [beside.outputs[0], *constants], attributes, name=name)
        steps = [(negative, sizes), (beside, both), (normal, both)]
        new = [negative, beside, normal, ir.node("Slice", [normal.outputs[0], *part, axis], name=f"{name}_half")]
    elif found.axes[-1] == dims - 1:
        steps, new = [], [ir.node("LayerNormalization", [x, *constants], attributes, name=name)]
    else:
        order = [*(axis for axis in range(dims) if axis != 1), 1]
        back = [int(place) for place in np.argsort(order)]
        before = ir.node("Transpose", [x], {"perm": order}, name=f"{name}_last")
        normal = ir.node("LayerNormalization", [before.outputs[0], *constants], attributes, name=name)
        turned = None if sizes is None else [sizes[axis] for axis in order]
        steps = [(before, turned), (normal, turned)]
        new = [before, normal, ir.node("Transpose", normal.outputs, {"perm": back}, name=f"{name}_first")]
    for step, dims_of in steps:
        shape = None if dims_of is None else ir.Shape(dims_of)
        name_value(step.outputs[0], f"{step.name}_result", ir.TensorType(ir.DataType.FLOAT), shape)
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [result], new[-1].outputs)
