"""Take the row of each image that its tokens say by a product with a mask: the end of a text, its last token.

    GatherND(x [N, T, C], [n, c[n]])                    =  MatMul(c[n] = t, x)
    Gather(Reshape(x, [N T, C]), T n + c[n])            =  MatMul(c[n] = t, x)
    GatherElements(x, Expand(c [N, 1, 1]), axis = 1)    =  MatMul(c[n] = t, x)          bit for bit, of finite numbers

n counts the images, t the rows of each, and the places c hang on integers alone. A product has integers, and so has a
mask of integers, whose codes are looked up (`qpipe.ops.lookup`). It is how CLIP's text tower takes the last of its
tokens, and how a language model classifies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.ir.files.size_lists import Lists
from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import constant_array, initializer, int_attribute, name_value, static_shape
from qpipe.ops.lookup import Origins

_BATCHES: Final = (1, 3, 7)
_LONGEST: Final = 2**16
"""Images that are counted through."""
_MOST_ROWS: Final = 2**12
"""Of an image: with more the product is no longer small."""
_INTEGERS: Final = (ir.DataType.INT64, ir.DataType.INT32)


@dataclass(frozen=True, kw_only=True)
class PickByMasks(ir.passes.InPlacePass):
    """Each that takes one row, or a list of rows, of `[N, T, C]` by places that are computed from integers."""

    name: ClassVar[str] = "pick-by-masks"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match; what counted the images is left to dead-code removal."""
        kinds = {"Gather": _of_rows, "GatherND": _of_pairs, "GatherElements": _of_elements}
        gathers = [node for node in model.graph if node.op_type in kinds and node.domain == ""]
        # Of tables, and by places that are known, there is nothing to do.
        if all(any(constant_array(value) is not None for value in node.inputs) for node in gathers):
            return ir.passes.PassResult(model, False)
        lists, origins = [Lists(at=size, longest=_LONGEST) for size in _BATCHES], Origins()
        for node in model.graph:
            for each in lists:
                each.follow(node)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            found = kinds[node.op_type](node, lists)
            return found is not None and origins.is_integer(found[1]) and _try_replace(graph, node, *found)

        return rewrite(model, set(kinds), attempt)


def _try_replace(graph: ir.Graph, node: ir.Node, x: ir.Value, places: ir.Value) -> bool:
    """x: `[N, T, C]`. places: `[N]`, `[N, K]` or `[N, K, 1]`, of which negative ones count from the end."""
    sizes, asked, result = static_shape(x), static_shape(places), node.outputs[0]
    if not sizes or len(sizes) != 3 or None in sizes[1:] or x.dtype is not ir.DataType.FLOAT or x.shape is None:
        return False
    if places.dtype not in _INTEGERS or not asked or len(asked) > 3 or None in asked[1:] or asked[2:] not in ((), (1,)):
        return False
    _, rows, width = sizes
    if not rows or rows > _MOST_ROWS or constant_array(places) is not None or constant_array(x) is not None:
        return False
    count, base, new = asked[1] if len(asked) > 1 else 1, node.name or str(result.name), list[ir.Node]()
    kind, first = np.dtype(np.int64 if places.dtype is ir.DataType.INT64 else np.int32), x.shape.dims[0]

    def add(
        op_type: str,
        inputs: list[ir.Value],
        what: str,
        dtype: ir.DataType,
        dims: list[int | ir.SymbolicDim | None],
        **attributes: int,
    ) -> ir.Value:
        new.append(ir.node(op_type, inputs, attributes, name=f"{base}_{what}"))
        name_value(new[-1].outputs[0], f"{base}_{what}_result", ir.TensorType(dtype), ir.Shape(dims))
        return new[-1].outputs[0]

    def constant(what: str, array: np.ndarray) -> ir.Value:
        return initializer(graph, f"{base}_{what}", array)

    value = places
    if len(asked) < 3:
        axes = constant("axes", np.arange(len(asked), 3))
        value = add("Unsqueeze", [value, axes], "places", places.dtype, [first, count, 1])
    value = add("Mod", [value, constant("rows", np.array(rows, kind))], "from_begin", places.dtype, [first, count, 1])
    counted = constant("counted", np.arange(rows, dtype=kind).reshape(1, 1, -1))
    value = add("Equal", [value, counted], "equal", ir.DataType.BOOL, [first, count, rows])
    value = add("Cast", [value], "mask", ir.DataType.FLOAT, [first, count, rows], to=int(ir.DataType.FLOAT))
    value = add("MatMul", [value, x], "product", ir.DataType.FLOAT, [first, count, width])
    keeps = len(asked) > 1
    shape = constant("shape", np.array([-1, count, width] if keeps else [-1, width]))
    value = add("Reshape", [value, shape], "rows_taken", ir.DataType.FLOAT, [first, *([count] if keeps else []), width])
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [result], [value])
    return True


