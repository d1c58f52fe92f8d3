"""What onnxruntime's optimizer fused: its own kernels compute the same before and after."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qpipe
from passes.rewrites.standard_operators import StandardOperators
from qpipe.errors import ModelError
from support.networks import build, ops, parse
from support.rewriting import assert_same, assert_stays

ROUNDINGS = 1e-5
"""Of float32: sums of 27 products about 1 in another order, and a cubic within tanh; no result is beyond 10."""
HEAD = "(float[N,3,6,6] x) => (float[N,3,H,W] y)"
IMAGES = {
    "FusedConv<pads = [1, 1, 1, 1]>(x, w, b)": ["Conv"],
    'FusedConv<activation = "Relu", strides = [2, 2]>(x, w)': ["Conv", "Relu"],
    'FusedConv<activation = "LeakyRelu", activation_params = [0.3], pads = [1, 1, 1, 1]>(x, w, b, x)': [
        "Conv", "Add", "LeakyRelu",
    ],
    'FusedConv<activation = "Clip", activation_params = [0.0, 2.5]>(x, w, b)': ["Conv", "Clip"],
    'FusedConv<activation = "HardSigmoid", activation_params = [0.25, 0.4]>(x, w, b)': ["Conv", "HardSigmoid"],
}  # fmt: skip
ROWS = {
    'FusedGemm<activation = "LeakyRelu", activation_alpha = 0.3, transB = 1, alpha = 0.5>(x, w, b)': [
        "Gemm", "LeakyRelu",
    ],
    "FusedMatMul<transB = 1, alpha = 0.25>(x, w)": ["Transpose", "MatMul", "Mul"],
    "FusedMatMul<transA = 1>(x, x)": ["Transpose", "MatMul"],
    "FusedMatMul(x, w)": ["MatMul"],
    "Gelu(x)": ["Gelu"],
    "BiasGelu(x, b)": ["Add", "Gelu"],
    "FastGelu(x)": ["Gelu"],
    "FastGelu(x, b)": ["Add", "Gelu"],
    "QuickGelu(x)": ["Mul", "Sigmoid", "Mul"],
    "QuickGelu<alpha = 1.0>(x)": ["Sigmoid", "Mul"],
}  # fmt: skip


def arrays(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("call", IMAGES)
def test_of_images(call: str) -> None:
    model = build(f"{HEAD} {{ y = com.microsoft.{call} }}", **arrays(0, w=(3, 3, 3, 3), b=(3,)))
    assert_same(StandardOperators(), model, IMAGES[call], atol=ROUNDINGS, **arrays(1, x=(2, 3, 6, 6)))


@pytest.mark.parametrize("call", ROWS)
def test_of_rows(call: str) -> None:
    model = build(f"(float[N,4] x) => (float[M,4] y) {{ y = com.microsoft.{call} }}", **arrays(0, w=(4, 4), b=(4,)))
    assert_same(StandardOperators(), model, ROWS[call], atol=ROUNDINGS, **arrays(1, x=(3, 4)))


@pytest.mark.parametrize("operands", ["x, x, g", "x, s, g, b", "x, s, g, b, c", "x, s, g, , c"])
@pytest.mark.parametrize("outputs", ["y", "y, , , z"])
def test_skips_and_their_sum(operands: str, outputs: str) -> None:
    head = "(float[2,3,8] x, float[2,3,8] s) => (float[2,3,8] y" + (", float[2,3,8] z)" if "z" in outputs else ")")
    call = f"{outputs} = com.microsoft.SkipLayerNormalization<epsilon = 0.01>({operands})"
    model = build(f"{head} {{ {call} }}", **arrays(0, g=(8,), b=(8,), c=(8,)))
    expected = ["Add"] * (1 + ("c" in operands)) + ["LayerNormalization"]
    assert_same(StandardOperators(), model, expected, atol=ROUNDINGS, **arrays(1, x=(2, 3, 8), s=(2, 3, 8)))


@pytest.mark.parametrize(
    "call", ['FusedConv<activation = "Elu">(x, w)', "FusedMatMul<transBatchA = 1>(x, x)", "Rfft(x)"]
)
def test_others_stay(call: str) -> None:
    assert_stays(StandardOperators(), build(f"{HEAD} {{ y = com.microsoft.{call} }}", **arrays(0, w=(3, 3, 3, 3))))


@settings(max_examples=20)
@given(st.data(), st.sampled_from([4, 8]), st.booleans(), st.booleans())
def test_packed_weights(data: st.DataObject, bits: int, has_zeros: bool, has_bias: bool) -> None:
    """The last block may hang over K, and the last byte of zero points over the blocks."""
    K, C, block = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 5)), data.draw(st.sampled_from([16, 32]))
    rng, blocks = np.random.default_rng(data.draw(st.integers(0, 99))), -(-K // block)
    constants = {
        "w": rng.integers(0, 256, (C, blocks, block * bits // 8)).astype(np.uint8),
        "s": rng.uniform(0.01, 0.1, C * blocks).astype(np.float32),
    }
    if has_zeros:
        constants["z"] = rng.integers(0, 256, C * -(-blocks * bits // 8)).astype(np.uint8)
    if has_bias:
        constants["b"] = rng.standard_normal(C).astype(np.float32)
    operands = f"x, w, s, {'z' if has_zeros else ''}, , {'b' if has_bias else ''}".rstrip(", ")
    call = f"com.microsoft.MatMulNBits<K={K}, N={C}, bits={bits}, block_size={block}>({operands})"
    model = build(f"(float[N,{K}] x) => (float[N,{C}] y) {{ y = {call} }}", **constants)
    # onnxruntime sums blocks in another order: of 70 products, none beyond 4 * 26.
    expected = ["MatMul", "Add"] if has_bias else ["MatMul"]
    assert_same(StandardOperators(), model, expected, atol=1e-2, **arrays(1, x=(3, K)))


def test_weights_that_are_reordered_stay() -> None:
    constants = {"w": np.zeros((2, 1, 8), np.uint8), "s": np.ones(2, np.float32), "g": np.zeros(16, np.int32)}
    call = "com.microsoft.MatMulNBits<K=16, N=2, bits=4, block_size=16>(x, w, s, , g)"
    assert_stays(StandardOperators(), build(f"(float[N,16] x) => (float[N,2] y) {{ y = {call} }}", **constants))


def test_a_layout_for_one_machine_is_refused() -> None:
    proto = parse(f"{HEAD} {{ [first] y = com.microsoft.nchwc.Conv(x, x) }}", opsets='"": 21, "com.microsoft.nchwc": 1')
    with pytest.raises(
        ModelError, match=r"Conv 'first': 'com\.microsoft\.nchwc' is a layout for one machine, expected"
    ):
        qpipe.inspect(proto)


def test_a_network_that_an_optimizer_wrote_is_integer_throughout() -> None:
    text = """(float[N,3,8] x) => (float[N,3,5] y) { a = MatMul(x, w) g = com.microsoft.BiasGelu(a, b)
        d = MatMul(g, v) l = com.microsoft.SkipLayerNormalization(d, x, c, c) y = com.microsoft.FusedMatMul(l, u) }"""
    proto = parse(text, opsets='"": 17, "com.microsoft": 1')
    constants = arrays(0, w=(8, 16), b=(16,), v=(16, 8), c=(8,), u=(8, 5))
    proto.graph.initializer.extend(ir.to_proto(ir.tensor(array, name=name)) for name, array in constants.items())
    found = qpipe.inspect(proto).nodes
    assert {node.role for node in found} <= {"quantized", "carries integers"}
    assert {"Gelu", "LayerNormalization", "MatMul"} <= {node.op for node in found}
    assert ops(qpipe.calibrate(proto, arrays(1, x=(16, 3, 8))["x"]))
