import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.rewrites.constants_to_initializers import ConstantsToInitializers
from passes.rewrites.fold_constants import FoldConstants
from passes.rewrites.remove_dead_code import RemoveDeadCode
from qpipe.errors import ModelError
from support.networks import build, integers, ops, parse
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
            p = QuantizeLinear(x, s, z) c = DequantizeLinear(p, s, z)
            q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z) t = Transpose(d) y = MatMul(c, t) }""",
        w=np.ones((4, 4), np.float32),
        s=np.float32(0.5),
        z=np.int8(0),
    )
    FoldConstants()(model)
    assert ops(model) == [*["QuantizeLinear", "DequantizeLinear"] * 2, "Transpose", "MatMul"]


CODES = {"int8": np.int8, "uint8": np.uint8, "int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4}


@settings(max_examples=30)
@given(st.data(), st.sampled_from([*CODES]), st.sampled_from(["tensor", "channel", "block"]), st.booleans())
def test_a_float_network_has_the_weights_that_it_stores_as_integers(data, kind, per, has_zero):
    """No activation is quantized: the numbers are those that onnxruntime multiplies by, to the bit."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    axis, (rows, columns) = data.draw(st.integers(0, 1)), (6, 4)
    shapes = {"tensor": (), "channel": ((rows, columns)[axis],), "block": ((3, 4), (6, 2))[axis]}
    low = 0 if kind.startswith("u") else -7
    constants = {
        "w": rng.integers(low, low + 14, (rows, columns)).astype(CODES[kind]),
        "s": rng.uniform(0.01, 1, shapes[per]).astype(np.float32),
        "z": np.full(shapes[per], low + 3).astype(CODES[kind]),
    }
    attributes = f"axis = {axis}" + (", block_size = 2" if per == "block" else "")
    zero = ", z" if has_zero else ""
    proto = parse(
        f"(float[N,6] x) => (float[N,4] y) {{ d = DequantizeLinear <{attributes}> (w, s{zero}) y = MatMul(x, d) }}"
    )
    names = [name for name in constants if name != "z" or has_zero]
    proto.graph.initializer.extend(ir.to_proto(ir.tensor(constants[name], name=name)) for name in names)
    model, x = ir.from_proto(proto), rng.standard_normal((3, 6)).astype(np.float32)
    (expected,) = run_as_written(model, x=x)
    assert FoldConstants()(model).modified
    assert ops(model) == ["MatMul"]
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)


def test_weights_that_are_rounded_in_the_graph_are_rounded():
    text = """(float[N,4] x) => (float[N,4] y) {
        q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z) t = Transpose(d) y = MatMul(x, t) }"""
    model = build(text, w=np.float32(np.arange(16).reshape(4, 4) / 8), s=np.float32(0.5), z=np.int8(0))
    FoldConstants()(model)
    assert ops(model) == ["MatMul"]
    steps = np.round(np.arange(16).reshape(4, 4) / 4) / 2
    np.testing.assert_array_equal(model.graph.node(0).inputs[1].const_value.numpy(), np.float32(steps.T))


@pytest.mark.parametrize(("dtype", "array_type"), [("INT4", ml_dtypes.int4), ("INT2", ml_dtypes.int2)])
def test_packed_weight_stays_packed(dtype, array_type):
    weight = ir.Value(
        name="w",
        type=ir.TensorType(ir.DataType[dtype]),
        shape=ir.Shape([4, 4]),
        const_value=ir.Tensor(np.ones((4, 4), array_type), dtype=ir.DataType[dtype], name="w"),
    )
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([4, 4]))
    cast = ir.node("Cast", [weight], {"to": onnx.TensorProto.INT8})
    scale = ir.tensor(np.float32(0.5), name="s")
    scale_value = ir.Value(name="s", type=ir.TensorType(scale.dtype), shape=ir.Shape([]), const_value=scale)
    dequantized = ir.node("DequantizeLinear", [cast.outputs[0], scale_value])
    quantized = ir.node("QuantizeLinear", [x, scale_value])
    graph = ir.Graph(
        [x], [*dequantized.outputs, *quantized.outputs], nodes=[cast, dequantized, quantized],
        initializers=[weight, scale_value], opset_imports={"": 21},
    )  # fmt: skip
    model = ir.Model(graph, ir_version=10)
    FoldConstants()(model)
    assert ops(model) == ["Cast", "DequantizeLinear", "QuantizeLinear"]
    assert not FoldConstants()(model).modified


def test_a_layer_normalization_of_constants_folds():
    """And what hangs on it in its turn, as an object query's attention to itself."""
    text = """(float[N,4] x) => (float[N,4] y) {
        n = LayerNormalization <epsilon = 0.01> (c, g, b) a = MatMul(n, w) m = LayerNormalization(a, g)
        y = Add(x, m) }"""
    model = build(text, c=integers(1, 4), g=integers(4, seed=1), b=integers(4, seed=2), w=integers(4, 4, seed=3))
    x = integers(3, 4, seed=4)
    (expected,) = run_as_written(model, x=x)
    assert FoldConstants()(model).modified
    assert ops(model) == ["Add"]
    # Of float32: two means and two roots of four numbers below 100, in another order.
    np.testing.assert_allclose(run_as_written(model, x=x)[0], expected, rtol=1e-5, atol=1e-4)
    assert not FoldConstants()(model).modified


