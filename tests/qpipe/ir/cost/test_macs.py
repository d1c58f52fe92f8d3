import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from qpipe.ir.cost.macs import count_macs, count_parameters, total_macs
from qpipe.ir.files.load import load_model
from support.zoo.linear import build_model


def network(node: onnx.NodeProto, shape: list[int | str], **constants: np.ndarray) -> ir.Graph:
    arrays = {name: np.asarray(array, np.float32) for name, array in constants.items()}
    return load_model(build_model([node], {"x": (np.float32, shape)}, {"y": np.float32}, arrays)).graph


@pytest.mark.parametrize(
    ("node", "shape", "weight", "macs"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"]), ["N", 3, 8, 8], (5, 3, 3, 3), 5 * 6 * 6 * 27),
        (helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2]), [7, 3, 9, 9], (5, 3, 3, 3), 5 * 4 * 4 * 27),
        (helper.make_node("Conv", ["x", "w"], ["y"], group=4), ["N", 4, 8, 8], (4, 1, 3, 3), 4 * 6 * 6 * 9),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), ["N", 6], (6, 4), 24),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), ["N", 6], (4, 6), 24),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), ["N", 5, 6], (6, 4), 5 * 24),
        (helper.make_node("Mul", ["x", "w"], ["y"]), ["N", 6], (6,), 0),
    ],
    ids=["conv", "strided", "depthwise", "gemm", "transposed", "matmul", "elementwise"],
)
def test_macs_are_those_of_one_image(
    node: onnx.NodeProto, shape: list[int | str], weight: tuple[int, ...], macs: int
) -> None:
    graph = network(node, shape, w=np.ones(weight))
    assert count_macs(graph[0]) == macs
    assert total_macs(graph) == macs


def test_an_unknown_shape_makes_the_total_unknown() -> None:
    graph = network(helper.make_node("Gemm", ["x", "w"], ["y"]), ["N", 6], w=np.ones((6, 4)))
    graph[0].outputs[0].shape = None
    assert count_macs(graph[0]) is None
    assert total_macs(graph) is None


def test_parameters_are_weights_and_biases_and_each_constant_counts_once() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["a"]),
        helper.make_node("Gemm", ["a", "w", "b"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "b", "b2", "mean", "variance"], ["y"]),
    ]
    constants = {"w": np.ones((4, 4), np.float32)} | {
        name: np.ones(4, np.float32) for name in ("b", "b2", "mean", "variance")
    }
    model = build_model(nodes, {"x": (np.float32, ["N", 4])}, {"y": np.float32}, constants)
    assert count_parameters(load_model(model).graph) == 16 + 4 + 4


def test_quantizers_in_front_of_a_weight_are_no_parameters() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("MatMul", ["x", "dq"], ["y"]),
    ]
    constants = {"w": np.ones((4, 2), np.float32), "scale": np.float32(0.5), "zero": np.int8(0)}
    model = build_model(nodes, {"x": (np.float32, ["N", 4])}, {"y": np.float32}, constants)
    graph = load_model(model).graph
    assert (count_parameters(graph), total_macs(graph)) == (8, 8)
