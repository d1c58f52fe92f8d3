"""Measure what a binary network's own activations are: the statistics of its BatchNormalizations, and its ranges.

The float weights of a network say nothing about the stream of the binary one that is made from them: signs are other
numbers than what they stand for. So the batches run through a copy in which each binary layer multiplies the signs of
its input by its magnitude-aware weights (see `qpipe.formats.binary`), and in which every BatchNormalization behind the
first layer normalizes by the statistics of what runs through it, a piece of a batch: so training will start. Then

    mean, var <- those of the product over all batches;       gamma and beta stay

so that the running statistics are those of the binary network. The ranges are left where `calibrate-percentile` leaves
its own, which then has none to measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from passes.quantizing.calibrate_percentile import observe_ranges
from qpipe.calibration.moments import measure_moments
from qpipe.calibration.shard import ALONE, Shard
from qpipe.formats.binary import magnitudes, nominal_exponent, sign_codes
from qpipe.ir.graph.binary_blocks import binary_layers
from qpipe.ir.graph.layers import group_layers
from qpipe.ir.quantized.plan import plan_quantization
from qpipe.nodes import float_attribute, initializer, rank, require_constant, set_constant_input
from qpipe.ops.weight_layout import to_rows, to_weight


@dataclass(frozen=True, kw_only=True)
class CalibrateOnSigns(ir.passes.InPlacePass):
    """Run `inputs` (batches of float32 `[N, C, H, W]`); percentile None is that of 8 bits, which all tensors have."""

    name: ClassVar[str] = "calibrate-on-signs"

    percentile: float | None = None
    inputs: Iterable[Any] = field(default=(), repr=False, metadata={"argument": False})
    shard: Shard = field(default=ALONE, repr=False, metadata={"argument": False})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Renew statistics, and leave a range on every tensor that has none; nothing in a network without signs."""
        binary = binary_layers(model)
        if not binary:
            return ir.passes.PassResult(model, False)
        plan = plan_quantization(model.graph)
        # By the name of the product that each of them normalizes.
        norms = {
            str(layer.node.outputs[0].name): layer.batch_norm
            for layer in plan.layers
            if layer.batch_norm is not None and layer.node not in plan.edges
        }
        copy = _on_signs(model, binary, norms.keys())
        channels = {name: len(require_constant(norm, 1, "scale")) for name, norm in norms.items()}
        for name, moments in measure_moments(copy, channels, self.inputs, shard=self.shard).items():
            set_constant_input(norms[name], 3, moments.mean.astype(np.float32))
            set_constant_input(norms[name], 4, moments.variance.astype(np.float32))
        observe_ranges(copy, plan.quantizers, self.inputs, self.percentile, shard=self.shard)
        return ir.passes.PassResult(model, True)


def _on_signs(model: ir.Model, binary: frozenset[str], normalized: Set[str]) -> ir.Model:
    """A copy, float, whose binary layers compute with signs; values that both have keep their names.

    normalized: names of products whose BatchNormalization takes the statistics of what it gets.
    """
    copy = ir.Model(model.graph.clone(), ir_version=model.ir_version, functions=list(model.functions.values()))
    for layer in group_layers(copy.graph):
        if layer.name in binary:
            _take_signs(copy.graph, layer.node)
        if layer.batch_norm is not None and layer.node.outputs[0].name in normalized:
            _normalize_by_batch(copy.graph, layer.batch_norm)
    return copy


def _take_signs(graph: ir.Graph, node: ir.Node) -> None:
    """Conv(x, w) -> Conv(sign(x), mean |w| sign(w)); a channel of zeros has the layer's nominal magnitude."""
    zero, one, minus = (initializer(graph, f"{node.name}_{v:g}", np.float32(v)) for v in (0.0, 1.0, -1.0))
    is_positive = ir.node("GreaterOrEqual", [node.inputs[0], zero], name=f"{node.name}_is_positive")
    sign = ir.node("Where", [is_positive.outputs[0], one, minus], name=f"{node.name}_sign")
    graph.insert_before(node, [is_positive, sign])
    node.replace_input_with(0, sign.outputs[0])
    weight = require_constant(node, 1, "weight").astype(np.float32)
    rows = to_rows(node, weight)
    mean = magnitudes(rows)
    mean = np.where(mean > 0, mean, np.ldexp(1.0, nominal_exponent(rows)))
    binary = (sign_codes(rows) * mean[:, None]).astype(np.float32)
    set_constant_input(node, 1, np.ascontiguousarray(to_weight(node, binary, weight.shape)))


def _normalize_by_batch(graph: ir.Graph, norm: ir.Node) -> None:
    """BatchNormalization -> (y - mean) / sqrt(var + eps) * gamma + beta with the mean and variance of y itself."""
    y, name = norm.inputs[0], str(norm.name)
    dims = rank(y) or 4
    axes = initializer(graph, f"{name}_axes", np.array([0, *range(2, dims)], np.int64))
    epsilon = initializer(graph, f"{name}_epsilon", np.float32(float_attribute(norm, "epsilon", 1e-5)))
    shape = (-1, *[1] * (dims - 2))
    gamma, beta = (
        initializer(graph, f"{name}_{what}", require_constant(norm, index, what).reshape(shape))
        for index, what in ((1, "scale"), (2, "bias"))
    )
    tape = ir.tape.Tape()
    mean = tape.op("ReduceMean", [y, axes], {"keepdims": 1})
    centred = tape.op("Sub", [y, mean])
    square = tape.op("Mul", [centred, centred])
    variance = tape.op("ReduceMean", [square, axes], {"keepdims": 1})
    deviation = tape.op("Sqrt", [tape.op("Add", [variance, epsilon])])
    unit = tape.op("Div", [centred, deviation])
    result = tape.op("Add", [tape.op("Mul", [unit, gamma]), beta])
    for index, node in enumerate(tape.nodes):
        node.name = f"{name}_by_batch_{index}"
    ir.convenience.replace_nodes_and_values(graph, norm, [norm], tape.nodes, norm.outputs, [result])
