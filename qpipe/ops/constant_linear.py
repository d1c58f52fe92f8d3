"""What Conv, ConvTranspose, Gemm and MatMul of constants have in common: a linear map of channels, and a bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from qpipe.arith.namespace import Float64Array
from qpipe.nodes import (
    AnyArray,
    constant_input,
    float_attribute,
    group_count,
    initializer,
    input_value,
    int_attribute,
    ints_attribute,
    rank,
    require_constant,
    set_constant_input,
    string_attribute,
)
from qpipe.ops.constant_affine import LARGEST_FLOAT32

_IMAGES: Final = frozenset({"Conv", "ConvTranspose"})
_MATRICES: Final = frozenset({"Gemm", "MatMul"})


@dataclass(frozen=True)
class ConstantLinear:
    """`y[o] = sum over i, taps of weight[o, i, tap] x[i] + bias[o]`.

    weight: float64 `[G, O / G, I / G, taps]`. bias: float64 `[O]`, None where there is none. axis: that of the channels
    of the operand and of the result.
    """

    node: ir.Node
    weight: Float64Array
    bias: Float64Array | None
    axis: int

    @property
    def inputs(self) -> int:
        """Channels that enter."""
        return int(self.weight.shape[0] * self.weight.shape[2])

    @property
    def outputs(self) -> int:
        """Channels that leave."""
        return int(self.weight.shape[0] * self.weight.shape[1])

    @property
    def sees_all(self) -> bool:
        """Whether each of its sums has all taps on its operand, none on padding."""
        if self.node.op_type in _MATRICES:
            return True
        fits = string_attribute(self.node, "auto_pad", "NOTSET") in {"NOTSET", "VALID"}
        return self.node.op_type == "Conv" and fits and not any(ints_attribute(self.node, "pads", ()))

    def scale_outputs(self, factor: Float64Array) -> Float64Array:
        """The weight that gives `factor` `[O]` times the sums."""
        return self.weight * factor.reshape(*self.weight.shape[:2], 1, 1)

    def scale_inputs(self, factor: Float64Array) -> Float64Array:
        """The weight that gives of x what this one gives of `factor` `[I]` times x."""
        return self.weight * factor.reshape(len(self.weight), 1, -1, 1)

    def sums_of(self, offset: Float64Array) -> Float64Array:
        """What one number for each channel that enters, `[I]`, gives: `[O]`."""
        sums: Float64Array = self.scale_inputs(offset).sum(axis=(2, 3)).reshape(-1)
        return sums

    def takes_bias(self) -> bool:
        """Whether the node holds one, or a node that does can take its place: a MatMul's is of matrices only."""
        return self.node.op_type != "MatMul" or rank(self.node.inputs[0]) == 2

    def can_store(self, weight: Float64Array, bias: Float64Array | None) -> bool:
        """Whether float32 has such numbers."""
        return all(array is None or np.abs(array).max(initial=0) <= LARGEST_FLOAT32 for array in (weight, bias))

    def store(self, graph: ir.Graph, weight: Float64Array, bias: Float64Array | None) -> None:
        """Give the node these, rounded to float32; others that read the old ones keep them."""
        if weight is not self.weight:
            shape = require_constant(self.node, 1, "weight").shape
            set_constant_input(self.node, 1, _as_stored(self.node, weight, shape).astype(np.float32))
        if bias is not None and bias is not self.bias:
            value = initializer(graph, f"{self.node.name or self.node.outputs[0].name}_bias", bias.astype(np.float32))
            if self.node.op_type == "MatMul":
                self.node.op_type = "Gemm"
            self.node.resize_inputs(3)
            self.node.replace_input_with(2, value)


def constant_linear(node: ir.Node) -> ConstantLinear | None:
    """The map of a node with a constant tensor of weights, and a constant bias or none; None of any other node."""
    if node.op_type not in _IMAGES | _MATRICES or node.domain != "":
        return None
    weight, bias = constant_input(node, 1), constant_input(node, 2)
    if weight is None or weight.dtype != np.float32 or constant_input(node, 0) is not None:
        return None
    if (bias is None) is not (input_value(node, 2) is None) or not weight.size:
        return None
    if node.op_type in _MATRICES and weight.ndim != 2:
        return None
    is_plain = all(float_attribute(node, name, 1.0) == 1 for name in ("alpha", "beta"))
    if node.op_type == "Gemm" and (not is_plain or int_attribute(node, "transA", 0)):
        return None
    channels = _as_channels(node, weight.astype(np.float64))
    outputs = channels.shape[0] * channels.shape[1]
    offset = None
    if bias is not None:
        if bias.size not in {1, outputs} or (bias.ndim and bias.shape[-1] != bias.size):
            return None
        offset = np.broadcast_to(bias.astype(np.float64).reshape(-1), (outputs,))
    return ConstantLinear(node, channels, offset, axis=-1 if node.op_type in _MATRICES else 1)


def _as_channels(node: ir.Node, weight: Float64Array) -> Float64Array:
    """The weight as `[G, O / G, I / G, taps]`."""
    if node.op_type in _MATRICES:
        rows = weight if int_attribute(node, "transB", 0) else weight.T
        return rows[None, :, :, None]
    groups = int_attribute(node, "group", 1) if node.op_type == "ConvTranspose" else group_count(node)
    taps = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return taps.swapaxes(1, 2) if node.op_type == "ConvTranspose" else taps


def _as_stored(node: ir.Node, channels: Float64Array, shape: tuple[int, ...]) -> AnyArray:
    """The inverse of `_as_channels`."""
    if node.op_type in _MATRICES:
        rows = channels[0, :, :, 0]
        return rows if int_attribute(node, "transB", 0) else rows.T
    stored = channels.swapaxes(1, 2) if node.op_type == "ConvTranspose" else channels
    return stored.reshape(shape)
