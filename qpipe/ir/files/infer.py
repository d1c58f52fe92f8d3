"""Infer the shapes of a graph, within bounds.

onnx follows the numbers in lists such as shapes, and keeps each element of what Concat joins, 250 bytes of memory for
one: lists that double a few times, or one of millions, would fill the memory. Where there may be such, only shapes are
inferred; once constants are folded, the next call knows more.
"""

import math
from collections.abc import Mapping
from typing import Final

import onnx_ir as ir
from onnx_ir.passes import common

from qpipe.ir.files.quiet import quiet

LONGEST_LIST: Final = 2**16
"""Elements of a list whose numbers are followed."""
# What these give can be of any length, however short what they read.
_GENERATORS: Final = frozenset(
    {"Expand", "ConstantOfShape", "Range", "Tile", "OneHot", "NonZero", "Pad", "Resize", "Upsample", "CenterCropPad",
     "HannWindow", "HammingWindow", "BlackmanWindow", "RandomNormal", "RandomUniform", "GatherND", "Unique", "Compress"}
)  # fmt: skip
_MOST_DIMENSIONS: Final = 64


def infer_shapes(model: ir.Model, *, check_type: bool = True) -> tuple[bool, bool]:
    """Infer in place: whether anything changed, and whether the numbers of lists were followed.

    Where inference fails, shapes stay unknown: whoever needs one says so with the node's name.
    """
    follows = follows_lists(model)
    with quiet("onnx_ir"):
        infer = common.ShapeInferencePass(check_type=check_type, strict_mode=False, data_prop=follows)
        return bool(infer(model).modified), follows


def follows_lists(model: ir.Model) -> bool:
    """Whether no list that Concat makes, or Range counts, can be too long."""
    lengths: dict[ir.Value, float] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        read = [_length(value, lengths) for value in node.inputs if value is not None]
        if node.op_type == "Concat":
            length = sum(read)
            if length > LONGEST_LIST and all(read):
                return False
        elif node.op_type == "Range" and _counted(node) > LONGEST_LIST:
            return False
        elif node.op_type == "Constant":
            # A scalar at least, which Unsqueeze makes a list.
            length = max([1, *map(_size, node.attributes.values())])
        elif node.op_type == "Shape":
            length = _MOST_DIMENSIONS
        else:
            length = math.inf if node.op_type in _GENERATORS else max(read, default=0)
        lengths.update(dict.fromkeys(node.outputs, length))
    return True


def _counted(node: ir.Node) -> float:
    """Elements of a Range, infinity where that is not known."""
    tensors = [None if value is None else ir.convenience.get_const_tensor(value) for value in node.inputs]
    numbers = [float(tensor.numpy().flat[0]) for tensor in tensors if tensor is not None and tensor.size == 1]
    if len(numbers) != 3 or not numbers[2]:
        return math.inf
    start, limit, step = numbers
    return (limit - start) / step


def _size(attribute: ir.Attr) -> int:
    """Elements of a Constant's list; 0 of what is none."""
    if attribute.is_ref():
        return 0
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return tensor.size if len(tensor.shape) <= 1 else 0
    return len(attribute.value) if isinstance(attribute.value, list | tuple) else 0


def _length(value: ir.Value, lengths: Mapping[ir.Value, float]) -> float:
    """Elements of a list at most, infinity where they may be any number; 0 of what is none."""
    shape = value.shape if value.const_value is None else value.const_value.shape
    if shape is None:
        return lengths.get(value, 0)
    if len(shape) > 1:
        return 0
    return math.prod(dim if isinstance(dim, int) else 1 for dim in shape)
