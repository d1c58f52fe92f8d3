"""Write the linear operators of the domain ai.onnx.ml, which scikit-learn's pipelines are made of, in standard ones.

    Scaler(x)                       (x - offset) scale
    LinearRegressor(x)              Gemm(x, coefficients, intercepts), and its transform
    LinearClassifier(x)             the same; the label is that of the largest sum: ArgMax, Gather
    Normalizer(x)                   x / |x| for L1 and L2; 0 where all of x is
    ArrayFeatureExtractor(x, i)     Gather of columns

Labels that are text stay as they are. Source: ONNX operator specification, ai.onnx.ml; onnxruntime for ties (the first)
and for what the text leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from passes.rewrites.standard_operators import Body, Spell, respell
from qpipe.nodes import MACHINE_LEARNING, AnyArray, int_attribute, ints_attribute, rank, string_attribute

_TRANSFORMS: Final[Mapping[str, str]] = {"NONE": "", "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid"}
_NORMS: Final[Mapping[str, str]] = {"L1": "ReduceL1", "L2": "ReduceL2"}
_TINY: Final = float(np.finfo(np.float32).tiny)
"""Less than any length but 0, which is divided by it."""


def _floats(node: ir.Node, name: str) -> AnyArray:
    attribute = node.attributes.get(name)
    return np.array([] if attribute is None else attribute.as_floats(), np.float32)


def _as_float(b: Body) -> ir.Value | None:
    """What the node reads, as float32: these operators take integers too."""
    (x,) = b.inputs(1)
    if x is None or x.dtype in {ir.DataType.FLOAT, None}:
        return x
    return b.add("Cast", x, to=int(ir.DataType.FLOAT))


def _scaler(b: Body) -> list[ir.Value]:
    x, offset, scale = _as_float(b), _floats(b.node, "offset"), _floats(b.node, "scale")
    if offset.any():
        x = b.add("Sub", x, b.constant("offset", offset))
    return [b.add("Mul", x, b.constant("scale", scale if scale.size else np.ones(1, np.float32)))]


def _sums(b: Body, count: int) -> ir.Value | None:
    """`[N, count]`, what a linear model computes; None of a single row, or where its coefficients are not so many."""
    coefficients, intercepts = _floats(b.node, "coefficients"), _floats(b.node, "intercepts")
    is_fitting = count > 0 and coefficients.size and not coefficients.size % count and intercepts.size in (0, count)
    if not is_fitting or rank(b.node.inputs[0]) == 1:
        return None
    rows = b.constant("coefficients", coefficients.reshape(count, -1))
    operands = [b.constant("intercepts", intercepts)] if intercepts.size else []
    return b.add("Gemm", _as_float(b), rows, *operands, transB=1)


def _transformed(b: Body, sums: ir.Value) -> ir.Value:
    op_type = _TRANSFORMS[string_attribute(b.node, "post_transform", "NONE")]
    if not op_type:
        return sums
    return b.add(op_type, sums, **({"axis": -1} if op_type == "Softmax" else {}))


def _knows_transform(node: ir.Node) -> bool:
    return string_attribute(node, "post_transform", "NONE") in _TRANSFORMS


def _linear_regressor(b: Body) -> list[ir.Value] | None:
    sums = _sums(b, int_attribute(b.node, "targets", 1)) if _knows_transform(b.node) else None
    return None if sums is None else [_transformed(b, sums)]


def _linear_classifier(b: Body) -> list[ir.Value] | None:
    label = b.node.outputs[0]
    classes = np.array(ints_attribute(b.node, "classlabels_ints", ()), np.int64)
    count = len(_floats(b.node, "intercepts")) or len(classes)
    needs_label = bool(label.uses()) or label.is_graph_output()
    # One row for two classes has a threshold of its own.
    if count < 2 or (needs_label and len(classes) != count) or not _knows_transform(b.node):
        return None
    sums = _sums(b, count)
    if sums is None:
        return None
    found = sums
    if needs_label:
        place = b.typed(ir.DataType.INT64, "ArgMax", sums, axis=1, keepdims=0)
        found = b.typed(ir.DataType.INT64, "Gather", b.constant("classes", classes), place, axis=0)
    return [found, _transformed(b, sums)]


def _normalizer(b: Body) -> list[ir.Value] | None:
    op_type, x = _NORMS.get(string_attribute(b.node, "norm", "MAX")), _as_float(b)
    if op_type is None or rank(x) == 1:
        return None
    length = b.add(op_type, x, b.constant("axes", np.array([1])), keepdims=1)
    return [b.add("Div", x, b.add("Max", length, b.number("tiny", _TINY)))]


def _array_feature_extractor(b: Body) -> list[ir.Value] | None:
    x, places = b.inputs(2)
    dims, dtype = rank(x), ir.DataType.FLOAT if x is None or x.dtype is None else x.dtype
    if dims is None or dtype is ir.DataType.STRING:
        return None
    flat = b.typed(ir.DataType.INT64, "Reshape", places, b.constant("list", np.array([-1])))
    found = b.typed(dtype, "Gather", x, flat, axis=dims - 1)
    return [b.typed(dtype, "Unsqueeze", found, b.constant("rows", np.array([0]))) if dims == 1 else found]


_SPELLINGS: Final[Mapping[str, Spell]] = {
    "Scaler": _scaler, "LinearRegressor": _linear_regressor, "LinearClassifier": _linear_classifier,
    "Normalizer": _normalizer, "ArrayFeatureExtractor": _array_feature_extractor,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LinearModels(ir.passes.InPlacePass):
    """Each of these in the graph, whose numbers fit together."""

    name: ClassVar[str] = "linear-models"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match, in the order of the graph: a Gather asks for ranks."""
        return respell(model, MACHINE_LEARNING, _SPELLINGS)
