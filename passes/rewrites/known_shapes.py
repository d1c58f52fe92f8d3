"""Compute shapes that the graph computes: what follows from sizes that are known becomes a constant.

    Reshape(x, Concat(Shape(x)[0], 2, Shape(x)[1] / 2, ...)) = Reshape(x, [-1, 2, 58, ...])    (a shuffle of channels)
    Resize(x, sizes = Concat(Shape(x)[:2], [32, 32])) = Resize(x, sizes = [32, 32], axes = [2, 3])

Sizes that stay open, such as the batch, are followed by name: `2 * N + 1`. One of them may stand in a Reshape, where it
follows from the others. What is left without readers goes with dead code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx
import onnx_ir as ir

from qpipe.ir.files.open_size import Open, Size, Sizes, UnknownError, divide, largest, multiply, subtract
from qpipe.ir.files.size_lists import Lists, sizes_of
from qpipe.ir.files.upgrade import OPSET
from qpipe.ir.graph.rewrite import bypass
from qpipe.nodes import initializer, inner_graphs, input_value, int_attribute

_RESIZED_TO: Final = 3
"""The operand of Resize that has the sizes."""
_TO_THE_END: Final = 2**31 - 1
"""The least that exporters write for an end that is the axis' own."""
_NAMED: Final = frozenset({"Range", "ConstantOfShape", "Flatten", "Expand", "Tile"})
"""What gives sizes by lists and products that inference does not follow."""
_INVENTED: Final = "unk__"
"""What names begin with that onnx's inference gives to sizes of which it knows nothing, and tf2onnx to the batch."""


@dataclass(frozen=True, kw_only=True)
class KnownShapes(ir.passes.InPlacePass):
    """Lists of sizes become constants, where the sizes are known, in a graph that asks for any."""

    name: ClassVar[str] = "known-shapes"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """One way through the graph; shapes are inferred on it as they become known."""
        graph = model.graph
        if not any(node.op_type in ("Shape", "Size") for node in graph):
            return ir.passes.PassResult(model, False)
        lists, modified = Lists(), False
        fed = {dim.value for value in graph.inputs for dim in value.shape or () if isinstance(dim, ir.SymbolicDim)}
        for node in list(graph):
            _infer(node, lists, model.opset_imports.get("", OPSET), fed)
            if not inner_graphs(node) and not lists.follow(node):
                modified |= _settle(graph, node, lists)
        return ir.passes.PassResult(model, modified)


def _settle(graph: ir.Graph, node: ir.Node, lists: Lists) -> bool:
    """Give a node constants for what it reads of lists; whether there were any. A Slice of all of it goes."""
    if node.op_type == "Slice" and node.inputs[0] is not None and _cut(node, lists) == set():
        if not node.outputs[0].is_graph_output():
            bypass(node, node.inputs[0])
            return True
        return False
    modified = False
    for index, value in enumerate(node.inputs):
        known = None if lists.computed(value) is None else lists.array(value)
        if known is not None and value is not None:
            node.replace_input_with(index, initializer(graph, f"{value.name}_known", known))
            modified = True
    return modified or _settle_open(graph, node, lists)


def _settle_open(graph: ir.Graph, node: ir.Node, lists: Lists) -> bool:
    """The same where one of the sizes is open."""
    x, asked = input_value(node, 0), lists.computed(input_value(node, _RESIZED_TO if node.op_type == "Resize" else 1))
    given = sizes_of(x)
    if asked is None or x is None:
        return False
    sizes: Sizes = asked.tolist()
    name = f"{node.outputs[0].name}_shape"
    if node.op_type == "Reshape":
        # Of `allowzero` a zero is a size, which nothing here has.
        target = None if 0 in sizes and int_attribute(node, "allowzero", 0) else _reshaped(given, sizes)
        if target is None:
            return False
        node.outputs[0].shape = ir.Shape([_dim(size) for size in target])
        numbers = [-1 if isinstance(size, Open) else size for size in target]
        node.replace_input_with(1, initializer(graph, name, np.array(numbers, np.int64)))
        return True
    if given is None:
        return False
    if node.op_type == "Expand" and len(sizes) <= len(given):
        # To the shape that it has.
        if all(size in (1, here) for size, here in zip(sizes[::-1], given[::-1], strict=False)):
            bypass(node, x)
            return True
        pairs = list(zip(sizes[::-1], given[::-1], strict=False))[::-1]
        if all(isinstance(size, int) or size == here for size, here in pairs):
            # What it has already is left to broadcasting.
            numbers = [size if isinstance(size, int) else 1 for size in sizes]
            node.replace_input_with(1, initializer(graph, name, np.array(numbers, np.int64)))
            known = [here if size == 1 else size for size, here in pairs]
            node.outputs[0].shape = ir.Shape([_dim(size) for size in (*given[: len(given) - len(sizes)], *known)])
            return True
    elif node.op_type == "Resize" and "axes" not in node.attributes and len(sizes) == len(given):
        axes = [axis for axis, size in enumerate(sizes) if size != given[axis]]
        if axes and all(isinstance(sizes[axis], int) for axis in axes):
            chosen = np.array([sizes[axis] for axis in axes], np.int64)
            node.attributes["axes"] = ir.AttrInt64s("axes", axes)
            node.outputs[0].shape = ir.Shape([_dim(size) for size in sizes])
            node.replace_input_with(_RESIZED_TO, initializer(graph, name, chosen))
            return True
    return False


