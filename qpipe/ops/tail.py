"""The float tail of a graph, from the last layers to an output, in torch: a table from ONNX's ops to functions.

Training goes through it, so that the loss is on what the network gives. Exact evaluation leaves it to onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import onnx_ir as ir

from qpipe.errors import ModelError
from qpipe.nodes import STANDARD_DOMAINS, constant_array, describe, float_attribute, int_attribute, string_attribute
from qpipe.ops import OPS, op_of
from qpipe.ops.base import Role
from qpipe.ops.conv import Conv
from qpipe.ops.float_functions import (
    batch_norm,
    celu,
    elu,
    gelu,
    group_norm,
    instance_norm,
    layer_norm,
    leaky_relu,
    lp_norm,
    selu,
    softplus,
    vector_length,
)
from qpipe.ops.recurrent import recurrent_function

if TYPE_CHECKING:
    import torch

TailFunction = Callable[..., "torch.Tensor | tuple[torch.Tensor, ...]"]
"""`(node, *inputs)`: a tensor for each input of the node, constants too; None for one that is left out."""


def tail_function(node: ir.Node) -> TailFunction | None:
    """What a node of a tail computes; None where torch knows no differentiable form of it."""
    if node.domain in STANDARD_DOMAINS and (known := _TAIL.get(node.op_type) or recurrent_function(node)) is not None:
        return known
    op = op_of(node)
    if isinstance(op, Conv):
        forward = op.torch(node).forward
        return lambda _, *inputs: forward(*inputs)
    if node.op_type not in OPS or op.role is Role.COMPUTE or not _arguments_are_constant(node):
        return None
    count = len(op.operands(node))
    run = op.torch(node)
    return lambda _, *inputs: run(*inputs[:count])


def tail_parameters(node: ir.Node) -> tuple[int, ...]:
    """Which inputs of a float node are weights of its own, which train where they are constants."""
    return _PARAMETERS.get(node.op_type, ()) if node.domain in STANDARD_DOMAINS else ()


def _arguments_are_constant(node: ir.Node) -> bool:
    operands = op_of(node).operands(node)
    return all(value is None or value in operands or constant_array(value) is not None for value in node.inputs)


def _ints(values: torch.Tensor) -> list[int]:
    return [int(value) for value in values.reshape(-1).tolist()]


def _axes(node: ir.Node, x: torch.Tensor, axes: torch.Tensor | None) -> list[int]:
    """Of a reduction: all where none are given, unless it is told to do nothing then."""
    if axes is not None and axes.numel():
        return _ints(axes)
    return [] if int_attribute(node, "noop_with_empty_axes", 0) else list(range(x.ndim))


def _reduction(reduce: Callable[[Any, list[int], bool], torch.Tensor]) -> TailFunction:
    def run(node: ir.Node, x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
        found = _axes(node, x, axes)
        return reduce(x, found, bool(int_attribute(node, "keepdims", 1))) if found else x

    return run


def _elementwise(function: Callable[[Any], torch.Tensor]) -> TailFunction:
    return lambda _, x: function(x)


def _pairwise(function: Callable[[Any, Any], torch.Tensor]) -> TailFunction:
    """Of any number of inputs, from the left."""

    def run(_: ir.Node, first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        for other in others:
            first = function(first, other)
        return first

    return run


def _divided(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x / y if x.is_floating_point() else x.div(y, rounding_mode="trunc")


def _mean(_: ir.Node, *inputs: torch.Tensor) -> torch.Tensor:
    return sum(inputs[1:], start=inputs[0]) / len(inputs)


def _clip(_: ir.Node, x: torch.Tensor, low: Any = None, high: Any = None) -> torch.Tensor:
    # A bound may come as a tensor of one number.
    bounds = [None if bound is None else bound.reshape(()) for bound in (low, high)]
    return x if bounds == [None, None] else x.clamp(*bounds)


def _gather(node: ir.Node, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    axis = int_attribute(node, "axis", 0) % max(x.ndim, 1)
    chosen = x.index_select(axis, indices.reshape(-1).long() % x.shape[axis])
    gathered: torch.Tensor = chosen.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return gathered


def _split(node: ir.Node, x: torch.Tensor, sizes: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    axis = int_attribute(node, "axis", 0)
    lengths = -(-x.shape[axis] // len(node.outputs)) if sizes is None else _ints(sizes)
    parts: tuple[torch.Tensor, ...] = x.split(lengths, axis)  # type: ignore[no-untyped-call]
    return parts


def _reshape(node: ir.Node, x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    if constant_array(node.inputs[1]) is not None:
        # The op knows how a file with a fixed batch means it.
        return OPS[node.op_type].torch(node)(x)
    keeps_zero = bool(int_attribute(node, "allowzero", 0))
    return x.reshape([x.shape[i] if not size and not keeps_zero else size for i, size in enumerate(_ints(shape))])


def _squeeze(_: ir.Node, x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
    return x.squeeze() if axes is None else x.squeeze(_ints(axes))


def _unsqueeze(_: ir.Node, x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    found = _ints(axes)
    for axis in sorted(a + x.ndim + len(found) if a < 0 else a for a in found):
        x = x.unsqueeze(axis)
    return x


def _concat(node: ir.Node, *inputs: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat(inputs, int_attribute(node, "axis", 0))


def _expand(_: ir.Node, x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    import torch

    sizes = torch.broadcast_shapes(x.shape, _ints(shape))  # type: ignore[no-untyped-call]
    return x.expand(sizes)


def _filled(node: ir.Node, shape: torch.Tensor) -> torch.Tensor:
    import torch

    attribute = node.attributes.get("value")
    return torch.full(_ints(shape), 0.0 if attribute is None else attribute.as_tensor().numpy().item())


def _shape_of(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    import torch

    part = slice(int_attribute(node, "start", 0), int_attribute(node, "end", x.ndim))
    return torch.tensor(x.shape[part], dtype=torch.int64)


def _cast(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    import torch

    kinds = {ir.DataType.FLOAT: torch.float32, ir.DataType.DOUBLE: torch.float64, ir.DataType.FLOAT16: torch.float16,
             ir.DataType.BFLOAT16: torch.bfloat16, ir.DataType.BOOL: torch.bool}  # fmt: skip
    return x.to(kinds.get(ir.DataType(int_attribute(node, "to", 1)), torch.int64))


def _gemm(node: ir.Node, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
    a = a.mT if int_attribute(node, "transA", 0) else a
    b = b.mT if int_attribute(node, "transB", 0) else b
    product = float_attribute(node, "alpha", 1.0) * (a @ b)
    return product if c is None else product + float_attribute(node, "beta", 1.0) * c


def _resize(
    node: ir.Node, x: torch.Tensor, _: Any = None, scales: torch.Tensor | None = None, sizes: torch.Tensor | None = None
) -> torch.Tensor:
    """Of images, as torch has it: bilinear, bicubic, or to the nearest pixel by whole factors."""
    from torch.nn.functional import interpolate

    mode = string_attribute(node, "mode", "nearest")
    places = string_attribute(node, "coordinate_transformation_mode", "half_pixel")
    if sizes is not None and sizes.numel():
        size = _ints(sizes)[-2:]
    else:
        size = [math.floor(side * scale) for side, scale in zip(x.shape[2:], scales.tolist()[-2:], strict=True)]  # type: ignore[union-attr]
    is_whole = all(new % old == 0 for new, old in zip(size, x.shape[2:], strict=True))
    kind = {"linear": "bilinear", "cubic": "bicubic"}.get(mode)
    if x.ndim == 4 and kind and _is_usual(node) and places in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return interpolate(x, size, mode=kind, align_corners=places == "align_corners")
    if x.ndim == 4 and mode == "nearest" and is_whole and places in ("half_pixel", "asymmetric"):
        return interpolate(x, size, mode="nearest")
    raise ModelError(f"{describe(node)}: {mode} by {places}, and torch has no such resizing of {list(x.shape)}")


def _is_usual(node: ir.Node) -> bool:
    """Whether a Resize weighs its pixels as torch does: of cubic ones by -3/4, at borders by the last pixel."""
    odd = int_attribute(node, "antialias", 0) or int_attribute(node, "exclude_outside", 0)
    return not odd and float_attribute(node, "cubic_coeff_a", -0.75) == -0.75


_NORMS: Final = ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization")
_PARAMETERS: Final[dict[str, tuple[int, ...]]] = {
    "Gather": (0,),
    **dict.fromkeys(("PRelu", "MatMul"), (1,)),
    **dict.fromkeys(("Conv", "Gemm", *_NORMS), (1, 2)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2, 3)),
}
_TAIL: Final[dict[str, TailFunction]] = {
    "Identity": _elementwise(lambda x: x),
    "Dropout": lambda _, x, *__: x,
    "Neg": _elementwise(lambda x: -x),
    "Abs": _elementwise(lambda x: x.abs()),
    "Exp": _elementwise(lambda x: x.exp()),
    "Log": _elementwise(lambda x: x.log()),
    "Sqrt": _elementwise(lambda x: x.sqrt()),
    "Reciprocal": _elementwise(lambda x: x.reciprocal()),
    "Erf": _elementwise(lambda x: x.erf()),
    "Sin": _elementwise(lambda x: x.sin()),
    "Cos": _elementwise(lambda x: x.cos()),
    "Relu": _elementwise(lambda x: x.relu()),
    "Sigmoid": _elementwise(lambda x: x.sigmoid()),
    "Tanh": _elementwise(lambda x: x.tanh()),
    "Softplus": softplus,
    "LeakyRelu": leaky_relu,
    "Elu": elu,
    "PRelu": lambda _, x, slope: x.where(x >= 0, x * slope),
    "Softmax": lambda node, x: x.softmax(int_attribute(node, "axis", -1)),
    "LogSoftmax": lambda node, x: x.log_softmax(int_attribute(node, "axis", -1)),
    "Clip": _clip,
    "LpNormalization": lp_norm,
    "LayerNormalization": layer_norm,
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "Gelu": gelu,
    "Selu": selu,
    "Celu": celu,
    "Mish": lambda _, x: x * softplus(_, x).tanh(),
    "Softsign": _elementwise(lambda x: x / (1 + x.abs())),
    "Add": _pairwise(lambda x, y: x + y),
    "Sub": _pairwise(lambda x, y: x - y),
    "Mul": _pairwise(lambda x, y: x * y),
    "Div": _pairwise(_divided),
    "Pow": _pairwise(lambda x, y: x.pow(y)),
    "Sum": _pairwise(lambda x, y: x + y),
    "Max": _pairwise(lambda x, y: x.maximum(y)),
    "Min": _pairwise(lambda x, y: x.minimum(y)),
    "Mean": _mean,
    "MatMul": _pairwise(lambda x, y: x @ y),
    "Gemm": _gemm,
    # What only chooses has no gradient of its own.
    "Greater": _pairwise(lambda x, y: x > y),
    "GreaterOrEqual": _pairwise(lambda x, y: x >= y),
    "Less": _pairwise(lambda x, y: x < y),
    "LessOrEqual": _pairwise(lambda x, y: x <= y),
    "Equal": _pairwise(lambda x, y: x == y),
    "And": _pairwise(lambda x, y: x & y),
    "Or": _pairwise(lambda x, y: x | y),
    "Xor": _pairwise(lambda x, y: x ^ y),
    "Not": _elementwise(lambda x: ~x),
    "Where": lambda _, condition, x, y: x.where(condition, y),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: vector_length(x, axes, keepdim=keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: (x * x).sum(axes, keep)),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: x.logsumexp(axes, keep)),
    "GlobalAveragePool": _elementwise(lambda x: x.mean(list(range(2, x.ndim)), True)),
    "GlobalMaxPool": _elementwise(lambda x: x.amax(list(range(2, x.ndim)), True)),
    "Gather": _gather,
    "Split": _split,
    "Reshape": _reshape,
    "Flatten": lambda node, x: x.reshape(math.prod(x.shape[: int_attribute(node, "axis", 1) % (x.ndim + 1)]), -1),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Expand": _expand,
    "ConstantOfShape": _filled,
    "Shape": _shape_of,
    "Cast": _cast,
    "Resize": _resize,
}
