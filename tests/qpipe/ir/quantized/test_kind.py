import numpy as np
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
