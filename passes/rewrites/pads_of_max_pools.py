"""Let a MaxPool do the padding of the Pad before it: what is padded never is the largest.

    MaxPool(Pad(x, -inf))          =  MaxPool(x) with these pads more
    MaxPool(Pad(Relu(x), 0))       likewise: each window sees a pixel of the image, which is 0 or more

The border is -inf, the lowest finite number, or anything below -2^64, beneath all that grids hold. Runtimes take pads
that are smaller than the kernel. Where only other MaxPools read the Pad, an infinite border becomes the lowest finite
number: what lies between has a range. Source: ONNX operator specification, MaxPool and Pad.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qpipe.ir.graph.rewrite import rewrite
from qpipe.nodes import (
    constant_input,
    initializer,
    int_attribute,
    ints_attribute,
    kernel_shape,
    rank,
    string_attribute,
)
from qpipe.ops import op_of
from qpipe.ops.pad import LOWEST, all_pads, fill_of, is_constant


@dataclass(frozen=True, kw_only=True)
class PadsOfMaxPools(ir.passes.InPlacePass):
    """Every MaxPool behind a Pad of constants, whose own pads are explicit and round down."""

    name: ClassVar[str] = "pads-of-max-pools"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold every match; then make the border of others finite."""
        folded = rewrite(model, {"MaxPool"}, _try_fold)
        finite = rewrite(model, {"Pad"}, _try_make_finite)
        return ir.passes.PassResult(model, folded.modified or finite.modified)


def _try_fold(graph: ir.Graph, node: ir.Node) -> bool:
    padded = node.inputs[0]
    pad = None if padded is None else padded.producer()
    if pad is None or not _is_pad(pad):
        return False
    around, kernel = all_pads(pad), kernel_shape(node)
    dims = len(kernel)
    begins, ends = around[: len(around) // 2], around[len(around) // 2 :]
    own = ints_attribute(node, "pads", (0, 0) * dims)
    pads = [a + b for a, b in zip((*begins[2:], *ends[2:]), own, strict=True)]
    if len(begins) != dims + 2 or any((*begins[:2], *ends[:2])) or min(around) < 0 or not _never_wins(pad):
        return False
    is_plain = string_attribute(node, "auto_pad", "NOTSET") == "NOTSET" and not int_attribute(node, "ceil_mode", 0)
    # A window that is dilated may lie on pads alone, and one of zeros gives 0 then.
    is_plain &= all(step == 1 for step in ints_attribute(node, "dilations", (1,)))
    if not is_plain or len(node.outputs) > 1 or any(p >= k for p, k in zip(pads, kernel * 2, strict=True)):
        return False
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    node.replace_input_with(0, pad.inputs[0])
    if not pad.outputs[0].uses() and not pad.outputs[0].is_graph_output():
        graph.remove(pad, safe=True)
    return True


def _try_make_finite(graph: ir.Graph, node: ir.Node) -> bool:
    result = node.outputs[0]
    readers = [(reader.op_type, reader.domain) for reader in result.consumers()]
    if not _is_pad(node) or not np.isneginf(fill_of(node)) or set(readers) != {("MaxPool", "")}:
        return False
    name = f"{node.name or result.name}_lowest"
    node.replace_input_with(2, initializer(graph, name, np.finfo(np.float32).min))
    return not result.is_graph_output()


def _is_pad(node: ir.Node) -> bool:
    """Of constants, whose numbers are known."""
    given = [index for index, value in enumerate(node.inputs) if index and value is not None]
    is_known = all(constant_input(node, index) is not None for index in given) and rank(node.inputs[0]) is not None
    return node.op_type == "Pad" and node.domain == "" and is_constant(node) and is_known


def _never_wins(pad: ir.Node) -> bool:
    """Whether no number of its border is the largest of a window that sees a pixel."""
    fill, x = fill_of(pad), pad.inputs[0]
    if fill < LOWEST:
        return True
    producer = None if x is None else x.producer()
    return fill == 0 and producer is not None and op_of(producer).sign([True]) is False
