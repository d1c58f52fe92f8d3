"""A network as Keras writes it through tf2onnx: the same function in other nodes.

Images come in as [N, H, W, C] and are transposed; BatchNormalization is a Mul and an Add of constants; a dense layer is
MatMul and Add; a global average is a ReduceMean over both axes and a Squeeze; a hard-swish is spelled out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


def as_keras(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in that spelling; the model's opset is 13 to 17 and its batch norms are nodes still."""
    network = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    writer = _Writer(network.graph)
    for node in list(network.graph):
        spell = SPELLINGS.get(node.op_type)
        if spell is not None:
            spell(writer, node)
    for value in list(network.graph.inputs):
        if value.shape is not None and len(value.shape) == 4:
            _channels_last(writer, value)
    common.RemoveUnusedNodesPass()(network)
    common.NameFixPass()(network)
    return ir.to_proto(network)


@dataclass
class _Writer:
    graph: ir.Graph
    count: int = 0

    def constant(self, array: np.ndarray[Any, Any]) -> ir.Value:
        self.count += 1
        value = ir.Value(name=f"keras_const_{self.count}", const_value=ir.tensor(array))
        value.const_value.name = value.name
        value.type, value.shape = ir.TensorType(value.const_value.dtype), value.const_value.shape
        self.graph.initializers[value.name] = value
        return value

    def chain(self, node: ir.Node, *steps: tuple[str, list[Any], dict[str, Any]]) -> None:
        """Put nodes in the place of `node`, each reading the one before it where its operands say None."""
        value = node.inputs[0]
        for index, (op_type, operands, attributes) in enumerate(steps):
            inputs = [value if operand is None else self.operand(operand) for operand in operands]
            new = ir.node(op_type, inputs, attributes, name=f"{node.name}/{op_type}_{index}")
            self.graph.insert_before(node, new)
            value = new.outputs[0]
        self.replace(node.outputs[0], value)
        self.graph.remove(node, safe=True)

    def operand(self, operand: ir.Value | np.ndarray[Any, Any]) -> ir.Value:
        return operand if isinstance(operand, ir.Value) else self.constant(operand)

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        new.type, new.shape = old.type, old.shape
        name = old.name
        for user, index in tuple(old.uses()):
            user.replace_input_with(index, new)
        for index, output in enumerate(self.graph.outputs):
            if output is old:
                self.graph.outputs[index] = new
                old.name, new.name = f"{name}_old", name


def _array(value: ir.Value | None) -> FloatArray:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _batch_norm(writer: _Writer, node: ir.Node) -> None:
    gamma, beta, mean, variance = map(_array, node.inputs[1:5])
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    factor = gamma / np.sqrt(variance + np.float32(epsilon))
    rank = len(node.inputs[0].shape)
    shape = (1, -1, *[1] * (rank - 2)) if rank > 2 else (-1,)
    offset = (beta - mean * factor).reshape(shape).astype(np.float32)
    writer.chain(node, ("Mul", [None, factor.reshape(shape).astype(np.float32)], {}), ("Add", [None, offset], {}))


def _gemm(writer: _Writer, node: ir.Node) -> None:
    weight = _array(node.inputs[1])
    weight = weight.T.copy() if node.attributes.get_int("transB", 0) else weight
    bias = [("Add", [None, _array(node.inputs[2])], {})] if len(node.inputs) > 2 else []
    writer.chain(node, ("MatMul", [None, weight], {}), *bias)


def _global_mean(writer: _Writer, node: ir.Node) -> None:
    """A Flatten behind it becomes a Squeeze."""
    rank = len(node.inputs[0].shape)
    axes = list(range(2, rank))
    for user, _ in tuple(node.outputs[0].uses()):
        if user.op_type == "Flatten":
            writer.chain(user, ("Squeeze", [None, np.array(axes, np.int64)], {}))
    writer.chain(node, ("ReduceMean", [None], {"axes": axes, "keepdims": 1}))


def _hard_swish(writer: _Writer, node: ir.Node) -> None:
    x = node.inputs[0]
    bounds = [np.float32(0), np.float32(6)]
    writer.chain(
        node,
        ("Add", [None, np.float32(3)], {}),
        ("Clip", [None, *bounds], {}),
        ("Mul", [None, x], {}),
        ("Mul", [None, np.float32(1 / 6)], {}),
    )


def _channels_last(writer: _Writer, value: ir.Value) -> None:
    """The graph's input becomes [N, H, W, C], and a Transpose gives what was read."""
    N, C, H, W = value.shape
    uses = tuple(value.uses())
    value.shape = ir.Shape([N, H, W, C])
    transpose = ir.node("Transpose", [value], {"perm": [0, 3, 1, 2]}, name=f"{value.name}/Transpose")
    writer.graph.insert_before(writer.graph[0], transpose)
    for user, index in uses:
        user.replace_input_with(index, transpose.outputs[0])


SPELLINGS: dict[str, Callable[[_Writer, ir.Node], None]] = {
    "BatchNormalization": _batch_norm,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_mean,
    "HardSwish": _hard_swish,
}
