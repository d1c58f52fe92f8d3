"""Cut what attention masks lower at the point below which a Softmax makes nothing of it.

    Softmax(x)  =  Softmax(Clip(x, low, high))        low: 16 below the smallest maximum of any row that was seen

What lies 16 below its row's maximum has 1e-7 of its weight. On a grid that reaches down to a mask's -10000 scores would
have no level to themselves. Where a Where puts the mask's number in, that becomes `low` itself. A row of which all is
masked has no maximum of its own. Nothing is cut where it would not halve the range at least. A mask that is looked up
cuts what it lowers though no sample shows it: samples of full length are calibrated on, and shorter ones come later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray, Float64Array
from qpipe.calibration.pieces import Pieces
from qpipe.calibration.shard import ALONE, Shard
from qpipe.ir.graph.edges import leading_to_weights
from qpipe.ir.graph.rewrite import only_reader
from qpipe.nodes import constant_array, initializer, int_attribute, name_value, rank
from qpipe.ops.lookup import lookup_of
from qpipe.ops.masks import CHOICES, MOVES, SUMS, lowers_softmax

NEGLIGIBLE: Final = 16.0
"""Below a row's maximum: e^-16 = 1e-7."""
_MASKED: Final = 4096.0
"""A row that does not reach above minus this is masked as a whole."""


@dataclass(frozen=True, kw_only=True)
class BoundScores(ir.passes.InPlacePass):
    """Every Softmax along the last axis that leads to weights, of a sum or of what a Where chose.

    inputs: samples, as `Pieces` runs them.
    """

    name: ClassVar[str] = "bound-scores"

    inputs: Any = field(default=(), repr=False, metadata={"argument": False})
    shard: Shard = field(default=ALONE, repr=False, metadata={"argument": False})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Cut every match; ModelError and DataError as running the network raises them."""
        found = sums_of_scores(model.graph)
        if not found or not len(self.inputs):
            return ir.passes.PassResult(model, False)
        ends = _ends(model, [str(node.inputs[0].name) for node in found if node.inputs[0] is not None], self.inputs)
        # Processes run the same images, but another machine may add up in another order.
        merged = self.shard.largest(np.stack(list(ends.values())))
        modified = False
        for source, (seen, smallest, high) in zip(found.values(), merged, strict=True):
            low, lowest = min(-smallest - NEGLIGIBLE, 0.0), max(seen, *map(mask_reach, _operands(source)))
            if np.isfinite(high) and lowest >= 2 * max(-low, high):
                _cut(model.graph, source, float(low), float(high))
                modified = True
        return ir.passes.PassResult(model, modified)


def sums_of_scores(graph: ir.Graph) -> dict[ir.Node, ir.Value]:
    """Each Softmax that may read a mask, and the sum or choice that it reads."""
    leading = leading_to_weights(graph) if any(node.op_type == "Softmax" for node in graph) else set()
    return {
        node: source
        for node in graph
        if node.op_type == "Softmax" and node.domain == "" and node.outputs[0] in leading
        and (source := _masked(node)) is not None
    }  # fmt: skip


def mask_reach(value: ir.Value) -> float:
    """How far below 0 a mask that is looked up reaches, whatever samples show; 0 of anything else."""
    found = lookup_of(value) if lowers_softmax(value) else None
    return -lowest if found is not None and (lowest := found.lowest) < -_MASKED else 0.0


def _operands(source: ir.Value) -> list[ir.Value]:
    node = source.producer()
    return [] if node is None else [value for value in node.inputs if value is not None]


def _masked(softmax: ir.Node) -> ir.Value | None:
    """What a sum or a Where gives that a Softmax along the last axis alone reads, be it in another shape."""
    value, dims = softmax.inputs[0], rank(softmax.inputs[0])
    if dims is None or int_attribute(softmax, "axis", -1) not in (-1, dims - 1):
        return None
    reader = softmax
    while value is not None and only_reader(value) is reader:
        producer = value.producer()
        if producer is None or producer.domain != "":
            return None
        if producer.op_type in SUMS | CHOICES:
            return value
        if producer.op_type not in MOVES:
            return None
        value, reader = producer.inputs[0], producer
    return None


def _ends(model: ir.Model, names: list[str], samples: Any) -> Mapping[str, Float64Array]:
    """Of each tensor: minus its smallest number, minus the smallest maximum of a row that has one, the largest."""
    found = {name: np.full(3, -np.inf) for name in names}
    for tensors, _ in Pieces(model, names).run(samples):
        for name in names:
            rows = tensors[name].max(axis=-1)
            alive = rows[rows > -_MASKED]
            ends = -tensors[name].min(), -alive.min(initial=np.inf), alive.max(initial=-np.inf)
            found[name] = np.maximum(found[name], ends)
    return found


def _cut(graph: ir.Graph, value: ir.Value, low: float, high: float) -> None:
    producer, name = value.producer(), value.name
    bound = initializer(graph, f"{name}_low", np.float32(low))
    if producer is not None and producer.op_type in CHOICES:
        for index in (1, 2):
            array = constant_array(producer.inputs[index])
            if array is not None and _is_below(array, low):
                producer.replace_input_with(index, bound)
        return
    top, uses = initializer(graph, f"{name}_high", np.float32(high)), list(value.uses())
    clip = ir.node("Clip", [value, bound, top], name=f"{name}_bounds")
    name_value(clip.outputs[0], f"{name}_bounded", ir.TensorType(ir.DataType.FLOAT), value.shape)
    for node, index in uses:
        node.replace_input_with(index, clip.outputs[0])
    if producer is not None:
        graph.insert_after(producer, clip)


def _is_below(array: AnyArray, low: float) -> bool:
    return array.size == 1 and bool(array.reshape(-1)[0] < low)
