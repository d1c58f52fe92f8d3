"""What a model must be before anything reads it: finite, of a bearable size, with tensors for inputs."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from qpipe.errors import ModelError, one_line, printable
from qpipe.ir.files.attributes import check_attributes
from qpipe.nodes import describe, static_shape
from qpipe.ops.masks import leads_to_softmax

MOST_ELEMENTS: Final = 2**28
"""Of one tensor, 1 GiB in float32: more can neither be calibrated nor compared in memory."""
MOST_NODES: Final = 2**17
"""Of a model whose functions are written out."""
_LONGEST_NAME: Final = 4096
_MOST_NAMESAKES: Final = 2**26
"""Steps for the names of inlined values: the inliner counts up from one for each of them."""
# An infinite number in one of these is a bound, not a weight.
_BOUND_OPS: Final = frozenset({"Clip", "Max", "Min", "Pad", "Where"})
_TYPES: Final = frozenset(member.value for member in ir.DataType)


def check_proto(proto: onnx.ModelProto, source: str) -> None:
    """Refuse what onnx_ir would pass over, or call an error of its own."""
    # Bytes of another kind can parse as a message of unknown fields only.
    if not proto.ir_version or not proto.HasField("graph"):
        raise ModelError(f"{source}: not an ONNX model")
    if not proto.graph.node:
        raise ModelError(f"{source}: the graph has no nodes")
    _check_ends(proto.graph, source)
    _check_bodies(proto.functions, source)
    for graph in graph_protos(proto.graph):
        _check_names(graph, source)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.WhichOneof("value") == "opaque_type":
                raise ModelError(f"{source}: '{printable(value.name)}' is of opaque_type, expected a tensor")
        check_attributes(graph.node, source)
        for sparse in graph.sparse_initializer:
            raise ModelError(f"{source}: initializer '{sparse.values.name}' is sparse, expected a dense tensor")
        for tensor in graph.initializer:
            if tensor.data_type not in _TYPES:
                raise ModelError(f"{source}: initializer '{tensor.name}' has the unknown type {tensor.data_type}")
        for node in graph.node:
            if any(attribute.HasField("sparse_tensor") for attribute in node.attribute):
                raise ModelError(f"{source}: {node.op_type} '{node.name}' holds a sparse tensor, expected a dense one")


def _check_ends(graph: onnx.GraphProto, source: str) -> None:
    """Refuse inputs and outputs that no runtime can be given, or gives."""
    for value in (*graph.input, *graph.output):
        kind = value.type.WhichOneof("value")
        if kind == "tensor_type" and not value.type.tensor_type.elem_type:
            raise ModelError(f"{source}: '{printable(value.name)}' is a tensor of no type of numbers, expected one")
    for value in graph.output:
        kind = value.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            raise ModelError(f"{source}: output '{printable(value.name)}' is of {kind}, expected a tensor")


def _check_bodies(functions: Collection[onnx.FunctionProto], source: str) -> None:
    """Refuse functions that are there twice, or give what they don't compute."""
    counts = Counter((function.domain, function.name, function.overload) for function in functions)
    for function in functions:
        owner = f"{source}: function '{printable(function.name)}'"
        if (count := counts[function.domain, function.name, function.overload]) > 1:
            raise ModelError(f"{owner} is there {count} times, expected once")
        computed = {name for node in function.node for name in node.output}
        for name in function.output:
            if name not in computed:
                raise ModelError(f"{owner} gives '{printable(name)}', which none of its nodes computes")
        check_attributes(function.node, source)


def _check_names(graph: onnx.GraphProto, source: str) -> None:
    """Refuse names of megabytes, which every message and table would repeat."""
    values = (*graph.input, *graph.output, *graph.initializer, *graph.node)
    names = [value.name for value in values] + [name for node in graph.node for name in (*node.input, *node.output)]
    longest = max((graph.name, *names), key=len)
    if len(longest) > _LONGEST_NAME:
        found = f"the name '{longest[:40]}...' has {len(longest):,} characters"
        raise ModelError(f"{source}: {found}, expected {_LONGEST_NAME:,} at most")


