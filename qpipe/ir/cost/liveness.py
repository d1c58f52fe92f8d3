"""Peak memory of a graph's activations, from which of them are alive at the same time.

Nodes run in the file's order. A value has memory from the step that writes it to the last step that reads it, an input
from the start, an output to the end. What a step reads and writes is alive together: no kernel writes over its inputs.
Constants, and what is computed from constants alone, don't count, nor does what a kernel needs for itself. A node that
only views its input (Reshape, Flatten, Squeeze, Unsqueeze, Identity) shares its memory.

Between quantizers a runtime holds integers. A node whose activations all come from DequantizeLinear is one kernel with
the QuantizeLinear behind it and with what lies between the two (BatchNormalization, Relu, Clip), as onnxruntime fuses
them, and with a Clip of the integers. No float tensor exists in it, and it reads the codes in front of
DequantizeLinear. So does a Conv, Gemm or MatMul that no quantizer follows, a last layer; what it writes is float. What
any other node reads of a DequantizeLinear, and an output, is a float tensor of its own. An export's integer operators
have no such pairs between them: each of its values counts as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import onnx_ir as ir
from onnx_ir.passes import common

from qpipe.ir.cost.value_sizes import value_sizes
from qpipe.ir.graph.layers import Layer
from qpipe.nodes import describe
from qpipe.ops import Product, activation_of, op_of
from qpipe.ops.quantizer_parts import dequantizes, limits_codes, quantizes

Kernel = tuple[ir.Node, ...]


@dataclass(frozen=True)
class ActivationPeak:
    """size: bytes. node: the first at which they are all alive, as messages name it."""

    size: int
    node: str


def activation_peak(model: ir.Model, batch_size: int = 1) -> ActivationPeak | None:
    """The most bytes that activations take at once, by the rules above; the model stays as it was.

    batch_size: what an open batch dimension is taken for; one that is fixed stays what it is. None where the size of a
    value is unknown, or where a node has a graph of its own.
    """
    if model.functions:
        model = common.InlinePass()(model.clone()).model
    if len(list(model.graphs())) > 1:
        return None
    constants = _constants(model.graph)
    kernels = list(_kernels(model.graph, constants))
    if not kernels:
        return ActivationPeak(0, "")
    sizes = value_sizes(model, batch_size)
    changes = [0] * (len(kernels) + 1)
    for value, (first, last) in _lifetimes(model.graph, kernels, constants).items():
        if str(value.name) not in sizes:
            return None
        changes[first] += sizes[str(value.name)]
        changes[last + 1] -= sizes[str(value.name)]
    totals = list(accumulate(changes))
    return ActivationPeak(max(totals), describe(kernels[totals.index(max(totals))][0]))


def _constants(graph: ir.Graph) -> frozenset[ir.Value]:
    """Initializers, Constants, and what is computed from them alone."""
    found = set(graph.initializers.values())
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type == "Constant" or (inputs and found.issuperset(inputs)):
            found.update(node.outputs)
    return frozenset(found)


def _kernels(graph: ir.Graph, constants: frozenset[ir.Value]) -> Iterator[Kernel]:
    """What runs as one step, in the order of the last nodes; the first node computes."""
    last: dict[ir.Node, Kernel] = {}
    taken: set[ir.Node] = set()
    for node in graph:
        if quantizes(node) and node.outputs[0] not in constants:
            kernel = (*_in_front(node, constants), node, *_clip_of_codes(node))
            last[kernel[-1]] = kernel
            taken.update(kernel[:-1])
    for node in graph:
        if node not in taken and not constants.issuperset(node.outputs):
            yield last.get(node, (node,))


def _in_front(quantize: ir.Node, constants: frozenset[ir.Value]) -> tuple[ir.Node, ...]:
    """What a quantizer's kernel does before it quantizes, in order; nothing where that is no integer kernel."""
    found: list[ir.Node] = []
    value = quantize.inputs[0]
    while value is not None and not _is_dequantized(value, constants):
        node = value.producer()
        if node is None or len(node.outputs) > 1 or len(value.uses()) > 1 or value.is_graph_output():
            return ()
        found.insert(0, node)
        data = [value for value in node.inputs if value is not None and value not in constants]
        if data and all(_is_dequantized(value, constants) for value in data):
            break
        if not _follows(node) or len(data) != 1:
            return ()
        value = data[0]
    return tuple(found)


def _is_dequantized(value: ir.Value, constants: frozenset[ir.Value]) -> bool:
    producer = value.producer()
    return producer is not None and dequantizes(producer) and producer.inputs[0] not in constants


def _follows(node: ir.Node) -> bool:
    """Whether an integer kernel does it on the way from its sums to their quantizer."""
    return activation_of(node) is not None or Layer(node).is_batch_norm


def _clip_of_codes(quantize: ir.Node) -> tuple[ir.Node, ...]:
    """The Clip that narrows a quantizer's range."""
    codes = quantize.outputs[0]
    readers = tuple(codes.consumers())
    is_clip = len(readers) == 1 and limits_codes(readers[0]) and not codes.is_graph_output()
    return readers if is_clip else ()


def _lifetimes(
    graph: ir.Graph, kernels: Sequence[Kernel], constants: frozenset[ir.Value]
) -> dict[ir.Value, tuple[int, int]]:
    """The first and the last step of every value that has memory of its own."""
    homes = _homes(graph, kernels)
    found: dict[ir.Value, tuple[int, int]] = {}
    for step, kernel in enumerate(kernels):
        inside = {value for node in kernel[:-1] for value in node.outputs}
        touched = [value for node in kernel for value in node.inputs if value not in inside]
        for value in (*touched, *kernel[-1].outputs):
            # An output that is left out has an empty name.
            if value is not None and value.name and value not in constants:
                home = homes.get(value, value)
                first, _ = found.get(home, (0 if home.is_graph_input() else step, step))
                found[home] = first, step
    for value in graph.outputs:
        if value not in constants:
            home = homes.get(value, value)
            first, _ = found.get(home, (0, 0))
            found[home] = first, len(kernels) - 1
    return found


def _homes(graph: ir.Graph, kernels: Sequence[Kernel]) -> dict[ir.Value, ir.Value]:
    """Whose memory the values have that have none of their own: views, and what integer kernels take for codes."""
    integer = {
        node
        for kernel in kernels
        if isinstance(op_of(kernel[0]), Product) or any(map(quantizes, kernel))
        for node in kernel
    }
    homes: dict[ir.Value, ir.Value] = {}
    for node in graph:
        source, value = node.inputs[0] if node.inputs else None, node.outputs[0]
        is_codes = dequantizes(node) and not value.is_graph_output() and bool(value.uses())
        if source is not None and (
            op_of(node).is_view(node) or (is_codes and all(reader in integer for reader in value.consumers()))
        ):
            homes[value] = homes.get(source, source)
    return homes
