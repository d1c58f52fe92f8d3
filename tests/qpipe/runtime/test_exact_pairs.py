"""Weights whose pairs would saturate without VNNI give the exact integers on every CPU, where they are opened so."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.shipping.lower_integer import LowerInteger
from passes.shipping.lower_qoperator import LowerQOperator
from qpipe.errors import ParityError
from qpipe.ir.quantized.certify import certify
from qpipe.ir.quantized.oracle import network_integers
from qpipe.ir.quantized.view import read_view
from qpipe.runtime import exact_pairs
from qpipe.runtime.cpu import Cpu
from qpipe.runtime.exact_pairs import open_exact
from qpipe.runtime.gate import run_gate
from support.networks import Weights, float_model
from support.quantize import finalized, quantized

INPUTS = np.random.default_rng(1).standard_normal((64, 3, 6, 6)).astype(np.float32)
LOWERINGS = [None, LowerQOperator(cpu="vnni"), LowerQOperator(weights="uint8"), LowerInteger()]
NAMES = ["qdq", "qoperator", "uint8", "integer"]
WITHOUT_VNNI = Cpu("old", 1, frozenset({"avx2"}))


@pytest.fixture
def spec() -> ir.Model:
    """A Conv that the qoperator form aligns to 4 channels, a grouped one, a MatMul, a Gemm and a last Gemm, unsafe."""
    w = Weights(3)
    w.normal("w1", 16, 3, 3, 3)
    w.normal("w2", 8, 4, 3, 3)
    w.normal("w3", 32, 24)
    w.normal("w4", 16, 24)
    w.normal("w5", 10, 16)
    w.normal("b5", 10)
    nodes = [
        "r1 = Relu(c1)",
        "c2 = Conv<group=4>(r1, w2)",
        "r2 = Relu(c2)",
        "f = Flatten(r2)",
        "m = MatMul(f, w3)",
        "r3 = Relu(m)",
        "g = Gemm<transB=1>(r3, w4)",
        "r4 = Relu(g)",
        "y = Gemm<transB=1>(r4, w5, b5)",
    ]
    return finalized(quantized(float_model("net", (3, 6, 6), ["c1 = Conv(x, w1)", *nodes], **w.constants), cpu="vnni"))


def lowered(spec: ir.Model, lowering: ir.passes.InPlacePass | None) -> ir.Model:
    model = spec.clone()
    if lowering is not None:
        lowering(model)
    return model


def result(model: ir.Model) -> np.ndarray:
    return open_exact(model, threads=1).run(None, {"x": INPUTS})[0]


@pytest.mark.parametrize("lowering", LOWERINGS, ids=NAMES)
@pytest.mark.parametrize("vnni", [None, False], ids=["this CPU", "as without VNNI"])
def test_every_integer_operator_is_exact(spec, lowering, vnni, monkeypatch):
    if vnni is not None:
        monkeypatch.setattr(exact_pairs, "this_cpu", lambda: WITHOUT_VNNI)
    problems = certify(read_view(spec)).problems
    assert [problem.split()[0] for problem in problems] == ["Conv", "Conv", "MatMul", "Gemm", "Gemm"]
    expected = network_integers(spec, INPUTS)["y"]
    np.testing.assert_array_equal(result(lowered(spec, lowering)), expected)


def test_the_model_itself_stays_as_it_is(spec, monkeypatch):
    monkeypatch.setattr(exact_pairs, "this_cpu", lambda: WITHOUT_VNNI)
    model = lowered(spec, LowerQOperator(cpu="vnni"))
    before = ir.to_proto(model).SerializeToString()
    open_exact(model)
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize("lowering", LOWERINGS[1:], ids=NAMES[1:])
def test_the_gate_compares_what_a_cpu_with_vnni_computes(spec, lowering):
    model, pairs = lowered(spec, lowering), "not needed" if lowering.weights == "uint8" else "waived"
    assert run_gate(spec, model, pairs=pairs).tensors == 1 + len(read_view(spec).layers)
    weight = next(v for name, v in model.graph.initializers.items() if name in ("Gemm_y_weight", "Gemm_y/weight"))
    codes = weight.const_value.numpy().copy()
    codes.flat[0] ^= 1
    weight.const_value = ir.tensor(codes, name=weight.name)
    with pytest.raises(ParityError, match=r"^Gemm 'Gemm_y': "):
        run_gate(spec, model, pairs=pairs)
