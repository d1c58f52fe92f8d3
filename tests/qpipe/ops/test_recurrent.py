"""LSTM, GRU and RNN as torch trains them: what onnxruntime computes."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper

import qpipe
from qpipe.errors import ModelError
from qpipe.nodes import constant_input
from qpipe.ops.tail import tail_function
from support.networks import build, parse, tensors
from support.run import run_as_written

CLOSE = 1e-5
"""Of numbers up to 1: both libraries add up some ten products in float32, in an order of their own."""
STEPS, BATCH, INPUTS, STATE = 5, 3, 4, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def network(op: str, direction: str, given: str, **attributes: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """One node, of all outputs; given: which of bias and states it has."""
    count = 2 if direction == "bidirectional" else 1
    arrays = {"x": floats(STEPS, BATCH, INPUTS)}
    constants = {
        "w": floats(count, GATES[op] * STATE, INPUTS),
        "r": floats(count, GATES[op] * STATE, STATE),
        "b": floats(count, 2 * GATES[op] * STATE),
    }
    states = {"h": floats(count, BATCH, STATE), "c": floats(count, BATCH, STATE)}
    inputs = ["x", "w", "r", "b" if "b" in given else "", ""]
    inputs += [name if name in given else "" for name in (("h", "c") if op == "LSTM" else ("h",))]
    while not inputs[-1]:
        inputs.pop()
    arrays |= {name: states[name] for name in inputs if name in states}
    outputs = ["y", "yh", "yc"] if op == "LSTM" else ["y", "yh"]
    node = helper.make_node(op, inputs, outputs, hidden_size=STATE, direction=direction, **attributes)
    values = [helper.make_tensor_value_info(name, 1, array.shape) for name, array in arrays.items()]
    ends = [helper.make_tensor_value_info(name, 1, None) for name in outputs]
    known = {name: array for name, array in constants.items() if name in inputs}
    graph = helper.make_graph([node], "recurrent", values, ends, tensors(known))
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]), arrays


def in_torch(model: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    node = next(iter(ir.from_proto(model).graph))
    run = tail_function(node)
    assert run is not None
    known = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer} | arrays
    inputs = [None if v is None or not v.name else torch.from_numpy(known[v.name].copy()) for v in node.inputs]
    found = run(node, *inputs)
    assert isinstance(found, tuple)
    return [array.numpy() for array in found]


@pytest.mark.parametrize("given", ["", "b", "bh", "hc", "bhc"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "attributes"), [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})]
)
def test_the_runtime(op, attributes, direction, given):
    model, arrays = network(op, direction, given, **attributes)
    expected = run_as_written(ir.from_proto(onnx.shape_inference.infer_shapes(model)), **arrays)
    found = in_torch(model, arrays)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_the_batch_comes_first_with_layout_1(op, direction):
    # onnxruntime has no such kernels.
    model, arrays = network(op, direction, "bhc")
    first, _ = network(op, direction, "bhc", layout=1)
    first.graph.ClearField("initializer")
    first.graph.initializer.extend(model.graph.initializer)
    expected = in_torch(model, arrays)
    found = in_torch(first, {name: array.swapaxes(0, 1) for name, array in arrays.items()})
    np.testing.assert_allclose(found[0], expected[0].transpose(2, 0, 1, 3), atol=CLOSE, rtol=0)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(ours, theirs.swapaxes(0, 1), atol=CLOSE, rtol=0)


@pytest.mark.parametrize(
    "odd",
    ["clip=1.0", 'activations=["Sigmoid","Relu"]', 'activations=["HardSigmoid","Tanh"], activation_alpha=[0.3]'],
)
def test_what_torch_does_not_have_is_none(odd):
    text = f"(float[5,3,4] x) => (float[] y) {{ y = GRU<hidden_size=6, {odd}>(x, w, r) }}"
    (node,) = build(text, w=floats(1, 18, 4), r=floats(1, 18, 6)).graph
    assert tail_function(node) is None


def test_lengths_are_none():
    text = "(float[5,3,4] x, int32[3] n) => (float[] y) { y = GRU<hidden_size=6>(x, w, r, , n) }"
    (node,) = build(text, w=floats(1, 18, 4), r=floats(1, 18, 6)).graph
    assert tail_function(node) is None


def words(node: str, **more: np.ndarray) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    made = {
        name: (rng.standard_normal(shape) / 3).astype(np.float32)
        for name, shape in {"w1": (8, 4, 3), "wg": (1, 48, 8), "rg": (1, 48, 16), "wl": (1, 64, 8), "rl": (1, 64, 16),
                            "v": (16, 2)}.items()
    }  # fmt: skip
    text = "(float[N,4,10] x) => (float[N,2] y) { c = Conv<kernel_shape=[3], pads=[1,1]>(x, w1) a = Relu(c) "
    text += f"t = Transpose<perm=[2,0,1]>(a) {node} s = Squeeze(h, first) y = Gemm(s, v) }}"
    constants = made | {"first": np.array([0])} | more
    return parse(text, **{name: array for name, array in constants.items() if name in text})


@pytest.mark.filterwarnings("ignore:.*multiply-accumulates stay float")
@pytest.mark.parametrize(("op", "index"), [("GRU", 1), ("LSTM", 2)])
def test_a_network_with_one_trains_with_its_weights(op, index):
    node = f"[rec] , h = {op}<hidden_size=16>(t, w{op[0].lower()}, r{op[0].lower()})"
    rng = np.random.default_rng(2)
    x = rng.standard_normal((64, 4, 10)).astype(np.float32)
    labels = (x[:, 0].mean(1) > 0).astype(np.int64)
    qdq = qpipe.calibrate(words(node), x)
    trained = qpipe.finetune(qdq, (x, labels), epochs=10, lr=0.02, batch_size=16)
    before, after = (constant_input(next(n for n in model.graph if n.op_type == op), index) for model in (qdq, trained))
    assert not np.array_equal(before, after)
    exported = qpipe.export(trained, format="integer", integer_only=False, data=x)
    (row,) = qpipe.validate([exported], (x, labels)).rows
    assert row.top1 > 0.6


@pytest.mark.filterwarnings("ignore:.*multiply-accumulates stay float")
def test_what_has_no_gradient_is_named():
    qdq = qpipe.calibrate(words("[rec] , h = GRU<hidden_size=16, clip=1.0>(t, wg, rg)"), floats(16, 4, 10))
    with pytest.raises(ModelError, match="GRU 'rec': is float between integers, and no gradient passes it"):
        qpipe.finetune(qdq, (floats(16, 4, 10), np.arange(16) % 2), epochs=1)
