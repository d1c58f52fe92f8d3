"""Replace `auto_pad` by the pads that it stands for, and a Pad's for some axes by those for all.

SAME_UPPER / SAME_LOWER, per spatial dimension: out = ceil(in / stride),
total = max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - in), the odd pixel at the end (UPPER) or the begin
(LOWER). VALID: no pads. Source: ONNX operator specification, Conv and AveragePool. (onnxscript's rule knows neither
dilations nor pooling.) Where the stride is over kernel + 1 the total falls below -1, and runtimes disagree: TensorFlow
pads nothing, onnxruntime crops the begin. Such a node keeps its `auto_pad`. (onnxruntime's layout optimizer breaks a
Pad that names axes.)
"""

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.ir.graph.rewrite import rewrite
from qpipe.ir.graph.shapes import correct_size
from qpipe.nodes import (
    constant_input,
    describe,
    initializer,
    ints_attribute,
    kernel_shape,
    rank,
    static_shape,
    string_attribute,
)
from qpipe.ops.pad import all_pads

_AUTO_PADS: Final = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@dataclass(frozen=True, kw_only=True)
class ExplicitPadding(ir.passes.InPlacePass):
    """Conv, MaxPool, AveragePool get explicit pads, SAME where the image's size is known; Pad those of all axes.

    ModelError for a node that has both, which onnxruntime refuses as well.
    """

    name: ClassVar[str] = "explicit-padding"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the attributes of every match in place."""

        def attempt(graph: ir.Graph, node: ir.Node) -> bool:
            changed = _try_make_explicit(graph, node)
            if changed:
                correct_size(model, node)
            return changed

        windows = rewrite(model, {"Conv", "MaxPool", "AveragePool"}, attempt)
        pads = rewrite(model, {"Pad"}, _try_pad_all_axes)
        return ir.passes.PassResult(model, windows.modified or pads.modified)


def _try_make_explicit(_: ir.Graph, node: ir.Node) -> bool:
    if "auto_pad" not in node.attributes:
        return False
    auto_pad = string_attribute(node, "auto_pad", "NOTSET")
    if auto_pad not in _AUTO_PADS:
        raise ModelError(f"{describe(node)}: auto_pad is '{auto_pad}', expected one of {', '.join(_AUTO_PADS)}")
    pads = ints_attribute(node, "pads", ())
    if auto_pad != "NOTSET" and any(pads):
        raise ModelError(f"{describe(node)}: auto_pad is '{auto_pad}' and pads are {list(pads)}, expected one of both")
    if auto_pad == "VALID":
        node.attributes["pads"] = ir.AttrInt64s("pads", (0, 0) * len(kernel_shape(node)))
    elif auto_pad != "NOTSET":
        same = _same_pads(node, odd_at_begin=auto_pad == "SAME_LOWER")
        if same is None:
            return False
        node.attributes["pads"] = ir.AttrInt64s("pads", same)
        # The output of SAME is ceil(in / stride) already; with a stride over the kernel, ceil_mode would add to it.
        node.attributes.pop("ceil_mode", None)
    del node.attributes["auto_pad"]
    return True


def _try_pad_all_axes(graph: ir.Graph, node: ir.Node) -> bool:
    if constant_input(node, 3) is None or constant_input(node, 1) is None or rank(node.inputs[0]) is None:
        return False
    name = f"{node.name or node.outputs[0].name}_pads"
    node.replace_input_with(1, initializer(graph, name, np.array(all_pads(node))))
    node.resize_inputs(3)
    return True


def _same_pads(node: ir.Node, *, odd_at_begin: bool) -> tuple[int, ...] | None:
    """All begins, then all ends; None where the input's spatial shape is unknown or runtimes disagree."""
    shape = static_shape(node.inputs[0])
    kernel = kernel_shape(node)
    if shape is None or len(shape) != 2 + len(kernel) or None in shape[2:]:
        return None
    sizes = [size for size in shape[2:] if size is not None]
    strides = ints_attribute(node, "strides", (1,) * len(kernel))
    dilations = ints_attribute(node, "dilations", (1,) * len(kernel))
    totals = [
        (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size
        for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    if min(totals) < -1:
        return None
    totals = [max(0, total) for total in totals]
    smaller = tuple(total // 2 for total in totals)
    larger = tuple(total - total // 2 for total in totals)
    return larger + smaller if odd_at_begin else smaller + larger
