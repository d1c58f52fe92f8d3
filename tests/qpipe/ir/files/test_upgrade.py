"""Opset 25 for tensors of 2 bits, 21 for all others; `test_load.py` has the rest."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import version_converter

from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.save import save_model
from qpipe.ir.files.upgrade import label_opset
from qpipe.runtime.session import open_session, run_feeds
from support.networks import parse
from support.quantize import finalized, quantized
from support.run import run
from support.zoo.residual import residual_network

SUMS_OF_8 = 2e-6
"""Of float32: eight products of numbers about 1, a quotient and an exponential, each rounded a few times."""


@pytest.mark.parametrize(("bits", "versions"), [(4, (21, 10)), (2, (25, 13))])
def test_a_file_has_the_opset_that_its_weights_need_and_keeps_it(tmp_path, bits, versions):
    model = finalized(quantized(residual_network(), bits=bits))
    save_model(model, tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    assert (proto.opset_import[0].version, proto.ir_version) == versions
    onnx.checker.check_model(proto, full_check=True)
    loaded = load_model(proto)
    assert (loaded.opset_imports[""], loaded.ir_version) == versions
    assert [node.op_type for node in loaded.graph] == [node.op_type for node in model.graph]


def test_the_label_is_all_that_onnx_converts():
    """From 21 to 25 no node of a finalized graph changes."""
    model = finalized(quantized(residual_network(), bits=8))
    proto = ir.to_proto(model)
    converted = version_converter.convert_version(proto, 25)
    assert [node.SerializeToString() for node in converted.graph.node] == [
        node.SerializeToString() for node in proto.graph.node
    ]
    label_opset(model)
    assert model.opset_imports[""] == 21, "nothing here has 2 bits"


@pytest.mark.parametrize("opset", [21, 24, 26])
def test_2_bits_of_any_opset_are_brought_to_25(opset):
    proto = ir.to_proto(finalized(quantized(residual_network(), bits=2)))
    proto.opset_import[0].version = opset
    assert load_model(proto).opset_imports[""] == 25


def test_a_function_of_another_opset_than_its_model_is_refused_in_one_line():
    text = """(float[N] x) => (float[N] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["": 21]> twice (a) => (b) { b = Add(a, a) }"""
    with pytest.raises(ModelError, match=r"opset 24 can't be converted to 21: .*inlining"):
        load_model(parse(text, opsets='"": 24, "own": 1'))


def test_quantizers_of_onnxruntimes_own_are_those_of_onnx():
    """Those of 16 bits, which ONNX has had since opset 21."""
    nodes = "q = com.microsoft.QuantizeLinear(x, s, z) y = com.microsoft.DequantizeLinear(q, s, z)"
    text = f"(float[2,3] x) => (float[2,3] y) {{ {nodes} }}"
    constants = {"s": np.float32(0.001), "z": np.uint16(30000)}
    model = parse(text, opsets='"": 18, "com.microsoft": 1', **constants)
    loaded = load_model(model)
    assert [node.domain for node in loaded.graph] == ["", ""]
    assert set(loaded.opset_imports) == {""}
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32) * 10
    outputs = [run_feeds(open_session(each), {"x": x})[0] for each in (ir.from_proto(model), loaded)]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize(
    ("opset", "nodes"),
    [
        (23, "y = RMSNormalization(x, g)"),
        (23, "y = RMSNormalization<axis = -2, epsilon = 0.5>(x, gg)"),
        (23, "y = Attention<q_num_heads = 2, kv_num_heads = 2>(x, x, x)"),
        (24, "y = Attention<q_num_heads = 2, kv_num_heads = 2, is_causal = 1, softcap = 2.0>(x, x, x)"),
        (23, "y = RotaryEmbedding<num_heads = 2>(x, cos, sin)"),
    ],
    ids=["RMSNormalization", "of two axes", "Attention", "causal, capped", "RotaryEmbedding"],
)
def test_operators_that_came_later_are_written_in_older_ones(opset, nodes):
    """They compute what onnxruntime's own kernels do, whose sums have another order."""
    rng = np.random.default_rng(0)
    constants = {
        "g": rng.uniform(0.5, 2, 8), "gg": rng.uniform(0.5, 2, (5, 8)), "cos": rng.uniform(-1, 1, (3, 5, 2)),
        "sin": rng.uniform(-1, 1, (3, 5, 2)),
    }  # fmt: skip
    proto = parse(f"(float[3,5,8] x) => (float[3,5,8] y) {{ {nodes} }}", opsets=f'"": {opset}')
    tensors = {name: ir.tensor(array.astype(np.float32), name=name) for name, array in constants.items()}
    proto.graph.initializer.extend(ir.to_proto(tensor) for name, tensor in tensors.items() if name in nodes)
    x = rng.standard_normal((3, 5, 8)).astype(np.float32)
    proto.ir_version = 11
    (expected,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    model = load_model(proto)
    assert model.opset_imports[""] == 21
    (found,) = run(model, x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=SUMS_OF_8)


@pytest.mark.parametrize(("attributes", "alpha"), [("", 1.0), ("<alpha = 1.5>", 1.5)])
def test_swish_has_its_default(attributes, alpha):
    model = load_model(parse(f"(float[N,4] x) => (float[N,4] y) {{ y = Swish{attributes}(x) }}", opsets='"": 24'))
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(run(model, x)[0], x / (1 + np.exp(-alpha * x)), rtol=0, atol=SUMS_OF_8)
