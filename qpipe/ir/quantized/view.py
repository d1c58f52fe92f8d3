"""The quantized view of a QDQ graph: its layers between their quantizers.

Everything that reads a QDQ file (training, finalizing, the lowerings, the certificate) reads it through this view. A
file is *trainable* while its weights are floats behind QuantizeLinear, *final* once they are integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Generic, TypeGuard, TypeVar

import onnx_ir as ir

from qpipe.arith.spec import QuantSpec
from qpipe.errors import LoweringError, ModelError
from qpipe.formats.base import TrainableWeight
from qpipe.ir.files.metadata import get_provenance
from qpipe.ir.graph.functions import check_functions
from qpipe.ir.graph.layers import Layer, group_layers
from qpipe.ir.quantized.parts import all_reads, divide_floats
from qpipe.ir.quantized.qdq import (
    ActivationQuantizer,
    check_zero_point,
    data_input,
    quantizer_nodes,
    read_activation_quantizer,
)
from qpipe.ir.quantized.streams import check_width
from qpipe.ir.quantized.view_weights import FinalWeight, read_weight
from qpipe.nodes import describe, reads
from qpipe.ops import ActivationFunction, Rectifier, Role, activation_of
from qpipe.ops.quantizer_parts import dequantizes, quantizes, quantizes_data

W = TypeVar("W", bound=TrainableWeight | FinalWeight, covariant=True)


@dataclass(frozen=True, kw_only=True)
class QuantizedLayer(Layer):
    """A layer between quantizers: `sources` are those that its inputs come from, `quantizer` the one behind its output.

    Its subclasses say what it has: see `RequantizedLayer`, `LastLayer` and `Weighted`.
    """

    sources: tuple[ActivationQuantizer, ...]
    quantizer: ActivationQuantizer | None = None

    @property
    def result(self) -> ir.Value:
        """What the next layers read: the dequantized output, or a last layer's float output."""
        return self.output if self.quantizer is None else self.quantizer.output

    @property
    def function(self) -> ActivationFunction | None:
        """What the layer's activation computes, be it one that calibration took away; None where it has none."""
        return super().function or (None if self.quantizer is None else self.quantizer.function)


@dataclass(frozen=True, kw_only=True)
class RequantizedLayer(QuantizedLayer):
    """One whose result is rounded to a grid of its own: every layer but a last one."""

    quantizer: ActivationQuantizer

    @property
    def clipped_to(self) -> QuantSpec:
        """The grid that the result is rounded to, cut to what the layer's activation lets through."""
        clip = None if self.activation is None else activation_of(self.activation)
        return (
            self.quantizer.rounded_to.clipped(clip.bound) if isinstance(clip, Rectifier) else self.quantizer.rounded_to
        )


@dataclass(frozen=True, kw_only=True)
class Requantization(RequantizedLayer):
    """A quantizer that reads another one: `node` is its QuantizeLinear."""


@dataclass(frozen=True, kw_only=True)
class Weighted(QuantizedLayer, Generic[W]):
    """A Conv, Gemm or MatMul: floats that are trained, or the integers that ship."""

    weight: W


@dataclass(frozen=True, kw_only=True)
class InnerWeighted(RequantizedLayer, Weighted[W]):
    """One whose sums are requantized."""


@dataclass(frozen=True, kw_only=True)
class LastLayer(Weighted[W]):
    """One whose int32 sums leave as they are."""


