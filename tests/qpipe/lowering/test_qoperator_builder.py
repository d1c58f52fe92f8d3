"""What onnxruntime makes of a qoperator graph."""

import numpy as np
import onnx

import qpipe
from qpipe.ir.files.load import load_model
from qpipe.runtime.session import open_session
from support.networks import parse
from support.quantize import finalized, to_qoperator
from support.run import run

IMAGES = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)


def test_a_table_between_convolutions_leaves_no_transpose(tmp_path):
    """onnxruntime computes with channels last; only at the network's ends are they moved."""
    text = """(float[N,3,8,8] x) => (float[] y) {
        a = Conv(x, w1)  b = Sigmoid(a)  c = Mul(a, b)  d = Conv(c, w2)  e = Tanh(d)  y = Conv(e, w3) }"""
    rng = np.random.default_rng(1)
    shapes = {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w3": (4, 8, 1, 1)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    spec = finalized(load_model(qpipe.calibrate(parse(text, **weights), IMAGES)))
    lowered = to_qoperator(spec)
    assert [node.op_type for node in lowered.graph].count("GatherElements") == 2
    np.testing.assert_array_equal(run(lowered, IMAGES)[0], run(spec, IMAGES)[0])

    open_session(lowered, optimized_path=tmp_path / "optimized.onnx")
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert [node.op_type for node in optimized.graph.node].count("Transpose") == 2
