import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.constants_to_initializers import ConstantsToInitializers
from passes.fold_constants import FoldConstants
from passes.remove_dead_code import RemoveDeadCode
from support.networks import build, integers, ops
from support.run import run_as_written


def test_arithmetic_of_constants_folds():
    model = build(
        "(float[N,4] x) => (float[N,4] y) { a = Add(c, c) b = Transpose(w) d = MatMul(x, b) y = Mul(d, a) }",
        c=integers(4),
        w=integers(4, 4, seed=1),
    )
    x = integers(3, 4, seed=2)
    expected = run_as_written(model, x=x)[0]
    assert FoldConstants()(model).modified
    assert ops(model) == ["MatMul", "Mul"]
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)
    assert not FoldConstants()(model).modified


def test_shape_arithmetic_of_a_static_shape_folds():
    model = build(
        """(float[1,2,4,4] x) => (float[A,B] y) {
            s = Shape <start = 0, end = 1> (x) one = Constant <value_ints = [-1]> ()
            t = Concat <axis = 0> (s, one) y = Reshape(x, t) }"""
    )
    assert FoldConstants()(model).modified
    ConstantsToInitializers()(model)
    RemoveDeadCode()(model)
    assert ops(model) == ["Reshape"]
    assert model.graph.node(0).inputs[1].const_value.numpy().tolist() == [1, -1]
    x = integers(1, 2, 4, 4)
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], x.reshape(1, 32))


def test_dynamic_batch_stays_dynamic():
    model = build(
        """(float[N,2,4,4] x) => (float[A,B] y) {
            s = Shape <start = 0, end = 1> (x) one = Constant <value_ints = [-1]> ()
            t = Concat <axis = 0> (s, one) y = Reshape(x, t) }"""
    )
    FoldConstants()(model)
    for batch in (1, 3):
        x = integers(batch, 2, 4, 4)
        np.testing.assert_array_equal(run_as_written(model, x=x)[0], x.reshape(batch, 32))


def test_quantized_weight_stays_a_pair():
    model = build(
        """(float[N,4] x) => (float[N,4] y) {
            q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z) t = Transpose(d) y = MatMul(x, t) }""",
        w=np.ones((4, 4), np.float32),
        s=np.float32(0.5),
        z=np.int8(0),
    )
    FoldConstants()(model)
    assert ops(model) == ["QuantizeLinear", "DequantizeLinear", "Transpose", "MatMul"]


@pytest.mark.parametrize(("dtype", "array_type"), [("INT4", ml_dtypes.int4), ("INT2", ml_dtypes.int2)])
def test_packed_weight_stays_packed(dtype, array_type):
    weight = ir.Value(
        name="w",
        type=ir.TensorType(ir.DataType[dtype]),
        shape=ir.Shape([4, 4]),
        const_value=ir.Tensor(np.ones((4, 4), array_type), dtype=ir.DataType[dtype], name="w"),
    )
    cast = ir.node("Cast", [weight], {"to": onnx.TensorProto.INT8})
    scale = ir.tensor(np.float32(0.5), name="s")
    scale_value = ir.Value(name="s", type=ir.TensorType(scale.dtype), shape=ir.Shape([]), const_value=scale)
    dequantized = ir.node("DequantizeLinear", [cast.outputs[0], scale_value])
    graph = ir.Graph(
        [], dequantized.outputs, nodes=[cast, dequantized], initializers=[weight, scale_value], opset_imports={"": 21}
    )
    model = ir.Model(graph, ir_version=10)
    FoldConstants()(model)
    assert ops(model) == ["Cast", "DequantizeLinear"]
    assert not FoldConstants()(model).modified


def test_batch_normalization_stays_a_node():
    text = """(float[N,3,4,4] x) => (float[N,4,2,2] y) {
        z = Conv(x, w) y = BatchNormalization(z, gamma, beta, mean, var) }"""
    statistics = {name: np.ones(4, np.float32) for name in ("gamma", "beta", "mean", "var")}
    model = build(text, w=integers(4, 3, 3, 3), **statistics)
    FoldConstants()(model)
    assert ops(model) == ["Conv", "BatchNormalization"]


def test_a_result_over_the_limit_is_not_stored():
    text = "(float[8,8] x) => (float[8,8] y) { e = Expand(c, s) y = Add(x, e) }"
    constants = {"c": np.float32(1), "s": np.array([8, 8])}
    small, large = build(text, **constants), build(text, **constants)
    FoldConstants(output_size_limit=64)(small)
    FoldConstants(output_size_limit=60)(large)
    assert ops(small) == ["Add"]
    assert ops(large) == ["Expand", "Add"]


def test_shapes_are_inferred_and_no_history_is_left():
    model = build(
        "(float[N,3,8,8] x) => (float[A,B,C,D] y) { z = Relu(x) c = Add(a, a) y = Mul(z, c) }",
        a=np.ones((3, 1, 1), np.float32),
    )
    assert FoldConstants()(model).modified
    values = ir.convenience.create_value_mapping(model.graph).values()
    assert all(value.shape is not None for value in values)
    assert not any(value.metadata_props for value in values)
    folded = model.graph.node(1).inputs[1]
    assert folded.shape == folded.const_value.shape
