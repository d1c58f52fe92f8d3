"""What a node says, its attributes and its constant inputs, read with types; and constants, written.

A reader returns the value with the ONNX default filled in, and raises ModelError with the node's name where the file
says something that can't be used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qpipe.errors import ModelError

if TYPE_CHECKING:
    import onnx

AnyArray = npt.NDArray[Any]

DOMAIN: Final = "qpipe"
"""Of the functions that our files have in the place of quantizers which are not affine."""
_GRAPHS: Final = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})
MICROSOFT: Final = "com.microsoft"
"""The domain of onnxruntime's own operators."""
MACHINE_LEARNING: Final = "ai.onnx.ml"
"""The domain of what is no network: trees, text, linear models."""
STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx"})
_NAMED_NODES: Final = 4
_NAME_LENGTH: Final = 100
"""Characters of a graph's name that messages repeat."""


def describe(node: ir.Node) -> str:
    """The node as messages name it, such as ``Conv 'layer1/conv'``; by its first output where it has no name."""
    name = node.name or (node.outputs[0].name if node.outputs else "") or "without a name"
    return f"{node.op_type} '{name}'"


def describe_some(nodes: Sequence[ir.Node]) -> str:
    """The first few as `describe` has them, and how many more there are."""
    more = f" and {len(nodes) - _NAMED_NODES} more" if len(nodes) > _NAMED_NODES else ""
    return ", ".join(map(describe, nodes[:_NAMED_NODES])) + more


def name_in_memory(model: "ir.Model | onnx.ModelProto") -> str:
    """What messages call a model that is no file: by its graph's name."""
    return f"model '{(model.graph.name or 'without a name')[:_NAME_LENGTH]}'"


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """The integer attribute, or `default` where the node doesn't have it."""
    attribute = _attribute(node, name, ir.AttributeType.INT)
    return default if attribute is None else attribute.as_int()


def group_count(node: ir.Node) -> int:
    """The groups of a Conv; ModelError where its output channels are no multiple of them."""
    groups = int_attribute(node, "group", 1)
    shape = static_shape(node.inputs[1]) if len(node.inputs) > 1 else None
    channels = shape[0] if shape else None
    if groups < 1 or (channels is not None and channels % groups):
        raise ModelError(f"{describe(node)}: group is {groups}, expected a divisor of the {channels or ''} channels")
    return groups


def ints_attribute(node: ir.Node, name: str, default: Sequence[int]) -> tuple[int, ...]:
    """The list-of-integers attribute, or `default` where the node doesn't have it."""
    attribute = _attribute(node, name, ir.AttributeType.INTS)
    return tuple(default) if attribute is None else tuple(attribute.as_ints())


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """The float attribute, or `default` where the node doesn't have it."""
    attribute = _attribute(node, name, ir.AttributeType.FLOAT)
    return default if attribute is None else attribute.as_float()


def string_attribute(node: ir.Node, name: str, default: str) -> str:
    """The string attribute, or `default` where the node doesn't have it."""
    attribute = _attribute(node, name, ir.AttributeType.STRING)
    return default if attribute is None else attribute.as_string()


def constant_array(value: ir.Value | None) -> AnyArray | None:
    """The array behind an initializer or a Constant node; None for every other value, graph inputs included."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def input_value(node: ir.Node, index: int) -> ir.Value | None:
    """The input at `index`; None where it is left out, at the end or by an empty name."""
    return node.inputs[index] if index < len(node.inputs) else None


def constant_input(node: ir.Node, index: int) -> AnyArray | None:
    """The array of a constant input; None where the input is left out or is computed."""
    return constant_array(input_value(node, index))


def inner_graphs(node: ir.Node) -> list[ir.Graph]:
    """A node's branches and loop bodies; those within them are not among them."""
    return [
        graph
        for attribute in node.attributes.values()
        if attribute.type in _GRAPHS and not attribute.is_ref()
        for graph in (attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else [attribute.as_graph()])
    ]


def reads(node: ir.Node) -> list[ir.Value]:
    """What a node reads: its inputs, and what its branches and loop bodies take from outside of them."""
    graphs = inner_graphs(node)
    inner = {inside for graph in graphs for inside in (graph, *graph.subgraphs())}
    read = [
        *node.inputs,
        *(v for graph in graphs for n in ir.traversal.RecursiveGraphIterator(graph) for v in n.inputs),
    ]
    read += [value for graph in graphs for value in graph.outputs]
    return [value for value in read if value is not None and value.graph not in inner]


def require_input(node: ir.Node, index: int, what: str) -> ir.Value:
    """The input at `index`, called `what` in the message of the ModelError that a missing one raises."""
    value = input_value(node, index)
    if value is None:
        raise ModelError(f"{describe(node)}: input {index} ({what}) is missing")
    return value


def require_constant(node: ir.Node, index: int, what: str) -> AnyArray:
    """The array of the input at `index`; ModelError where it is missing or computed by the graph."""
    array = constant_array(require_input(node, index, what))
    if array is None:
        raise ModelError(
            f"{describe(node)}: its {what} '{node.inputs[index].name}' is computed by the graph, "  # type: ignore[union-attr]
            "expected a constant"
        )
    return array


