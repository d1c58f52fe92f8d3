import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from passes.finalize import Finalize
from qpipe.ir.files.load import load_model
from qpipe.ir.quantized.kind import Kind, find_kind
from qpipe.verbs.calibrate import calibrate
from support.zoo.digits import digits_model
from support.zoo.linear import build_model, dequantize, quantize, scale_constants


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
    nodes = [
        quantize("x", "q", "x_scale", "x_zero"),
        dequantize("q", "d", "x_scale", "x_zero"),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    model = load_model(build_model(nodes, {"x": (np.float32, ["N", 4])}, {"y": np.float32}, constants))
    assert find_kind(model) == (Kind.FOREIGN, None)
