"""Take places of each image by a list, where a graph counts them through the whole batch.

    Gather(Reshape(x, [N S, ...]), S n + c)  =  Gather(Reshape(x, [N, S, ...]), c, axis = 1)
    GatherND(x, [n, c])                      =  Gather(x, c, axis = 1)                              bit for bit

n counts the images, and c is the same for all: then nothing hangs on the batch any more, and where c only counts, the
Gather goes as well. It is how PyTorch writes `mask[batch, places]`, the padding mask of every attention of
transformers 5. What the places are is computed at batches of 1, 3 and 7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import AnyArray
from qpipe.ir.files.size_lists import Lists
from qpipe.ir.graph.rewrite import Steps, rewrite
from qpipe.nodes import constant_array, int_attribute, static_shape

_BATCHES: Final = (1, 3, 7)
_LONGEST: Final = 2**16
"""Places of a list."""
_KINDS: Final = frozenset({"Gather", "GatherND"})


@dataclass(frozen=True, kw_only=True)
class GatherBatchRows(ir.passes.InPlacePass):
    """Each of what has the batch first, by places that are computed from sizes alone."""

    name: ClassVar[str] = "gather-batch-rows"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every match; what counted its places is left to dead-code removal."""
        graph = model.graph
        gathers = [node for node in graph if node.op_type in _KINDS and node.domain == ""]
        if not any(constant_array(node.inputs[1]) is None for node in gathers):
            return ir.passes.PassResult(model, False)
        lists = [Lists(at=size, longest=_LONGEST) for size in _BATCHES]
        for node in graph:
            for each in lists:
                each.follow(node)
        return rewrite(model, _KINDS, lambda graph, node: _try_replace(graph, node, lists))


def _try_replace(graph: ir.Graph, node: ir.Node, lists: list[Lists]) -> bool:
    data, places = node.inputs[0], [each.array(node.inputs[1]) for each in lists]
    if data is None or constant_array(node.inputs[1]) is not None or constant_array(data) is not None:
        return False
    x: ir.Value | None = data
    if node.op_type == "GatherND":
        listed = None if int_attribute(node, "batch_dims", 0) else _beside(places)
    else:
        x, listed = (None, None) if int_attribute(node, "axis", 0) else _flattened(data, places)
    if x is None or listed is None:
        return False
    sizes, counted = static_shape(x), node.inputs[1].shape  # type: ignore[union-attr]  # there are places
    if not sizes or sizes[0] is not None or None in sizes[1:] or listed.size == 0:
        return False
    if counted is None or not len(counted) or counted.dims[0] != x.shape.dims[0]:  # type: ignore[union-attr]
        return False  # Of another open size: both are taken for one here.
    each = [size for size in sizes[1:] if size is not None]
    rest = [size for size in (static_shape(data) or ())[1 if node.op_type == "Gather" else 2 :] if size is not None]
    count = math.prod(each) // math.prod(rest)
    # In a row of a flat list, what comes before an image's first place is another image's.
    least = 0 if node.op_type == "Gather" else -count
    if count * math.prod(rest) != math.prod(each) or listed.min() < least or listed.max() >= count:
        return False
    listed = listed % count
    first = x.shape.dims[:1]  # type: ignore[union-attr]  # its sizes are known
    steps = Steps(graph, node, x)
    if not np.array_equal(listed.reshape(-1), np.arange(count)):
        steps.add("Reshape", "each", [np.array([-1, count, *rest])], [*first, count, *rest])
        steps.add("Gather", "list", [listed.reshape(-1)], [*first, listed.size, *rest], axis=1)
    steps.add("Reshape", "", [np.array([-1, *listed.shape, *rest])], [*first, *listed.shape, *rest])
    steps.replace()
    return True


def _flattened(data: ir.Value, places: list[AnyArray | None]) -> tuple[ir.Value | None, AnyArray | None]:
    """What was flattened, and the places in each image of it; None where they are none."""
    before, inner = data.producer(), static_shape(data)
    if before is None or before.op_type not in {"Reshape", "Flatten"} or not inner or None in inner[1:]:
        return None, None
    x = before.inputs[0]
    each = None if x is None else static_shape(x)
    if x is None or not each or None in each[1:]:
        return None, None
    rows = math.prod(size or 0 for size in each[1:]) // max(1, math.prod(size or 0 for size in inner[1:]))
    found = []
    for batch, array in zip(_BATCHES, places, strict=True):
        if array is None or array.ndim < 1 or len(array) != batch:
            return None, None
        found.append(array - rows * np.arange(batch).reshape(-1, *[1] * (array.ndim - 1)))
    return x, _same(found)


def _beside(places: list[AnyArray | None]) -> AnyArray | None:
    """The places along axis 1 of pairs of the image and these."""
    found = []
    for batch, array in zip(_BATCHES, places, strict=True):
        if array is None or array.ndim < 2 or len(array) != batch or array.shape[-1] != 2:
            return None
        if (array[..., 0] != np.arange(batch).reshape(-1, *[1] * (array.ndim - 2))).any():
            return None
        found.append(array[..., 1])
    return _same(found)


def _same(found: list[AnyArray]) -> AnyArray | None:
    """What is the same for all images, and for all batches."""
    one = found[0][0]
    is_same = all(np.array_equal(each, np.broadcast_to(one, each.shape)) for each in found)
    return one.astype(np.int64) if is_same else None
