"""Take out what makes negative places of a Gather positive: ONNX's Gather itself counts them from the end.

    Gather(table [V, C], Where(x < 0, x + V, x))  =  Gather(table, x)                    for -V <= x < V

as Keras' Embedding is written, where tf2onnx spells the choice by Casts and products. It is recognized by its values on
all of these places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import int_attribute, rank, static_shape
from qpipe.ops.formula import CONVERTING, COUNTING, Formula

_MOST_PLACES: Final = 2**17
"""Of a table that is tried as a whole; in a larger one, as many at either end and around 0."""


@dataclass(frozen=True, kw_only=True)
class PlainPlaces(ir.passes.InPlacePass):
    """Every Gather of axis 0 whose places are other integers, but for how negative ones are counted."""

    name: ClassVar[str] = "plain-places"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Let each read those integers; who else reads what was between keeps it."""
        positions = {node: place for place, node in enumerate(model.graph)}

        def attempt(_: ir.Graph, node: ir.Node) -> bool:
            places = node.inputs[1].producer() if node.inputs[1] is not None else None
            sizes = static_shape(node.inputs[0])
            if places is None or not sizes or int_attribute(node, "axis", 0) % len(sizes) or not sizes[0]:
                return False
            formula = Formula(places, positions, COUNTING | CONVERTING)
            for source in formula.sources():
                is_integer = source.dtype in {ir.DataType.INT32, ir.DataType.INT64}
                # What is counted by a list of one number has an axis more than a number.
                is_alike = rank(source) is not None and rank(source) == rank(node.inputs[1])
                if is_integer and is_alike and _is_same(formula, source, sizes[0]):
                    node.replace_input_with(1, source)
                    return True
            return False

        return rewrite(model, frozenset({"Gather"}), attempt)


def _is_same(formula: Formula, source: ir.Value, size: int) -> bool:
    sample = np.arange(-size, size)
    if size > _MOST_PLACES:
        middle, part = sample[size - _MOST_PLACES // 2 :][:_MOST_PLACES], _MOST_PLACES // 2
        sample = np.concatenate([sample[:part], middle, sample[-part:]])
    found = formula(source, sample.astype(np.float64))
    if found is None or found.shape != sample.shape or np.abs(found + 0.5).max(initial=0) > size:
        return False
    return bool((np.mod(found, size) == np.mod(sample, size)).all())
