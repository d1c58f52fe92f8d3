"""Masks of attention are finite, and no more is changed by it than a Softmax notices."""

import numpy as np
import pytest

from passes.rewrites.finite_masks import LOWEST, FiniteMasks
from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from support.networks import build, integers, parse
from support.rewriting import assert_same, assert_stays, network

MASK = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
LARGEST = np.float32(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    "nodes",
    [
        "s = Add(x, m) y = Softmax<axis = -1>(s)",
        "u = Unsqueeze(m, zero) h = Mul(u, half) s = Add(x, h) y = Softmax<axis = -1>(s)",
        "s = Where(c, x, low) t = Transpose<perm = [1, 0, 2]>(s) y = Softmax<axis = -1>(t)",
        "n = Where(c, zeros, low) s = Add(x, n) k = Softmax<axis = -1>(s) y = Identity(k)",
    ],
)
def test_the_softmax_is_the_same_to_the_bit(nodes):
    model = network(
        "N,4,4", nodes, m=MASK, low=-LARGEST, zeros=np.zeros((4, 4), np.float32), half=np.float32(0.5),
        zero=np.array([0]), c=MASK == 0,
    )  # fmt: skip
    ops = [node.op_type for node in model.graph]
    assert_same(FiniteMasks(), model, ops, x=integers(3, 4, 4))
    used = [value.const_value.numpy() for value in model.graph.initializers.values() if value.uses()]
    assert min(array.min() for array in used) == -LOWEST


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Add(x, low)",
        "s = Add(x, low) y = Softmax<axis = -1>(s) z = Relu(s)",
        "s = Add(x, near) y = Softmax<axis = -1>(s)",
        "s = Div(x, low) y = Softmax<axis = -1>(s)",
    ],
    ids=["an output", "another reader", "no mask", "a divisor"],
)
def test_what_stays(nodes):
    model = network("N,4,4", nodes, low=-LARGEST, near=np.float32(-100))
    if "z = " in nodes:
        model.graph.outputs.append(next(node.outputs[0] for node in model.graph if node.op_type == "Relu"))
    assert_stays(FiniteMasks(), model)


def test_an_infinite_mask_is_read_and_infinite_weights_are_not():
    text = "(float[N,4,4] x) => (float[] y) {{ {} }}"
    assert load_model(parse(text.format("s = Add(x, m) y = Softmax<axis = -1>(s)"), m=MASK)).graph.inputs
    with pytest.raises(ModelError, match="contains infinite values"):
        load_model(parse(text.format("s = MatMul(x, m) y = Softmax<axis = -1>(s)"), m=MASK))
    with pytest.raises(ModelError, match="contains infinite values"):
        load_model(parse(text.format("y = Add(x, m)"), m=MASK))


def test_of_a_built_graph_each_reader_gets_the_bounded_one():
    nodes = "a = Add(x, m) b = Add(m, x) s = Softmax<axis = -1>(a) t = Softmax<axis = -1>(b) y = Add(s, t)"
    model = build(f"(float[N,4,4] x) => (float[] y) {{ {nodes} }}", m=-np.abs(np.nan_to_num(MASK)))
    assert_same(FiniteMasks(), model, x=integers(3, 4, 4))
