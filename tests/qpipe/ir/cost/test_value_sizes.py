from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from qpipe.ir.cost.value_sizes import value_sizes
from qpipe.runtime.session import open_session
from support.zoo.linear import MICROSOFT, build_model

GRID = ["scale", "zero"]
SHAPE = (2, 4, 6, 6)


def microsoft(op_type: str, inputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, ["y"], domain=MICROSOFT, **attributes)


@pytest.mark.parametrize(
    "node",
    [
        microsoft("QLinearAdd", ["x", *GRID, "other", *GRID, *GRID]),
        microsoft("QLinearMul", ["x", *GRID, "other", *GRID, *GRID]),
        microsoft("QLinearConcat", [*GRID, "x", *GRID, "x", *GRID, "x", *GRID], axis=1),
        microsoft("QLinearAveragePool", ["x", *GRID, *GRID], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        microsoft("QLinearGlobalAveragePool", ["x", *GRID, *GRID]),
        microsoft("QLinearLeakyRelu", ["x", *GRID, *GRID], alpha=0.1),
        microsoft("QLinearSigmoid", ["x", *GRID, *GRID]),
        microsoft("QLinearSoftmax", ["x", *GRID, *GRID], axis=1, opset=21),
        helper.make_node("QLinearMatMul", ["x", *GRID, "square", *GRID, *GRID], ["y"]),
        helper.make_node("QLinearConv", ["x", *GRID, "kernel", *GRID, *GRID], ["y"], strides=[2, 2]),
    ],
    ids=lambda node: node.op_type,
)
def test_integer_operators_have_the_sizes_that_onnxruntime_gives_them(node: onnx.NodeProto) -> None:
    constants = {
        "scale": np.float32(0.5),
        "zero": np.uint8(3),
        "other": np.ones((4, 1, 1), np.uint8),
        "square": np.ones((6, 5), np.uint8),
        "kernel": np.ones((7, 4, 3, 3), np.uint8),
    }
    # A node behind it, which has a size only where the operator's own is known.
    nodes = [node, helper.make_node("Flatten", ["y"], ["z"])]
    model = build_model(nodes, {"x": (np.uint8, ["N", *SHAPE[1:]])}, {"y": np.uint8, "z": np.uint8}, constants)
    arrays = open_session(model).run(None, {"x": np.ones(SHAPE, np.uint8)})
    sizes = value_sizes(ir.from_proto(model), SHAPE[0])
    assert [sizes[name] for name in ("x", "y", "z")] == [np.prod(SHAPE), *(array.nbytes for array in arrays)]


def test_qgemm() -> None:
    constants = {"scale": np.float32(0.5), "zero": np.uint8(3), "w": np.ones((5, 4), np.uint8)}
    node = microsoft("QGemm", ["x", *GRID, "w", *GRID, "", *GRID], transB=1)
    model = build_model([node], {"x": (np.uint8, ["N", 4])}, {"y": np.uint8}, constants)
    assert value_sizes(ir.from_proto(model), 3) == {"x": 12, "y": 15}


def test_what_is_unknown_is_left_out() -> None:
    nodes = [
        helper.make_node("Mystery", ["x"], ["a"], domain=MICROSOFT),
        helper.make_node("Relu", ["a"], ["b"]),
        microsoft("QLinearGlobalAveragePool", ["x", *GRID, *GRID], channels_last=1),
    ]
    constants = {"scale": np.float32(0.5), "zero": np.uint8(3)}
    model = build_model(nodes, {"x": (np.uint8, [2, 4, 6, 6])}, {"y": np.uint8, "b": np.uint8}, constants)
    assert value_sizes(ir.from_proto(model)) == {"x": 288}


def test_four_bits_are_half_a_byte_and_half_of_one_is_one() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.UINT4)]
    model = build_model(nodes, {"x": (np.uint8, ["N", 3])}, {"y": np.uint8}, {})
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.UINT4
    assert value_sizes(ir.from_proto(model), 1) == {"x": 3, "y": 2}


def test_a_batch_stands_in_the_shapes_that_the_file_tells() -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["y"], domain=MICROSOFT)]
    model = build_model(nodes, {"x": (np.float32, ["N", 3])}, {"y": np.float32}, {})
    shape = model.graph.output[0].type.tensor_type.shape
    shape.dim.add().dim_param = "N"
    shape.dim.add().dim_value = 7
    assert value_sizes(ir.from_proto(model), 5) == {"x": 60, "y": 140}
    shape.dim[0].dim_param = "M"
    assert value_sizes(ir.from_proto(model), 5) == {"x": 60}
