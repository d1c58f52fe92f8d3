"""Make one LayerNormalization of the nodes that exporters write for it, whatever the order.

    y = gamma (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) + beta

along the last axis, the last two, or axis 1; gamma and beta are constants along it, or 1 and 0. As PyTorch writes it
(ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add) and as Keras does (`x g + (beta - mean g)` with
`g = gamma / sqrt(variance + eps)`), it is recognized by its values on samples, in float64: gamma and beta are the ones
that err least, and must not err. Along axis 1 (channels of an image) there is a Transpose before and behind. Without
the mean (Zhang and Sennrich 2019: Llama, T5), along the last axis and before weights, it is one of each row beside its
negative, whose mean is 0:

    gamma x / sqrt(mean(x^2) + eps)  =  LayerNormalization([x, -x], [gamma, gamma])[:K]

Sources: Ba, Kiros and Hinton 2016, equations 3 and 4; ONNX operator specification, LayerNormalization-17.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.layer_norm import LONGEST_ROW
from qpipe.arith.namespace import Float64Array
from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import initializer, name_value, static_shape
from qpipe.ops.formula import ELEMENTWISE, REDUCING, Formula

TOLERANCE: Final = 1e-6
"""Relative to the largest result: both are float64, of the same constants."""
_ROWS: Final = 5
"""Of samples, along each axis that is not normalized."""
_LARGEST_EPSILON: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class RecognizeLayerNorm(ir.passes.InPlacePass):
    """Whatever computes the normalization of one value along its last axis, its last two, or axis 1."""

    name: ClassVar[str] = "recognize-layer-norm"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match, the last in the graph first: with gamma and beta, where they are there."""
        if not any(node.op_type in REDUCING for node in model.graph):
            return ir.passes.PassResult(model, False)
        positions = {node: place for place, node in enumerate(model.graph)}
        leading = leading_to_weights(model.graph)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            result = node.outputs[0]
            formula = Formula(node, positions, ELEMENTWISE | REDUCING)
            is_read = bool(result.uses()) or result.is_graph_output()
            return is_read and _try_replace(graph, formula, leads=result in leading)

        return rewrite(model, frozenset({"Add", "Sub", "Mul", "Div"}), attempt, backwards=True)


@dataclass(frozen=True)
class _Normalization:
    is_centred: bool
    axes: tuple[int, ...]
    gamma: Float64Array
    beta: Float64Array
    epsilon: float


def _try_replace(graph: ir.Graph, formula: Formula, *, leads: bool) -> bool:
    for x in formula.sources():
        shape = static_shape(x)
        if shape is None or len(shape) < 2 or x.dtype not in {ir.DataType.FLOAT, None}:
            continue
        if not any(node.op_type in REDUCING for node in formula.nodes(x)):
            continue
        last = len(shape) - 1
        for axes in dict.fromkeys(((last,), (last - 1, last), (1,))):
            found = _recognized(formula, x, shape, axes)
            if found is not None and (found.is_centred or leads):
                _replace(graph, formula.root, x, len(shape), found)
                return True
    return False


def _recognized(
    formula: Formula, x: ir.Value, shape: tuple[int | None, ...], axes: tuple[int, ...]
) -> _Normalization | None:
    lengths = [size for axis in axes if (size := shape[axis]) is not None]
    if len(lengths) < len(axes) or math.prod(lengths) < 2 or axes[0] == 0:
        return None
    sizes = [size if size and axis in axes else 1 if size == 1 and axis else _ROWS for axis, size in enumerate(shape)]
    sample = _sample(sizes, axes)
    result = formula(x, sample)
    if result is None or result.shape != sample.shape or not np.isfinite(result).all():
        return None
    ends = range(-len(axes), 0)
    rows, results = (np.moveaxis(a, axes, ends).reshape(-1, math.prod(lengths)) for a in (sample, result))
    epsilons = [float(each.reshape(-1)[0]) for each in formula.constants(x) if each.size == 1]
    for is_centred in (True, False):
        mean = rows.mean(axis=1, keepdims=True) if is_centred else 0.0
        if not is_centred and (axes != (len(shape) - 1,) or 2 * lengths[0] > LONGEST_ROW):
            continue
        for epsilon in epsilons:
            if 0 < epsilon <= _LARGEST_EPSILON and (found := _fitted(rows - mean, results, epsilon)) is not None:
                gamma, beta = (array.reshape(lengths) for array in found)
                return _Normalization(is_centred, axes, gamma, beta, epsilon)
    return None


def _fitted(rows: Float64Array, results: Float64Array, epsilon: float) -> tuple[Float64Array, Float64Array] | None:
    """gamma and beta, `[K]`, with which rows `[R, K]` by the root of their mean square give the results."""
    normal = rows / np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + epsilon)
    spread = normal - normal.mean(axis=0)
    gamma = (spread * results).sum(axis=0) / np.square(spread).sum(axis=0)
    beta = results.mean(axis=0) - gamma * normal.mean(axis=0)
    fits = (np.abs(gamma * normal + beta - results) <= TOLERANCE * np.abs(results).max()).all()
    return (gamma, beta) if fits else None


def _sample(sizes: list[int], axes: tuple[int, ...]) -> Float64Array:
    """Rows along the axes of many sizes, so that eps is felt in some, each with a mean of its own."""
    draw = np.random.default_rng(0)
    each = [1 if axis in axes else size for axis, size in enumerate(sizes)]
    size = 10 ** draw.uniform(-3, 1, each)
    return np.asarray(size * (draw.standard_normal(sizes) + draw.standard_normal(each)))


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