def _of_rows(node: ir.Node, lists: list[Lists]) -> tuple[ir.Value, ir.Value] | None:
    """Of rows of all images: what they are rows of, and the places in each image."""
    data, added = node.inputs[0], None if node.inputs[1] is None else node.inputs[1].producer()
    before = None if data is None else data.producer()
    if before is None or before.op_type not in {"Reshape", "Flatten"} or added is None or added.op_type != "Add":
        return None
    x, sizes, inner = before.inputs[0], static_shape(before.inputs[0]), static_shape(data)
    if (
        int_attribute(node, "axis", 0)
        or not sizes
        or len(sizes) != 3
        or not inner
        or list(inner[1:]) != list(sizes[2:])
    ):
        return None
    for places, counted in (added.inputs, added.inputs[::-1]):
        rank = len(static_shape(places) or ())
        if x is not None and places is not None and sizes[1] and _counts(counted, lists, sizes[1], rank):
            return x, places
    return None


def _of_pairs(node: ir.Node, lists: list[Lists]) -> tuple[ir.Value, ir.Value] | None:
    """Of pairs of an image and a place."""
    x, index = node.inputs
    joined = None if index is None else index.producer()
    if x is None or joined is None or joined.op_type not in {"Concat", "Unsqueeze"}:
        return None
    if joined.op_type == "Unsqueeze":
        # One number each, of the image that it stands for.
        return (x, joined.inputs[0]) if int_attribute(node, "batch_dims", 0) == 1 and _is_behind(joined) else None  # type: ignore[return-value]
    parts = [None if value is None else value.producer() for value in joined.inputs]
    dims = len(static_shape(index) or ())
    if (
        int_attribute(node, "batch_dims", 0)
        or len(parts) != 2
        or int_attribute(joined, "axis", 0) not in (-1, dims - 1)
    ):
        return None
    places = parts[1]
    if places is None or not _is_behind(places) or not _counts(joined.inputs[0], lists, 1, dims):
        return None
    return None if places.inputs[0] is None else (x, places.inputs[0])


def _of_elements(node: ir.Node, lists: list[Lists]) -> tuple[ir.Value, ir.Value] | None:
    """Of some places of each image, for all channels."""
    x, index = node.inputs
    expand = None if index is None else index.producer()
    if x is None or expand is None or expand.op_type != "Expand" or int_attribute(node, "axis", 0) not in (1, -2):
        return None
    places, asked, sizes = expand.inputs[0], static_shape(index), static_shape(x)
    each = static_shape(places)
    # Those of all images, and all channels: it may ask for fewer of either.
    takes_all = asked and sizes and len(asked) == len(sizes) == 3 and asked[2] == sizes[2] and each and len(each) == 3
    is_open = x.shape is not None and index is not None and index.shape is not None and places is not None
    if not takes_all or not is_open or x.shape.dims[0] != index.shape.dims[0] or each[1] != asked[1]:  # type: ignore[union-attr,index]
        return None
    return None if places is None else (x, places)


def _is_behind(node: ir.Node) -> bool:
    """Whether it is an Unsqueeze of the last axis."""
    axes, dims = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None, static_shape(node.inputs[0])
    return (
        node.op_type == "Unsqueeze" and dims is not None and axes is not None and axes.tolist() in ([-1], [len(dims)])
    )


def _counts(value: ir.Value | None, lists: list[Lists], step: int, dims: int) -> bool:
    """Whether it counts the images along the first of so many axes, by this step."""
    for batch, each in zip(_BATCHES, lists, strict=True):
        array = each.array(value)
        if array is None or not 0 < array.ndim <= max(dims, 1) or array.size != batch or len(array) != batch:
            return False
        if not np.array_equal(array.reshape(-1), step * np.arange(batch)):
            return False
    return True