def _reshaped(given: Sizes | None, sizes: Sizes) -> Sizes | None:
    """The sizes with one open one at most; None where more are, or where they can't be found.

    given: the operand's, None where they are not known.
    """
    if given is None:
        return sizes if 0 not in sizes and -1 not in sizes and _opened(sizes) == 1 else None
    sizes = [given[axis] if size == 0 and axis < len(given) else size for axis, size in enumerate(sizes)]
    opened = _opened(sizes)
    if -1 in sizes and opened:
        # What is left follows where all that is open cancels out.
        try:
            left = divide(_product(given), _product(size for size in sizes if size != -1))
        except UnknownError:
            return None
        return [left if size == -1 else size for size in sizes] if opened == 1 and isinstance(left, int) else None
    return sizes if opened == 1 else None


def _product(sizes: Iterable[Size]) -> Size:
    product: Size = 1
    for size in sizes:
        product = multiply(product, size)
    return product


def _opened(sizes: Sizes) -> int:
    return sum(isinstance(size, Open) for size in sizes)


def _infer(node: ir.Node, lists: Lists, opset: int, fed: Set[str | None]) -> None:
    """The shapes of what a node gives, where more can be said of them than the file does.

    fed: names of sizes that inputs have.
    """
    if node.domain != "" or all(_is_named(value, fed) for value in node.outputs):
        return
    values = [value for value in node.inputs if value is not None]
    types = {str(value.name): kind for value in values if (kind := _type_proto(value)) is not None}
    data = {
        str(value.name): ir.to_proto(ir.tensor(array)) for value in values if (array := lists.array(value)) is not None
    }
    if len(types) < len({value.name for value in values}):
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        inferred = onnx.shape_inference.infer_node_outputs(schema, ir.to_proto(node), types, data)
    except Exception:
        return  # Whoever needs the shape says so.
    for value in node.outputs:
        if (proto := inferred.get(str(value.name))) is not None:
            shape = ir.serde.deserialize_type_proto_for_shape(proto)
            if shape is not None and _known(shape, fed) > _known(value.shape, fed):
                value.shape = shape
                value.type = value.type or ir.serde.deserialize_type_proto_for_type(proto)
    if node.op_type == "Resize":
        _keep_names(node, lists)
    elif node.op_type == "Reshape":
        _name_rest(node, lists)
    elif node.op_type == "Slice":
        _keep_whole(node, lists)
    elif node.op_type in _NAMED:
        _name_from_lists(node, lists)


def _keep_whole(node: ir.Node, lists: Lists) -> None:
    """Give the sizes that a Slice leaves as they are their names."""
    x, result, cut = input_value(node, 0), node.outputs[0], _cut(node, lists)
    if cut is not None and x is not None and x.shape is not None and result.shape is not None:
        pairs = enumerate(zip(x.shape.dims, result.shape.dims, strict=True))
        result.shape = ir.Shape([new if axis in cut else old for axis, (old, new) in pairs])


def _cut(node: ir.Node, lists: Lists) -> set[int] | None:
    """The axes that a Slice does not take from 0 to the end, as PyTorch writes `x[:]`; None where that is not known."""
    x = input_value(node, 0)
    starts, ends, axes, steps = (lists.array(input_value(node, index)) for index in (1, 2, 3, 4))
    if x is None or x.shape is None or starts is None or ends is None or axes is None:
        return None
    steps = np.ones_like(starts) if steps is None else steps
    parts = zip(starts, ends, axes, steps, strict=True)
    return {
        int(axis) % len(x.shape) for start, end, axis, step in parts if (start, step) != (0, 1) or end < _TO_THE_END
    }