def graph_protos(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, and then all that its nodes have in attributes, as deep as they go."""
    stack = [graph]
    while stack:
        graph = stack.pop()
        yield graph
        attributes = [attribute for node in graph.node for attribute in node.attribute]
        stack.extend(attribute.g for attribute in attributes if attribute.HasField("g"))
        stack.extend(inner for attribute in attributes for inner in attribute.graphs)


def check_functions(model: ir.Model, source: str) -> None:
    """Refuse functions that call themselves, and those that become too many nodes where they are written out."""
    functions = model.functions
    if not functions:
        return
    calls = {key: Counter(node.op_identifier() for node in function.all_nodes()) for key, function in functions.items()}
    try:
        callers_first = list(TopologicalSorter(calls).static_order())[::-1]
    except CycleError as error:
        cycle = " -> ".join(name for _, name, _ in error.args[1])
        raise ModelError(f"{source}: functions call each other in a circle ({cycle}), expected none") from None
    copies = Counter(node.op_identifier() for node in ir.traversal.RecursiveGraphIterator(model.graph))
    values: Counter[str | None] = Counter()
    for key in callers_first:
        if key in functions:
            for called, times in calls[key].items():
                copies[called] += times * copies[key]
            for node in functions[key].all_nodes():
                values.update({output.name: copies[key] for output in node.outputs})
    nodes = sum(times for key, times in copies.items() if key not in functions)
    steps = sum(times**2 for times in values.values()) // 2
    if nodes > MOST_NODES or steps > _MOST_NAMESAKES:
        (_, name, _), times = max(((key, copies[key]) for key in functions), key=lambda item: item[1])
        raise ModelError(
            f"{source}: written out, the functions are {_number(nodes)} nodes ('{name}' {_number(times)} times), "
            f"expected {MOST_NODES:,} at most"
        )


def check_graph(model: ir.Model, source: str) -> None:
    """ONNX's own checker, for a graph that has nodes, and outputs which they give."""
    if not len(model.graph):
        raise ModelError(f"{source}: the graph has no nodes")
    if not model.graph.outputs:
        raise ModelError(f"{source}: the graph has no outputs")
    for value in model.graph.outputs:
        if value.is_graph_input() and not value.is_initializer():
            raise ModelError(f"{source}: output '{value.name}' is an input, expected what a node gives")
    # The checker wants a name; runtimes don't.
    model.graph.name = model.graph.name or "main"
    # And it wants a shape of every input.
    unknown = [value for value in model.graph.inputs if value.shape is None]
    for value in unknown:
        value.shape = ir.Shape([])
    try:
        common.CheckerPass()(model)
    except Exception as error:
        raise ModelError(f"{source}: invalid ONNX model: {one_line(error)}") from error
    finally:
        for value in unknown:
            value.shape = None


def check_inputs(model: ir.Model, source: str) -> None:
    """Every input is a tensor, and no dimension of it is empty; sizes may be open."""
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        if not isinstance(value.type, ir.TensorType):
            raise ModelError(f"{source}: input '{value.name}' is of type {value.type}, expected a tensor")
        for index, dim in enumerate(value.shape or ()):
            if isinstance(dim, int) and dim < 1:
                raise ModelError(f"{source}: input '{value.name}': dimension {index} is {dim}, expected 1 or more")


def check_sizes(values: Iterable[ir.Value], about: str = "") -> None:
    """Refuse a tensor of more than `MOST_ELEMENTS`, with the node that gives it; unknown sizes count as one."""
    for value in values:
        shape = static_shape(value) or ()
        size = math.prod(dim for dim in shape if dim is not None)
        if size > MOST_ELEMENTS:
            node = value.producer()
            owner = f"input '{value.name}'" if node is None else f"{describe(node)}: its output '{value.name}'"
            inputs = [] if value.graph is None else value.graph.inputs
            is_batch = shape[0] not in (None, 1) and any(shape[:1] == (static_shape(fed) or ())[:1] for fed in inputs)
            batch = f"; export the model with a dynamic batch, or one of 1 (it is {shape[0]:,})" if is_batch else ""
            raise ModelError(f"{about}{owner} has {_number(size)} elements, expected {MOST_ELEMENTS:,} at most{batch}")


def check_weights(model: ir.Model, source: str) -> None:
    """Refuse NaN and infinite weights, and tensors whose bytes don't fit their shape."""
    for owner, tensor, value in constant_tensors(model, source):
        try:
            array = tensor.numpy()
        except Exception as error:
            raise ModelError(f"{source}: {owner} can't be read: {one_line(error)}") from error
        if not tensor.dtype.is_floating_point():
            continue
        if np.isnan(array).any():
            raise ModelError(f"{source}: {owner} contains NaN, expected finite weights")
        if np.isinf(array).any() and not (is_bound(value) and array.size == 1) and not leads_to_softmax(value):
            raise ModelError(f"{source}: {owner} contains infinite values, expected finite weights")


def constant_tensors(model: ir.Model, source: str) -> Iterator[tuple[str, ir.TensorProtocol, ir.Value]]:
    """Every initializer and Constant: what to call it, the tensor, and its value."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield f"initializer '{value.name}'", value.const_value, value
        for node in graph:
            if node.op_type == "Constant" and node.domain == "":
                try:
                    tensor = ir.convenience.get_const_tensor(node.outputs[0])
                except (ValueError, TypeError):
                    tensor = None
                if tensor is None:
                    found = ", ".join(node.attributes) or "none"
                    raise ModelError(f"{source}: {describe(node)} has the attributes {found}, expected one dense value")
                yield describe(node), tensor, node.outputs[0]


def is_bound(value: ir.Value) -> bool:
    """Whether nothing but clips and the like read it, or it lowers what a Softmax reads."""
    return all(node.op_type in _BOUND_OPS for node in value.consumers()) or leads_to_softmax(value)


def _number(count: int) -> str:
    return f"{count:,}" if count < 10**15 else "over 10^15"
