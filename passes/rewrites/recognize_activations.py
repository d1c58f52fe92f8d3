"""Make one node of an activation that exporters write as several, whatever the order.

    x min(max(x + 3, 0), 6) / 6                                     HardSwish
    min(max(x + 3, 0), 6) / 6                                       HardSigmoid
    x / 2 (1 + erf(x / sqrt(2)))                                    Gelu
    x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))               Gelu of the approximation tanh
    x tanh(log(1 + exp(x))), log(1 + exp(x))                        Mish, Softplus
    1 / (1 + exp(-x)), x / (1 + exp(-x)), x / (1 + |x|)             Sigmoid, SiLU, Softsign
    max(x, 0) + k min(x, 0), k one number or one for each channel   LeakyRelu, PRelu
    max(x, 0) + k (exp(min(x, 0)) - 1)                              Elu

A function is recognized by its values: all that leads from one value to a node is computed on samples, in float64, and
compared. A spelling differs by what its constants are rounded to, and where its exponentials overflow. Alone these
nodes would be products and quotients of activations, each with a rounding of its own; one function of one number is a
table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import Float64Array
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import DOMAIN, initializer, rank
from qpipe.ops.formula import ELEMENTWISE, Formula, erf
from qpipe.ops.silu import NAME, SiLU

TOLERANCE: Final = 1e-5
"""Relative to the larger of 1 and |x|: constants have five digits at least, and no two functions are as near."""
_FEW: Final = np.array([-7.0, -2.5, -0.5, 0.0, 0.75, 3.5])
SAMPLES: Final = np.concatenate([np.linspace(-24, 24, 385), [-1e-3, 1e-3]])


def _sigmoid(x: Float64Array) -> Float64Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def _softplus(x: Float64Array) -> Float64Array:
    return np.asarray(np.logaddexp(x, 0))


@dataclass(frozen=True)
class _Function:
    """An op of ONNX (or ours) as a function of one number, and its attributes."""

    op_type: str
    compute: Callable[[Float64Array], Any]
    attributes: Mapping[str, Any]
    domain: str = ""


FUNCTIONS: Final = (
    _Function("Sigmoid", _sigmoid, {}),
    _Function(NAME, lambda x: x * _sigmoid(x), {}, DOMAIN),
    _Function("HardSigmoid", lambda x: np.clip(x / 6 + 0.5, 0, 1), {"alpha": 1 / 6, "beta": 0.5}),
    _Function("HardSigmoid", lambda x: np.clip(x / 5 + 0.5, 0, 1), {"alpha": 0.2, "beta": 0.5}),
    _Function("HardSwish", lambda x: x * np.clip(x / 6 + 0.5, 0, 1), {}),
    _Function("Gelu", lambda x: x / 2 * (1 + erf(x / np.sqrt(2))), {}),
    _Function(
        "Gelu",
        lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        {"approximate": "tanh"},
    ),
    _Function("Softplus", _softplus, {}),
    _Function("Mish", lambda x: x * np.tanh(_softplus(x)), {}),
    _Function("Softsign", lambda x: x / (1 + np.abs(x)), {}),
    _Function("Tanh", np.tanh, {}),
    _Function("Relu", lambda x: np.maximum(x, 0), {}),
)


@dataclass(frozen=True, kw_only=True)
class RecognizeActivations(ir.passes.InPlacePass):
    """Two elementwise nodes or more that compute a known function of one value, in its own shape.

    Whoever else reads what is between keeps it.
    """

    name: ClassVar[str] = "recognize-activations"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match, the last in the graph first: a function goes before those that are parts of it."""
        positions = {node: place for place, node in enumerate(model.graph)}

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            return bool(node.outputs[0].uses() or node.outputs[0].is_graph_output()) and _try_replace(
                model, graph, Formula(node, positions, ELEMENTWISE)
            )

        return rewrite(model, ELEMENTWISE, attempt, backwards=True)


def _try_replace(model: ir.Model, graph: ir.Graph, formula: Formula) -> bool:
    for source in formula.sources():
        new = _recognized(model, graph, formula, source)
        if new is not None:
            node = formula.root
            ir.convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)
            return True
    return False


def _recognized(model: ir.Model, graph: ir.Graph, formula: Formula, x: ir.Value) -> ir.Node | None:
    """The node that gives the root's result of x; None where that is none of the known functions."""
    node, dims = formula.root, rank(x)
    if dims is None or x.dtype not in {ir.DataType.FLOAT, None}:
        return None
    few = _values(formula, x, _FEW, dims)
    if few is None:
        return None
    if few.size == _FEW.size:
        for known in FUNCTIONS:
            if is_near(few.reshape(-1), known.compute(_FEW), _FEW) and _agrees(formula, x, known.compute, dims):
                if known.op_type == NAME:
                    SiLU().define(model)
                return ir.node(known.op_type, [x], dict(known.attributes), domain=known.domain, name=node.name)
        alpha = -few.reshape(-1)[0] / -np.expm1(_FEW[0])
        if alpha > 0 and _agrees(formula, x, lambda v: np.where(v < 0, alpha * np.expm1(np.minimum(v, 0)), v), dims):
            return ir.node("Elu", [x], {"alpha": float(alpha)}, name=node.name)
    slope = few[:1] / _FEW[0]
    sizes = (x.shape or ir.Shape([])).dims[1:]
    if any(length not in {1, size} for length, size in zip(slope.shape[1:], sizes, strict=True)):
        return None

    def leaky(v: Float64Array) -> Float64Array:
        return np.asarray(np.where(v < 0, slope * v, v))

    # As good as no function at all, such as a BatchNormalization's factor of fresh statistics, 0.999995.
    if (np.abs(slope - 1) <= TOLERANCE).all() or not _agrees(formula, x, leaky, dims):
        return None
    if (np.abs(slope) <= TOLERANCE).all():
        return ir.node("Relu", [x], name=node.name)
    if slope.size == 1:
        return ir.node("LeakyRelu", [x], {"alpha": slope.item()}, name=node.name)
    slopes = initializer(graph, f"{node.name or node.outputs[0].name}_slope", slope[0].astype(np.float32))
    return ir.node("PRelu", [x, slopes], name=node.name)


def _values(formula: Formula, x: ir.Value, samples: Float64Array, dims: int) -> Float64Array | None:
    """The root's result, `[P, ...]`, in the axes of its constants where these are several; None where there is none."""
    shape = (len(samples), *[1] * (dims - 1)) if dims else ()
    if not shape or any(
        constant.ndim > dims or constant.shape[:1] == (len(samples),) for constant in formula.constants(x)
    ):
        return None
    found = formula(x, samples.reshape(shape))
    if found is None or found.ndim != dims or len(found) != len(samples) or not np.isfinite(found).all():
        return None
    return found


def _agrees(formula: Formula, x: ir.Value, function: Callable[[Float64Array], Any], dims: int) -> bool:
    found = _values(formula, x, SAMPLES, dims)
    if found is None:
        return False
    samples = SAMPLES.reshape(-1, *[1] * (dims - 1))
    return is_near(found, function(samples), samples)


def is_near(found: Float64Array, expected: Any, samples: Float64Array) -> bool:
    """Whether both are one function, as far as constants of five digits tell."""
    return bool((np.abs(found - expected) <= TOLERANCE * np.maximum(1, np.abs(samples))).all())
