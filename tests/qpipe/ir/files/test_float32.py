"""Networks of other floats are read as float32."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from passes.normalize import normalize
from qpipe.errors import ModelError
from qpipe.ir.files.load import is_as_written, load_model
from support.networks import ops, parse
from support.run import run_as_written

TEXT = """({kind}[N,3,4,4] x) => ({kind}[N,4] y) {{
    c = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(c) p = GlobalAveragePool(r) y = Flatten(p) }}"""


def network(kind, text=TEXT, **constants):
    rng = np.random.default_rng(0)
    kinds = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}
    proto = parse(text.format(kind=kind))
    constants = constants or {"w": rng.standard_normal((4, 3, 3, 3)), "b": rng.standard_normal(4)}
    for name, array in constants.items():
        tensor = helper.make_tensor(name, kinds.get(kind, onnx.TensorProto.DOUBLE), array.shape, array.flatten())
        proto.graph.initializer.append(tensor)
    return proto


def types_of(model):
    return {value.dtype for value in ir.convenience.create_value_mapping(model.graph).values()}


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_each_number_of_a_shorter_float_stays_what_it_is(kind):
    proto = network(kind)
    with pytest.warns(UserWarning, match=f"its {kind} numbers are read as float32"):
        model = load_model(proto)
    for tensor in proto.graph.initializer:
        read = model.graph.initializers[tensor.name].const_value
        assert read.dtype == ir.DataType.FLOAT
        np.testing.assert_array_equal(read.numpy(), numpy_helper.to_array(tensor).astype(np.float32))
    normalize(model)
    assert types_of(model) == {ir.DataType.FLOAT}
    assert not is_as_written(model)


def test_a_network_of_float64_computes_in_float32():
    proto = network("double")
    with pytest.warns(UserWarning, match="its double numbers are read as float32"):
        model = load_model(proto)
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 4))
    exact = ReferenceEvaluator(proto).run(None, {"x": x})[0]  # onnxruntime has no Conv of float64
    # A sum of 27 products of about one, each rounded to 2**-24 of it.
    np.testing.assert_allclose(run_as_written(model, x=x.astype(np.float32))[0], exact, rtol=0, atol=27 * 2.0**-22)


def test_casts_around_a_network_of_float16_go():
    text = """(float[N,3,4,4] x) => (float[N,4,4,4] y) {{
        h = Cast<to = 10>(x) c = Conv<pads = [1, 1, 1, 1]>(h, w, b) r = Relu(c) y = Cast<to = 1>(r) }}"""
    with pytest.warns(UserWarning, match="float16"):
        model = load_model(network("float16", text))
    normalize(model)
    assert ops(model) == ["Conv", "Relu"]
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["x", "y"]


def test_old_opsets_branches_and_functions_are_converted_too():
    text = """(float16[N,4] x, bool q) => (float16[N,4] y) {{
        z = If(q) <then_branch = a () => (float16[N,4] t) {{ t = Mul(x, k) }},
                   else_branch = b () => (float16[N,4] e) {{ v = Cast<to = 10>(half) e = Add(x, v) }}>
        y = own.twice(z) }}
        <domain: "own", opset_import: ["": 21]> twice (a) => (b) {{ c = Cast<to = 10>(a) b = Add(c, c) }}"""
    proto = network("float16", text, k=np.full(4, 2.0))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.warns(UserWarning, match="float16"):
        model = load_model(proto)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    for q, expected in ((True, x * 4), (False, (x + 0.5) * 2)):
        np.testing.assert_array_equal(run_as_written(model, x=x, q=np.array(q))[0], expected)


def test_an_old_network_of_float16(tmp_path):
    proto = network("float16")
    proto.opset_import[0].version, proto.ir_version = 9, 4
    onnx.save(proto, tmp_path / "net.onnx")
    with pytest.warns(UserWarning, match=r"net\.onnx: its float16 numbers"):
        assert load_model(tmp_path / "net.onnx").opset_imports[""] == 21


def test_a_weight_beyond_float32_is_refused_and_a_bound_is_cut():
    text = "(double[N,2] x) => (double[N,2] y) {{ c = Mul(x, w) y = Clip(c, low, high) }}"
    numbers = {"w": np.array([1.0, 2.0]), "low": np.array(-1.7e308), "high": np.array(6.0)}
    with pytest.warns(UserWarning, match="double"):
        model = load_model(network("double", text, **numbers))
    assert model.graph.initializers["low"].const_value.numpy() == np.finfo(np.float32).min
    with pytest.raises(ModelError, match=r"initializer 'w' holds 1e\+39, expected numbers of float32"):
        load_model(network("double", text, **{**numbers, "w": np.array([1.0, 1e39])}))


def test_a_network_of_float32_stays_as_it_is():
    model = load_model(parse("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }"))
    assert is_as_written(model)