def _name_from_lists(node: ir.Node, lists: Lists) -> None:
    """Name what inference loses: how far a Range counts, the product in a Flatten, what Expand and Tile are told."""
    given = sizes_of(input_value(node, 0))
    try:
        if node.op_type == "Range":
            start, end, step = (lists.read(node, index)[0].item() for index in range(3))
            sizes = [largest(subtract(end, start), 0)] if step == 1 else None
        elif node.op_type == "ConstantOfShape":
            sizes = lists.read(node, 0)[0].tolist()
        elif given is None:
            return
        elif node.op_type == "Tile":
            repeats = lists.read(node, 1)[0].tolist()
            sizes = [multiply(*each) for each in zip(given, repeats, strict=False)]
        elif node.op_type == "Flatten":
            # Of all axes it is the number of them; a negative one is counted from there.
            axis = int_attribute(node, "axis", 1)
            sizes = [_product(given[:axis]), _product(given[axis:])]
        else:
            sizes = _broadcast(given, lists.read(node, 1)[0].tolist())
    except UnknownError:
        return
    if sizes is not None and all(isinstance(size, int | Open) for size in sizes):
        node.outputs[0].shape = ir.Shape([_dim(size) for size in sizes if isinstance(size, int | Open)])


def _broadcast(given: Sizes, asked: Sizes) -> Sizes:
    """The sizes of both together; UnknownError where an open one may be 1 or not."""
    rank = max(len(given), len(asked))
    pairs = list(zip(*([1] * (rank - len(sizes)) + sizes for sizes in (given, asked)), strict=True))
    if any(a != b and 1 not in (a, b) for a, b in pairs):
        raise UnknownError
    return [b if a == 1 else a for a, b in pairs]


def _name_rest(node: ir.Node, lists: Lists) -> None:
    """Name what a constant Reshape leaves to be found: of `[N, 4, 6]` by `[-1, 2]` it is `12*N`."""
    target, given, shape = lists.array(input_value(node, 1)), sizes_of(input_value(node, 0)), node.outputs[0].shape
    if target is None or given is None or shape is None or -1 not in target:
        return
    others = [size for size, asked in zip(sizes_of(node.outputs[0]) or [], target, strict=True) if asked != -1]
    try:
        left = divide(_product(given), _product(others))
    except UnknownError:
        return
    if isinstance(left, int | Open):
        dims = zip(shape.dims, target, strict=True)
        node.outputs[0].shape = ir.Shape([_dim(left) if asked == -1 else dim for dim, asked in dims])


def _keep_names(node: ir.Node, lists: Lists) -> None:
    """Give the sizes that a Resize leaves as they are their names: to inference an open size times 1 is another."""
    x, result, scales = input_value(node, 0), node.outputs[0], lists.array(input_value(node, 2))
    if x is None or x.shape is None or result.shape is None or scales is None or len(scales) != len(x.shape):
        return
    pairs = zip(x.shape.dims, result.shape.dims, scales, strict=True)
    result.shape = ir.Shape([old if scale == 1 else new for old, new, scale in pairs])


def _is_named(value: ir.Value, fed: Set[str | None]) -> bool:
    """Whether its sizes are numbers, but for the first, which may have a name that a file or a node gave."""
    if value.shape is None:
        return False
    first, *others = [*value.shape.dims] or [1]
    return _is_given(first, fed) and all(isinstance(size, int) for size in others)


def _is_given(size: int | ir.SymbolicDim, fed: Set[str | None]) -> bool:
    if isinstance(size, int):
        return True
    return size.value is not None and (size.value in fed or not size.value.startswith(_INVENTED))


def _type_proto(value: ir.Value) -> onnx.TypeProto | None:
    if value.dtype is None or value.shape is None:
        return None
    dims: Sequence[int | str | None] = [d if isinstance(d, int) else d.value for d in value.shape]
    return onnx.helper.make_tensor_type_proto(value.dtype, dims)


def _known(shape: ir.Shape | None, fed: Set[str | None]) -> int:
    """How much is said of it: numbers, and names that were given."""
    return -1 if shape is None else sum(_is_given(size, fed) for size in shape)


def _dim(size: int | Open) -> int | str:
    return size if isinstance(size, int) else size.text
