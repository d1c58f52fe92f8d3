"""Files of onnxruntime's `quantize_dynamic` are the float networks of the weights that they store."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

import qpipe
from passes.normalize import normalize
from passes.rewrites.undo_dynamic_quantization import UndoDynamicQuantization
from qpipe.ir.files.load import load_model
from qpipe.ir.quantized.kind import Kind, find_kind
from support.networks import Network, build, ops, parse
from support.rewriting import assert_stays
from support.run import run_as_written

STEP = 0.02
"""Of the largest number: 8 bits of weights and, on onnxruntime's side, of activations, in two layers."""


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("rows", ["e = Gather(table, t)", "g = Gather(table, t) e = Add(g, d)"])
def test_what_onnxruntime_writes(kind: QuantType, per_channel: bool, rows: str, tmp_path: Path) -> None:
    """Codes of a table go into a product, or are dequantized."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 20, (16, 5))
    text = f"""(int64[N,5] t) => (float[] y) {{
        {rows} a = MatMul(e, w) b = Add(a, c) r = Relu(b) y = MatMul(r, v) }}"""
    weights = {"table": (20, 8), "d": (8,), "w": (8, 16), "c": (16,), "v": (16, 4)}
    floats = parse(text, **{name: rng.standard_normal(shape).astype(np.float32) for name, shape in weights.items()})
    onnx.save(floats, tmp_path / "float.onnx")
    # Of 7 bits, so that onnxruntime's products do not saturate on CPUs without VNNI.
    options = {"per_channel": per_channel, "weight_type": kind, "reduce_range": True}
    quantize_dynamic(str(tmp_path / "float.onnx"), str(tmp_path / "q.onnx"), **options)
    model = load_model(tmp_path / "q.onnx")
    assert find_kind(model) == (Kind.FLOAT, None)
    (theirs,) = run_as_written(model, t=tokens)
    assert UndoDynamicQuantization()(model).modified
    assert not UndoDynamicQuantization()(model).modified
    normalize(model)
    assert not {"MatMulInteger", "DynamicQuantizeLinear", "DequantizeLinear", "Cast"} & {*ops(model)}
    (ours,) = run_as_written(model, t=tokens)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=STEP * np.abs(theirs).max())
    assert qpipe.inspect(tmp_path / "q.onnx").ready
    assert qpipe.calibrate(tmp_path / "q.onnx", tokens, batches=1)


def test_a_convolution(tmp_path: Path) -> None:
    net = Network(3, 6, 6)
    onnx.save(net.proto(net.head(net.op("Relu", net.conv("x", 3, 8, bias=True)), 8)), tmp_path / "float.onnx")
    quantize_dynamic(str(tmp_path / "float.onnx"), str(tmp_path / "q.onnx"), weight_type=QuantType.QUInt8)
    model, x = load_model(tmp_path / "q.onnx"), net.inputs(4)
    (theirs,) = run_as_written(model, x=x)
    normalize(model)
    assert "ConvInteger" not in ops(model)
    np.testing.assert_allclose(run_as_written(model, x=x)[0], theirs, rtol=0, atol=STEP * np.abs(theirs).max())


def test_codes_that_something_else_reads_stay() -> None:
    text = """(float[N,4] x) => (float[] y) { q, s, z = DynamicQuantizeLinear(x) r = Transpose<perm=[0, 1]>(q)
        a = MatMulInteger(r, w, z) c = Cast<to=1>(a) y = Mul(c, s) }"""
    assert_stays(UndoDynamicQuantization(), build(text, w=np.ones((4, 2), np.int8)))
