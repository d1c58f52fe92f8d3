from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.ir.cost.macs import count_macs, count_parameters, total_macs
from qpipe.ir.files.load import load_model
from support.networks import parse


def network(node: str, shape: str, **constants: Any) -> ir.Graph:
    return load_model(parse(f"(float[{shape}] x) => (float[] y) {{ {node} }}", **constants)).graph


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("node", "shape", "weight", "macs"),
    [
        ("y = Conv(x, w)", "N,3,8,8", (5, 3, 3, 3), 5 * 6 * 6 * 27),
        ("y = Conv<strides=[2,2]>(x, w)", "7,3,9,9", (5, 3, 3, 3), 5 * 4 * 4 * 27),
        ("y = Conv<group=4>(x, w)", "N,4,8,8", (4, 1, 3, 3), 4 * 6 * 6 * 9),
        ("y = Gemm(x, w)", "N,6", (6, 4), 24),
        ("y = Gemm<transB=1>(x, w)", "N,6", (4, 6), 24),
        ("y = MatMul(x, w)", "N,5,6", (6, 4), 5 * 24),
        ("y = Mul(x, w)", "N,6", (6,), 0),
    ],
    ids=["conv", "strided", "depthwise", "gemm", "transposed", "matmul", "elementwise"],
)
def test_macs_are_those_of_one_image(node: str, shape: str, weight: tuple[int, ...], macs: int) -> None:
    graph = network(node, shape, w=ones(*weight))
    assert count_macs(graph[0]) == macs
    assert total_macs(graph) == macs


def test_an_unknown_shape_makes_the_total_unknown() -> None:
    graph = network("y = Gemm(x, w)", "N,6", w=ones(6, 4))
    graph[0].outputs[0].shape = None
    assert count_macs(graph[0]) is None
    assert total_macs(graph) is None


def test_a_computed_weight_of_one_dimension_makes_it_unknown() -> None:
    graph = network("v = GlobalMaxPool(w) y = Gemm(x, v)", "N,6", w=ones(6, 4))
    graph[0].outputs[0].shape = ir.Shape([6])
    graph[1].outputs[0].shape = ir.Shape(["N", 4])
    assert count_macs(graph[1]) is None


def test_parameters_are_weights_and_biases_and_each_constant_counts_once() -> None:
    nodes = "a = Gemm(x, w, b) c = Gemm(a, w, b) y = BatchNormalization(c, b, b2, mean, variance)"
    vectors = dict.fromkeys(("b", "b2", "mean", "variance"), ones(4))
    assert count_parameters(network(nodes, "N,4", w=ones(4, 4), **vectors)) == 16 + 4 + 4


def test_quantizers_in_front_of_a_weight_are_no_parameters() -> None:
    nodes = "q = QuantizeLinear(w, scale, zero) dq = DequantizeLinear(q, scale, zero) y = MatMul(x, dq)"
    graph = network(nodes, "N,4", w=ones(4, 2), scale=np.float32(0.5), zero=np.int8(0))
    assert (count_parameters(graph), total_macs(graph)) == (8, 8)
