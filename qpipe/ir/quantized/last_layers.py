"""Layers of weights whose int32 sums leave as they are: no other layer of integers reads them.

What reads real numbers gets them without another rounding: outputs and the float tail, and islands of float, whose
recurrences and sums along an axis may amplify what 8 bits leave. What islands alone read has scales for each
channel, as inner layers have; the numbers of outputs have one unit, and can be compared. Reshaping behind such layers
is float as well, and so is, before outputs, what would be a table: there its result is exact. What puts the results of
several side by side, a detector's of all its levels, is too: on one grid of 8 bits each would be rounded twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import numpy as np
import onnx_ir as ir

from qpipe.arith.multiplier import FLOAT32_EXACT
from qpipe.arith.spec import STORAGE_MAX
from qpipe.ir.graph.layers import Layer
from qpipe.ir.quantized.parts import all_reads
from qpipe.nodes import require_constant
from qpipe.ops import Role, product_of
from qpipe.ops.choices import choices_of
from qpipe.ops.weight_layout import to_rows

_LARGEST: Final = FLOAT32_EXACT // 2
"""Of sums that float32 is to hold, before a bias is added and weights train."""


class Layers(Protocol):
    """What is read of a plan, and changed: layers become parts of islands and of the tail."""

    layers: list[Layer]
    islands: list[Layer]
    tail: list[Layer]


def find_last(plan: Layers, order: Sequence[Layer]) -> tuple[set[ir.Node], set[ir.Node]]:
    """The main nodes of these layers, and of those whose channels need one unit, because outputs may compare them.

    What is float with them joins what reads it. order: of all layers.
    """
    readers = Counter(value for layer in plan.layers for value in layer.inputs)
    by_islands = {value for layer in plan.islands for value in all_reads(layer)}
    origins: dict[ir.Value, Layer | None] = {}  # what a value comes from through layers that only reshape
    for layer in plan.layers:
        origins[layer.output] = _origin(layer, origins)
    last: set[ir.Node] = set()
    compared: set[ir.Node] = set()
    kept: list[Layer] = []
    behind: list[Layer] = []
    for layer in reversed(plan.layers):
        if not readers[layer.output]:
            leads_on = layer.output in by_islands
            if layer.curve is not None and layer.activation is not None and not leads_on:
                behind.append(Layer(layer.activation))
                layer = replace(layer, activation=None)
            elif _may_be_float(layer, leads_on=leads_on) and _is_sum(origins.get(layer.output)):
                (plan.islands if leads_on else behind).append(layer)
                by_islands.update(layer.inputs if leads_on else ())
                readers.subtract(layer.inputs)
                continue
            is_bare = layer.is_weighted and layer.activation is None and layer.batch_norm is None
            if is_bare and (not leads_on or _is_exact(layer)):
                last.add(layer.node)
                compared |= set() if leads_on and not _is_compared(layer.output, plan.islands) else {layer.node}
        kept.append(layer)
    plan.layers[:] = reversed(kept)
    plan.tail[:0] = reversed(behind)
    position = {layer.node: index for index, layer in enumerate(order)}
    plan.islands.sort(key=lambda layer: position[layer.node])
    return last, compared


def _origin(layer: Layer, origins: Mapping[ir.Value, Layer | None]) -> Layer | None:
    """What its result comes from; of several layers of weights whose sums it joins, the first.

    A curve alone goes with the sums that it reads.
    """
    found = [origins.get(value) for value in layer.inputs]
    if layer.op.only_reshapes and len(found) == 1:
        return found[0]
    is_curve = layer.curve is not None and layer.activation is None
    return found[0] if (layer.op.only_joins or is_curve) and all(map(_is_sum, found)) else layer


def _may_be_float(layer: Layer, *, leads_on: bool) -> bool:
    """Whether it only moves numbers, or is a table before outputs."""
    return layer.op.only_reshapes or layer.op.only_joins or (layer.curve is not None and not leads_on)


def _is_sum(layer: Layer | None) -> bool:
    """Whether the layer has weights and gives their sums as they are, or to what would be a table."""
    if layer is None or layer.role is not Role.COMPUTE or layer.batch_norm is not None:
        return False
    return layer.activation is None or layer.curve is not None


def _is_compared(value: ir.Value, islands: Sequence[Layer]) -> bool:
    """Whether something chooses among its numbers, or others than islands read it."""
    within = {node for layer in islands for node in layer.nodes}
    return value.is_graph_output() or not within.issuperset(value.consumers()) or any(choices_of(value))


def _is_exact(layer: Layer) -> bool:
    """Whether what computes its sums on onnxruntime is sure to hold them: a Conv's leave in float32."""
    if product_of(layer.node).fuses_without_quantizer:
        return True
    rows = np.abs(to_rows(layer.node, require_constant(layer.node, 1, "weight")).astype(np.float64))
    # Each channel by its own scale; of one for all of them there are no more codes.
    codes = (rows.sum(axis=1) / rows.max(axis=1).clip(1e-300)).max() * (STORAGE_MAX // 2)
    return bool(codes * STORAGE_MAX <= _LARGEST)