def test_a_layer_normalization_whose_statistics_are_read_stays():
    text = """(float[N,4] x) => (float[N,4] y) { n, m = LayerNormalization(c, g) s = Add(n, m) y = Add(x, s) }"""
    model = build(text, c=integers(1, 4), g=integers(4, seed=1))
    FoldConstants()(model)
    assert ops(model) == ["LayerNormalization", "Add", "Add"]


def test_parts_of_a_constant_are_constants():
    """As the weights of a MultiheadAttention whose keys are of another sequence."""
    text = """(float[N,4] x) => (float[N,2] y) {
        u, v = Split <axis = 0> (w, sizes) t = Transpose(u) k = Transpose(v) a = MatMul(x, t) b = MatMul(x, k)
        y = Sub(a, b) }"""
    model = build(text, w=integers(4, 4), sizes=np.array([2, 2]))
    x = integers(3, 4, seed=4)
    (expected,) = run_as_written(model, x=x)
    assert FoldConstants()(model).modified
    assert ops(model) == ["MatMul", "MatMul", "Sub"]
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)


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


BOMBS = {
    "Expand": ("Expand(one, large)", "Expand 'e': its output 'e' has 1,600,000,000 elements"),
    "ConstantOfShape": ("ConstantOfShape(large)", "1,600,000,000 elements"),
    "Tile": ("Tile(row, large)", "6,400,000,000 elements"),
    "an outer product": ("MatMul(column, long)", "1,600,000,000 elements"),
    "broadcasting": ("Mul(column, long)", "1,600,000,000 elements"),
    "Range": ("Range(zero, far, step)", "1,000,000,000 elements"),
    "OneHot": ("OneHot(many, far_int, pair)", "40,000,000,000,000 elements"),
    "a window": ("HannWindow(far_int)", "1,000,000,000 elements"),
    "Pad": ("Pad(row, pads)", "400,100,004 elements"),
}


@pytest.mark.parametrize(("node", "message"), BOMBS.values(), ids=BOMBS)
def test_the_size_of_a_result_is_known_before_the_result(node, message):
    constants = {
        "one": np.float32(1), "large": np.array([40000, 40000]), "row": np.ones((1, 4), np.float32),
        "column": np.ones((40000, 1), np.float32), "long": np.ones((1, 40000), np.float32), "zero": np.int64(0),
        "far": np.int64(10**9), "step": np.int64(1), "far_int": np.int64(10**9), "many": np.zeros(40000, np.int64),
        "pair": np.array([0, 1], np.float32), "pads": np.array([10000, 10000, 10000, 10000]),
    }  # fmt: skip
    used = {
        name: array
        for name, array in constants.items()
        if name in node.replace(",", " ").replace(")", " ").split("(")[1].split()
    }
    model = ir.from_proto(parse(f"(float[N,4] x) => (float[N,4] y) {{ y = Relu(x) e = {node} }}", **used))
    with pytest.raises(ModelError, match=message):
        FoldConstants()(model)


def test_what_grows_in_small_steps_ends_as_well():
    """Each doubles: every step is within what one result may grow by, until their sum is not."""
    nodes = "a0 = Expand(one, half) " + " ".join(f"a{i + 1} = Concat<axis = 0>(a{i}, a{i})" for i in range(12))
    model = ir.from_proto(
        parse(f"(float[N,4] x) => (float[N,4] y) {{ y = Relu(x) {nodes} }}", one=np.float32(1), half=np.array([2**20]))
    )
    with pytest.raises(ModelError, match="elements, expected 268,435,456 at most"):
        FoldConstants()(model)


def test_a_product_of_large_constants_is_not_computed():
    constants = {"a": np.ones((2000, 2000), np.float32), "b": np.ones((2000, 2000), np.float32)}
    model = build("(float[N,2000] x) => (float[N,2000] y) { p = MatMul(a, b) y = MatMul(x, p) }", **constants)
    FoldConstants()(model)
    assert ops(model) == ["MatMul", "MatMul"]


def test_what_computes_element_by_element_in_python_stays():
    model = build(
        "(float[1,1,8,8] x) => (float[1,1,8,8] y) { r = AveragePool<kernel_shape = [1, 1]>(c) y = Add(x, r) }",
        c=np.ones((1, 1, 8, 8), np.float32),
    )
    FoldConstants()(model)
    assert ops(model) == ["AveragePool", "Add"]


def test_what_no_runtime_computes_of_vectors_stays_and_is_refused():
    model = build(
        "(float[N,4] x) => (float[N,4] y) { b = InstanceNormalization(c, c, c) y = Gemm(x, w, b) }",
        w=np.eye(4, dtype=np.float32),
        c=np.arange(4, dtype=np.float32),
    )
    FoldConstants()(model)
    assert ops(model) == ["InstanceNormalization", "Gemm"]
    with pytest.raises(Exception, match="InstanceNormalization"):
        run_as_written(model, x=np.zeros((1, 4), np.float32))