@dataclass
class View:
    """The quantized part of the graph in topological order, the islands of float in it, and the float tail behind it.

    inputs: quantizers at which integers begin, the graph's and islands'. lookups: see `qpipe.ir.quantized.parts`.
    """

    graph: ir.Graph
    inputs: list[ActivationQuantizer] = field(default_factory=list)
    layers: list[QuantizedLayer] = field(default_factory=list)
    islands: list[Layer] = field(default_factory=list)
    lookups: list[Layer] = field(default_factory=list)
    tail: list[Layer] = field(default_factory=list)

    @property
    def is_final(self) -> bool:
        """Whether no layer can be trained any more."""
        return all(
            layer.batch_norm is None
            and not layer.is_batch_norm
            and not layer.op.is_float_form
            and not is_trainable(layer)
            for layer in self.layers
        )

    @property
    def results(self) -> list[ir.Value]:
        """What leaves the quantized part, in the order of the graph outputs that it is or leads to: floats too."""
        floats = {value for layer in (*self.islands, *self.lookups) for node in layer.nodes for value in node.outputs}
        return leading_to(self.graph.outputs, floats | {layer.result for layer in self.layers})

    def leaving(self, *, outputs: bool = True) -> list[ir.Value]:
        """Integers that islands read as real numbers, and those that outputs and the tail do, in topological order."""
        floats = [*self.islands, *(self.tail if outputs else ())]
        read = {value for layer in floats for value in all_reads(layer)} | set(self.graph.outputs if outputs else ())
        given = [*(quantizer.output for quantizer in self.inputs), *(layer.result for layer in self.layers)]
        return [value for value in given if value in read]


def leading_to(outputs: Iterable[ir.Value], candidates: Set[ir.Value]) -> list[ir.Value]:
    """Going back from each output in turn, the first of the candidates on every path."""
    found: dict[ir.Value, None] = {}
    stack, seen = list(outputs)[::-1], set()
    while stack:
        value = stack.pop()
        producer = value.producer()
        if value in candidates:
            found[value] = None
        elif value not in seen and producer is not None:
            stack.extend(reversed(reads(producer)))
        seen.add(value)
    return list(found)


def read_view(model: ir.Model) -> View:
    """Read a QDQ graph; ModelError names what is not of the form that calibration writes."""
    try:
        return _read(model)
    except ModelError as error:
        if not is_of_another_tool(model):
            raise
        raise ModelError(f"{error}; `qpipe adopt` takes quantized files of other tools") from error


def is_of_another_tool(model: ir.Model) -> bool:
    """Whether something is quantized, and none of our passes says so."""
    return quantizes_data(model.graph) and not get_provenance(model)


def _read(model: ir.Model) -> View:
    graph = model.graph
    check_functions(model)
    quantizers, skip = _read_quantizers(graph)
    by_output = {quantizer.output: quantizer for quantizer in quantizers}
    by_source: dict[ir.Value, list[ActivationQuantizer]] = {}
    for quantizer in quantizers:
        by_source.setdefault(quantizer.source, []).append(quantizer)
    view, floats = View(graph), list[Layer]()
    whole: set[ir.Value] = set()
    for layer in group_layers(graph, skip):
        inputs = [by_output.get(value) for value in layer.inputs]
        outputs = by_source.get(layer.output, [])
        ends = layer.role is Role.COMPUTE and layer.activation is None
        is_quantized = bool(inputs) and all(inputs) and (outputs or ends)
        if not is_quantized or layer.role is Role.NONE:
            floats.append(layer)
            continue
        known = tuple(q for q in inputs if q is not None)
        _check_output(layer, outputs)
        check_width(layer, known, outputs)
        view.layers.append(_quantized(model, layer, known, outputs[0] if outputs else None))
        view.layers.extend(_requantizations(outputs, by_source))
        whole.add(layer.output)
    view.inputs = [q for q in quantizers if q.source not in whole and q.source not in by_output]
    if not view.layers:
        raise ModelError("not a quantized model: no layer lies between quantizers; run `qpipe calibrate` first")
    divide_floats(floats, (quantizer.source for quantizer in view.inputs), view)
    for layer in view.islands:
        if layer.is_weighted and dequantizes(layer.node.inputs[1].producer()):  # type: ignore[union-attr]
            raise ModelError(f"{describe(layer.node)}: float between quantizers, though its weights are quantized")
    for quantizer in reversed(view.inputs):
        _place(view.layers, list(_requantizations([quantizer], by_source)))
    return view


