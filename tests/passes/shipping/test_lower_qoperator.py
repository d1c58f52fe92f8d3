"""The qoperator lowering against the QDQ specification, op by op: every integer, on random and extreme inputs."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.shipping.lower_qoperator import LowerQOperator
from passes.shipping.weights_to_uint8 import WeightsToUint8
from qpipe.arith.spec import QuantSpec
from qpipe.errors import LoweringError
from qpipe.ir.quantized.qdq import insert_activation_quantizer
from qpipe.ir.quantized.view import read_view
from qpipe.runtime.gate import run_gate
from support.networks import Weights, float_model
from support.quantize import finalized, quantized, to_qoperator
from support.zoo.residual import residual_network


def ops(model: ir.Model) -> Counter:
    return Counter(node.op_type for node in model.graph)


def check(nodes, shape, weights, **options) -> ir.Model:
    """Quantize, finalize, lower, and compare every integer; the lowered model."""
    spec = finalized(quantized(float_model("net", shape, nodes, **weights.constants), **options))
    model = to_qoperator(spec)
    report = run_gate(spec, model)
    assert report.integers > 0
    ir.passes.common.CheckerPass()(model)
    return model


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("weights", ["int8", "uint8"])
def test_residual_network(bits, weights):
    spec = finalized(quantized(residual_network(), bits=bits))
    model = to_qoperator(spec, weights=weights)
    run_gate(spec, model)
    found = ops(model)
    assert (found["QLinearConv"], found["QLinearAdd"], found["QLinearGlobalAveragePool"]) == (2, 1, 1)
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)
    assert not {"Conv", "Add", "Gemm", "Relu"} & {
        n.op_type for n in model.graph if n.outputs[0].dtype == ir.DataType.FLOAT
    }


def test_inputs_and_outputs_keep_their_names():
    spec = finalized(quantized(residual_network()))
    model = to_qoperator(spec)
    names = [[value.name for value in values] for values in (model.graph.inputs, model.graph.outputs)]
    assert names == [["x"], ["y"]]
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize(("bits", "dtype"), [(4, ir.DataType.INT4), (2, ir.DataType.INT2)])
def test_packed_weights_are_behind_a_cast(bits, dtype):
    model = to_qoperator(finalized(quantized(residual_network(), bits=bits)), weights="uint8")
    types = {name: value.dtype for name, value in model.graph.initializers.items() if name.endswith("_weight")}
    assert sorted(types.values()) == sorted([ir.DataType.UINT8, ir.DataType.UINT8, dtype])
    assert ops(model)["Cast"] == 1


def test_an_unfinalized_model_is_refused():
    with pytest.raises(LoweringError, match="not finalized"):
        LowerQOperator()(quantized(residual_network()))


@settings(max_examples=25)
@given(st.data())
def test_any_convolution(data):
    draw = data.draw
    groups, inputs, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    w = Weights(draw(st.integers(0, 1000)))
    kernel, strides, dilations = (draw(st.tuples(*[st.integers(1, 3)] * 2)) for _ in range(3))
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    w.normal("w1", groups * outputs, inputs, *kernel)
    w.normal("b1", groups * outputs)
    w.normal("w2", 5, groups * outputs, 1, 1)
    text = f"group={groups}, strides={list(strides)}, dilations={list(dilations)}, pads={list(pads)}"
    nodes = [
        f"c = Conv<{text}>(x, w1, b1)",
        draw(st.sampled_from(["r = Relu(c)", "r = Identity(c)", "r = Clip(c, low, six)"])),
        "y = Conv(r, w2)",
    ]
    w.constants |= {"low": np.float32(0), "six": np.float32(0.7)}
    check(nodes, (groups * inputs, 8, 7), w, bits=draw(st.sampled_from([8, 4])))


def test_three_channels_are_aligned_to_four_where_pairs_stay_safe():
    w = Weights()
    w.normal("w1", 16, 3, 3, 3)
    w.normal("w2", 4, 16, 1, 1)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "y = Conv(r, w2)"]
    model = check(nodes, (3, 8, 8), w, bits=4)
    # The first layer has 8 bits even in a 4-bit network.
    spec = finalized(quantized(float_model("net", (3, 8, 8), nodes, **w.constants), cpu="vnni"))
    aligned, unaligned = to_qoperator(spec, cpu="vnni"), to_qoperator(spec, weights="uint8", cpu="vnni")
    assert (ops(aligned)["Pad"], ops(unaligned)["Pad"]) == (1, 0)
    run_gate(spec, aligned, pairs="waived")
    assert ops(model)["QLinearConv"] == 1


@settings(max_examples=15)
@given(st.data())
def test_any_pool(data):
    draw = data.draw
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    pool = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    kernel = draw(st.sampled_from([(2, 2), (3, 3), (3, 2)]))
    pads = [draw(st.integers(0, 1)) for _ in range(4)]
    include = f", count_include_pad={draw(st.integers(0, 1))}" if pool == "AveragePool" else ""
    text = f"kernel_shape={list(kernel)}, strides=[2, 2], pads={pads}, ceil_mode={draw(st.integers(0, 1))}{include}"
    nodes = ["c = Conv(x, w1)", draw(st.sampled_from(["r = Relu(c)", "r = Identity(c)"])), f"p = {pool}<{text}>(r)"]
    check([*nodes, "y = Conv(p, w2)"], (3, 8, 8), w)


@settings(max_examples=15)
@given(st.data())
def test_any_pool_of_rows(data):
    """One spatial dimension, as keyword spotting has it."""
    draw = data.draw
    w = Weights()
    w.normal("w1", 4, 3, 1)
    w.normal("w2", 5, 4, 1)
    pool, kernel = draw(st.sampled_from(["MaxPool", "AveragePool", "GlobalAveragePool"])), draw(st.integers(2, 4))
    pads = [draw(st.integers(0, 1)) for _ in range(2)]
    text = f"<kernel_shape=[{kernel}], strides=[{draw(st.integers(1, 2))}], pads={pads}>" if pool[0] != "G" else ""
    nodes = ["c = Conv(x, w1)", draw(st.sampled_from(["r = Relu(c)", "r = Identity(c)"])), f"p = {pool}{text}(r)"]
    check([*nodes, "y = Conv(p, w2)"], (3, 9), w)


@pytest.mark.parametrize(("size", "op_type"), [(4, "QLinearGlobalAveragePool"), (7, "QLinearGlobalAveragePool")])
def test_a_global_mean_whose_reciprocal_is_exact(size, op_type):
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "p = GlobalAveragePool(r)", "y = Conv(p, w2)"]
    assert ops(check(nodes, (3, size, size), w))[op_type] == 1


@pytest.mark.parametrize("shape", [(7, 1), (13, 1), (25, 5)])
@pytest.mark.parametrize("pool", ["GlobalAveragePool", "AveragePool"])
def test_a_global_mean_whose_reciprocal_is_inexact_divides(shape, pool):
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    text = f"<kernel_shape={list(shape)}>" if pool == "AveragePool" else ""
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", f"p = {pool}{text}(r)", "y = Conv(p, w2)"]
    found = ops(check(nodes, (3, *shape), w))
    assert found["ReduceMean"] == 1
    assert found["QLinearGlobalAveragePool"] == 0


def test_shapes_slices_pads_and_concat():
    w = Weights()
    w.normal("w1", 4, 3, 3, 3)
    w.normal("w2", 4, 3, 3, 3)
    w.normal("w3", 6, 8 * 3 * 5)
    w.constants |= {
        "starts": np.array([1]), "ends": np.array([100]), "axes": np.array([3]), "steps": np.array([2]),
        "pads": np.array([0, 0, 0, 1, 0, 0, 0, 1]), "target": np.array([0, 3, -1]), "flat": np.array([0, -1]),
    }  # fmt: skip
    nodes = [
        "a = Conv(x, w1)",
        "ra = Relu(a)",
        "b = Conv(x, w2)",
        "j = Concat<axis=1>(ra, b)",
        "s = Slice(j, starts, ends, axes, steps)",
        "p = Pad(s, pads)",
        "t = Transpose<perm=[0, 2, 3, 1]>(p)",
        "q = Reshape(t, target)",
        "m = Reshape(q, flat)",
        "y = Gemm<transB=1>(m, w3)",
    ]
    found = ops(check(nodes, (3, 5, 8), w))
    assert (found["Concat"], found["Slice"], found["Pad"], found["Transpose"]) == (1, 1, 1, 1)
    assert found["QLinearConcat"] >= 1


@pytest.mark.parametrize("matrix", ["Gemm<transB=1>({}, w1t, b1)", "Gemm({}, w1, b1)", "MatMul({}, w1)"])
@pytest.mark.parametrize("activation", ["Relu", "Identity"])
def test_inner_matrices(matrix, activation):
    w = Weights()
    w.normal("w1", 20, 12)
    w.constants["w1t"] = np.ascontiguousarray(w.constants["w1"].T)
    w.normal("b1", 12)
    w.normal("w2", 12, 7)
    nodes = [f"h = {matrix.format('x')}", f"r = {activation}(h)", "y = MatMul(r, w2)"]
    found = ops(check(nodes, (20,), w))
    assert found["QGemm"] + found["QLinearMatMul"] == 1
    assert found["MatMulInteger"] == 1


def test_a_matrix_followed_by_batch_normalization():
    w = Weights()
    w.normal("w1", 20, 12)
    w.batch_norm("n", 12)
    w.normal("w2", 12, 7)
    nodes = ["h = MatMul(x, w1)", "n = BatchNormalization(h, n_g, n_b, n_m, n_v)", "r = Relu(n)", "y = MatMul(r, w2)"]
    assert ops(check(nodes, (20,), w))["QGemm"] == 1


def test_batch_normalization_and_activation_alone():
    w = Weights()
    w.normal("w1", 4, 3, 3, 3)
    w.batch_norm("n", 4)
    w.normal("w2", 5, 4, 1, 1)
    nodes = [
        "c = Conv(x, w1)",
        "m = MaxPool<kernel_shape=[2, 2]>(c)",
        "r = Relu(m)",
        "n = BatchNormalization(r, n_g, n_b, n_m, n_v)",
        "s = Relu(n)",
        "y = Conv(s, w2)",
    ]
    assert ops(check(nodes, (3, 8, 8), w))["QLinearConv"] == 2


def test_uint8_weights_in_the_qdq_file():
    spec = finalized(quantized(residual_network()))
    model = spec.clone()
    assert WeightsToUint8()(model).modified
    assert not WeightsToUint8()(model).modified
    run_gate(spec, model)
    run_gate(model, to_qoperator(model))
    weights = [v.dtype for n, v in model.graph.initializers.items() if n.endswith("_weight_uint8")]
    assert weights == [ir.DataType.UINT8] * 3


@pytest.mark.parametrize("step", [-2, -1, 1, 2])
def test_two_quantizers_in_a_row_stay_two(step):
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.normal("w2", 5, 4, 1, 1)
    nodes = ["c = Conv(x, w1)", "r = Relu(c)", "m = MaxPool<kernel_shape=[2, 2]>(r)", "y = Conv(m, w2)"]
    spec = finalized(quantized(float_model("net", (3, 8, 8), nodes, **w.constants)))
    pool = next(node for node in spec.graph if node.op_type == "MaxPool")
    grid = read_view(spec).layers[0].quantizer.grid
    moved = QuantSpec.unsigned(8, grid.exponent + step)
    insert_activation_quantizer(spec.graph, pool.inputs[0], moved, only=[pool], suffix="moved")
    model = to_qoperator(spec)
    run_gate(spec, model)
    assert ops(model)["QLinearConcat"] >= 1


def test_concat_of_unsigned_tensors_on_different_grids():
    w = Weights()
    w.normal("w1", 4, 3, 1, 1)
    w.constants["w2"] = 8 * w.constants["w1"]
    w.normal("w3", 5, 8, 1, 1)
    nodes = [
        "a = Conv(x, w1)",
        "ra = Relu(a)",
        "b = Conv(x, w2)",
        "rb = Relu(b)",
        "j = Concat<axis=1>(ra, rb)",
        "y = Conv(j, w3)",
    ]
    assert ops(check(nodes, (3, 8, 8), w))["QLinearConcat"] == 1