def static_shape(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """The shape with None for every dimension that is not a fixed number; None where the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


def rank(value: ir.Value | None) -> int | None:
    """The number of dimensions, or None where it is unknown."""
    return None if value is None or value.shape is None else len(value.shape)


@dataclass(frozen=True, kw_only=True)
class Window:
    """The sliding window of a Conv or a pooling over D spatial dimensions.

    kernel, strides, dilations: D integers each. pads: the 2·D integers of ONNX, all begins, then all ends; explicit,
    because `auto_pad` must have been resolved (pass `explicit-padding`).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from the window's first to its last tap, per dimension: ``(kernel - 1) * dilation + 1``."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def padded(self, sizes: Sequence[int], *, ceil_mode: bool) -> tuple[int, ...]:
        """The pads with which rounding down gives as many windows on an image of these `sizes` as `ceil_mode` does.

        Rounding up adds a window that hangs over the end, unless it would begin behind the image.
        """
        dims = len(self.kernel)
        ends = list(self.pads[dims:])
        for i in range(dims if ceil_mode else 0):
            begin, extent, stride = self.pads[i], self.extent[i], self.strides[i]
            steps = -(-(sizes[i] + begin + ends[i] - extent) // stride)
            steps -= steps * stride >= sizes[i] + begin
            ends[i] = steps * stride + extent - sizes[i] - begin
        return (*self.pads[:dims], *ends)


def window(node: ir.Node) -> Window:
    """The window of a Conv, MaxPool or AveragePool; ModelError where it is inconsistent or `auto_pad` is unresolved."""
    auto_pad = string_attribute(node, "auto_pad", "NOTSET")
    if auto_pad != "NOTSET":
        raise ModelError(
            f"{describe(node)}: auto_pad is '{auto_pad}', expected explicit pads (they follow from a fixed image size, "
            "where no stride is over the kernel + 1)"
        )
    kernel = kernel_shape(node)
    ones = (1,) * len(kernel)
    found = Window(
        kernel=kernel,
        strides=ints_attribute(node, "strides", ones),
        dilations=ints_attribute(node, "dilations", ones),
        pads=ints_attribute(node, "pads", (0, 0) * len(kernel)),
    )
    for name, values, length in (
        ("strides", found.strides, len(kernel)),
        ("dilations", found.dilations, len(kernel)),
        ("pads", found.pads, 2 * len(kernel)),
    ):
        if len(values) != length:
            raise ModelError(f"{describe(node)}: {name} has {len(values)} values, expected {length}")
    return found


def kernel_shape(node: ir.Node) -> tuple[int, ...]:
    """The spatial kernel: the attribute, or where there is a weight, its shape after [C_out, C_in / groups]."""
    kernel = ints_attribute(node, "kernel_shape", ())
    if kernel:
        return kernel
    shape = static_shape(input_value(node, 1))
    if shape is None or len(shape) < 3 or None in shape[2:]:
        raise ModelError(f"{describe(node)}: the kernel's shape is unknown; expected the attribute kernel_shape")
    return tuple(dim for dim in shape[2:] if dim is not None)


def exponent_of(node: ir.Node, scale: float) -> int:
    """log2 of a power-of-two scale; ModelError that names the node for any other."""
    mantissa, exponent = math.frexp(scale)
    if mantissa != 0.5:
        raise ModelError(f"{describe(node)}: scale {scale:g}, expected a power of two")
    return exponent - 1


def initializer(graph: ir.Graph, name: str, array: AnyArray | np.generic | ir.TensorProtocol) -> ir.Value:
    """Register a constant under a name that is made unique."""
    unique, count = name, 0
    while unique in graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    tensor = ir.tensor(array, name=unique) if isinstance(array, np.ndarray | np.generic) else array
    shape, dtype = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
    value = ir.Value(name=unique, shape=shape, type=dtype, const_value=tensor)
    tensor.name = unique
    graph.register_initializer(value)
    return value


def replace_constant(value: ir.Value, array: AnyArray) -> None:
    """Give an initializer another tensor."""
    value.const_value = ir.tensor(np.array(array, order="C"), name=value.name)
    value.shape = ir.Shape(array.shape)


def set_constant_input(node: ir.Node, index: int, array: AnyArray) -> None:
    """Replace a node's constant; where others read it too (exporters share equal ones), by one of its own."""
    value = input_value(node, index)
    assert value is not None
    if (len(value.uses()) > 1 or value.is_graph_output()) and isinstance(node.graph, ir.Graph):
        node.replace_input_with(index, initializer(node.graph, f"{node.name}_{value.name}", np.array(array)))
    else:
        replace_constant(value, array)


def name_value(value: ir.Value, name: str, dtype: ir.TypeProtocol, shape: ir.Shape | None) -> None:
    """Say of a new value what it is called and what it holds."""
    value.name, value.type = name, dtype
    value.shape = None if shape is None else shape.copy()


def _attribute(node: ir.Node, name: str, expected: ir.AttributeType) -> ir.Attr | None:
    attribute = node.attributes.get(name)
    if attribute is None:
        return None
    if attribute.is_ref() or attribute.type != expected:
        found = "a reference" if attribute.is_ref() else attribute.type.name
        raise ModelError(f"{describe(node)}: attribute {name} is {found}, expected {expected.name}")
    return attribute
