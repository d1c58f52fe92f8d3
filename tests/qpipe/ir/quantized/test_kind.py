import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.shipping.finalize import Finalize
from qpipe.ir.files.load import load_model
from qpipe.ir.quantized.kind import Kind, find_kind
from qpipe.verbs.calibrate import calibrate
from support.networks import parse, scale_constants
from support.zoo.digits import digits_model


def test_float_trainable_and_final() -> None:
    assert find_kind(load_model(digits_model())) == (Kind.FLOAT, None)
    images = np.random.default_rng(1).normal(size=(8, 1, 8, 8)).astype(np.float32)
    model = calibrate(digits_model(), images, batches=1)
    kind, view = find_kind(model)
    assert kind is Kind.TRAINABLE
    assert view is not None
    Finalize()(model)
    assert find_kind(model)[0] is Kind.FINAL


@pytest.mark.parametrize(
    ("op", "domain", "kind"),
    [
        ("QLinearMatMul", "", Kind.QOPERATOR),
        ("QGemm", "com.microsoft", Kind.QOPERATOR),
        ("MatMulInteger", "", Kind.INTEGER),
        ("Relu", "", Kind.FLOAT),
    ],
)
def test_by_the_ops(op: str, domain: str, kind: Kind) -> None:
    graph = ir.Graph([], [], nodes=[ir.node(op, [], domain=domain)], opset_imports={"": 21})
    assert find_kind(ir.Model(graph, ir_version=10))[0] is kind


def test_a_scale_that_is_no_power_of_two_is_foreign() -> None:
    constants = {"w": np.ones((4, 2), np.float32), **scale_constants(x=(-3, 128)), "x_scale": np.float32(0.3)}
    text = """(float[N,4] x) => (float[] y) {
        q = QuantizeLinear(x, x_scale, x_zero) d = DequantizeLinear(q, x_scale, x_zero) y = MatMul(d, w)
    }"""
    assert find_kind(load_model(parse(text, **constants))) == (Kind.FOREIGN, None)


def test_weights_alone_that_are_stored_as_integers_leave_a_network_float() -> None:
    """It calibrates to the file that the same numbers in float32 lead to."""
    codes = np.random.default_rng(0).integers(-127, 128, (8, 3)).astype(np.int8)
    scales = np.linspace(0.01, 0.03, 8, dtype=np.float32)
    constants = {"q": codes, "s": scales, "v": np.ones((8, 2), np.float32) / 4}
    layers = "a = Gemm<transB = 1>(x, w) r = Relu(a) y = MatMul(r, v)"
    stored = parse(f"(float[N,3] x) => (float[] y) {{ w = DequantizeLinear<axis = 0>(q, s) {layers} }}", **constants)
    floats = {"w": codes * scales[:, None], "v": constants["v"]}
    plain = parse(f"(float[N,3] x) => (float[] y) {{ {layers} }}", **floats)
    assert find_kind(load_model(stored)) == (Kind.FLOAT, None)
    data = np.random.default_rng(1).normal(size=(32, 3)).astype(np.float32)
    found, expected = (ir.to_proto(calibrate(model, data, batches=1)).graph for model in (stored, plain))
    assert [node.op_type for node in found.node] == [node.op_type for node in expected.node]
    for ours, theirs in zip(_sorted(found), _sorted(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _sorted(graph: onnx.GraphProto) -> list[np.ndarray]:
    """Its constants in the order in which nodes read them."""
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [known[name] for node in graph.node for name in node.input if name in known]