def is_trainable(layer: QuantizedLayer) -> TypeGuard[Weighted[TrainableWeight]]:
    """Whether its weights are floats."""
    return isinstance(layer, Weighted) and isinstance(layer.weight, TrainableWeight)


def is_final(layer: QuantizedLayer) -> TypeGuard[Weighted[FinalWeight]]:
    """Whether its weights are integers."""
    return isinstance(layer, Weighted) and isinstance(layer.weight, FinalWeight)


def read_final_view(model: ir.Model) -> View:
    """Read a QDQ graph that is finalized; LoweringError on another."""
    view = read_view(model)
    if not view.is_final:
        raise LoweringError("the model is not finalized; run finalize first")
    return view


def _read_quantizers(graph: ir.Graph) -> tuple[list[ActivationQuantizer], frozenset[ir.Node]]:
    """All activation quantizers in order, and all nodes that quantizers (of weights too) are made of."""
    quantizers, skip = [], set()
    for node in graph:
        if not dequantizes(node):
            continue
        quantizer = read_activation_quantizer(node)
        if quantizer is not None:
            quantizers.append(quantizer)
        skip.add(node)
        value = node.inputs[0]
        while value is not None and (producer := value.producer()) is not None:
            skip.add(producer)
            if quantizes(producer):
                break
            value = data_input(producer)
    return quantizers, frozenset(skip)


def _quantized(
    model: ir.Model, layer: Layer, sources: tuple[ActivationQuantizer, ...], quantizer: ActivationQuantizer | None
) -> QuantizedLayer:
    nodes = (layer.node, layer.batch_norm, layer.activation)
    weight = read_weight(model, layer, sources[0]) if layer.is_weighted else None
    if weight is not None:
        if quantizer is None:
            return LastLayer(*nodes, sources=sources, weight=weight)
        return InnerWeighted(*nodes, sources=sources, quantizer=quantizer, weight=weight)
    if quantizer is None:
        raise ModelError(f"{describe(layer.node)}: no quantizer behind it, expected one")
    return RequantizedLayer(*nodes, sources=sources, quantizer=quantizer)


def _check_output(layer: Layer, outputs: list[ActivationQuantizer]) -> None:
    if outputs and layer.curve is not None:
        raise ModelError(f"{describe(layer.node)}: computes floats between quantizers, expected the table of it")
    if outputs and layer.role is not Role.CARRY:
        check_zero_point(_quantize_node(outputs[0]), outputs[0].rounded_to)
    if outputs and layer.output.is_graph_output():
        raise ModelError(
            f"{describe(layer.node)}: its output '{layer.output.name}' is the network's before it is quantized, "
            "expected what a DequantizeLinear gives"
        )
    if len(outputs) > 1:
        raise ModelError(f"{describe(layer.node)}: {len(outputs)} quantizers read its output, expected one")
    if not outputs and (layer.batch_norm is not None or layer.is_batch_norm):
        raise ModelError(f"{describe(layer.node)}: no quantizer after its BatchNormalization, expected one")


def _requantizations(
    quantizers: list[ActivationQuantizer], by_source: dict[ir.Value, list[ActivationQuantizer]]
) -> Iterator[QuantizedLayer]:
    """Quantizers that read one of these, directly or through another one."""
    for first in quantizers:
        for second in by_source.get(first.output, []):
            if second.rounded_to != first.grid:
                check_zero_point(_quantize_node(second), second.rounded_to)
            yield Requantization(_quantize_node(second), sources=(first,), quantizer=second)
            yield from _requantizations([second], by_source)


def _place(layers: list[QuantizedLayer], first: list[QuantizedLayer]) -> None:
    """Put what requantizes the codes at which integers begin before the first layer that reads it."""
    given = {layer.result for layer in first}
    reads = (i for i, layer in enumerate(layers) if any(source.output in given for source in layer.sources))
    at = next(reads, 0)
    layers[at:at] = first


def _quantize_node(quantizer: ActivationQuantizer) -> ir.Node:
    dequantize = quantizer.output.producer()
    assert dequantize is not None
    return quantizer_nodes(dequantize)[0]
