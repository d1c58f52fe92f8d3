"""Write a pool so that every runtime has as many windows, and counts alike under each.

ONNX: `ceil_mode` adds a window that hangs over the end, unless it would begin behind the image and its first pads. A
position of an AveragePool counts what its window covers of the image and, with `count_include_pad`, of the pads; what
hangs over these never counts. onnx's inference of shapes counts windows that begin in the last pads, and onnxruntime's
fused AveragePool divides what hangs over counted pads by the whole window. Afterwards

    ceil_mode                  is pads at the end, as many as the last window needs
    counted pads, none there   count_include_pad means nothing, and goes
    counted pads, hung over    are a Pad before the pool, and the pool's own pads count no more
    dilations of 1             go: onnxruntime's fused AveragePool does not know the attribute

Source: ONNX operator specification, AveragePool and MaxPool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.files.infer import infer_shapes
from qpipe.ir.graph.rewrite import rewrite
from qpipe.ir.graph.shapes import correct_size
from qpipe.nodes import Window, initializer, int_attribute, name_value, string_attribute, window
from qpipe.ops.quantizer_parts import dequantizes
from qpipe.ops.windows import image_sizes

_POOLS = frozenset({"AveragePool", "MaxPool"})


@dataclass(frozen=True, kw_only=True)
class ExplicitPools(ir.passes.InPlacePass):
    """Every pool whose `auto_pad` is resolved and whose image has a known size.

    In front of one between quantizers there is no place for a Pad: it stays as it is.
    """

    name: ClassVar[str] = "explicit-pools"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every match in place, and correct the sizes that hang on it."""
        if any(node.op_type in _POOLS and _rounds_up(node) and image_sizes(node) is None for node in model.graph):
            infer_shapes(model)

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            if string_attribute(node, "auto_pad", "NOTSET") != "NOTSET":
                return False
            changed = _try_rewrite(graph, node)
            return (not _rounds_up(node) and correct_size(model, node)) or changed

        return rewrite(model, _POOLS, attempt)


def _rounds_up(node: ir.Node) -> bool:
    return bool(int_attribute(node, "ceil_mode", 0))


def _try_rewrite(graph: ir.Graph, node: ir.Node) -> bool:
    shape, changed = window(node), False
    if node.op_type == "AveragePool" and "dilations" in node.attributes and all(d == 1 for d in shape.dilations):
        del node.attributes["dilations"]
        changed = True
    if "count_include_pad" in node.attributes and not (int_attribute(node, "count_include_pad", 0) and any(shape.pads)):
        del node.attributes["count_include_pad"]
        changed = True
    return (_rounds_up(node) and _try_without_ceil_mode(graph, node, shape)) or changed


def _try_without_ceil_mode(graph: ir.Graph, node: ir.Node, shape: Window) -> bool:
    sizes = image_sizes(node)
    if sizes is None or len(sizes) != len(shape.kernel):
        return False
    dims = len(sizes)
    begins, ends = shape.pads[:dims], shape.pads[dims:]
    needed = tuple(max(end, 0) for end in shape.padded(sizes, ceil_mode=True)[dims:])
    if "count_include_pad" in node.attributes:
        beyond = tuple(max(need - end, 0) for need, end in zip(needed, ends, strict=True))
        needed = tuple(min(need, end) for need, end in zip(needed, ends, strict=True))
        if any(beyond):
            x = node.inputs[0]
            if x is None or dequantizes(x.producer()):
                return False
            _insert_pad(graph, node, x, (*begins, *needed), sizes)
            begins, needed = (0,) * dims, beyond
            del node.attributes["count_include_pad"]
    elif any(need >= kernel for need, kernel in zip(needed, shape.kernel, strict=True)):
        # Of a dilated window; runtimes allow no such pads.
        return False
    node.attributes["pads"] = ir.AttrInt64s("pads", (*begins, *needed))
    del node.attributes["ceil_mode"]
    return True


def _insert_pad(graph: ir.Graph, node: ir.Node, x: ir.Value, pads: tuple[int, ...], sizes: list[int]) -> None:
    """A Pad with zeros before a pool."""
    name, dims = str(node.name or node.outputs[0].name), len(sizes)
    around = np.array([0, 0, *pads[:dims], 0, 0, *pads[dims:]])
    pad = ir.node("Pad", [x, initializer(graph, f"{name}_pads", around)], name=f"{name}_pad")
    assert x.shape is not None
    assert x.type is not None
    padded = [size + pads[i] + pads[dims + i] for i, size in enumerate(sizes)]
    name_value(pad.outputs[0], f"{name}_padded", x.type, ir.Shape([*x.shape.dims[:2], *padded]))
    graph.insert_before(node, pad)
    node.replace_input_with(0, pad.outputs[0])
