"""A mask within a table of biases is added by itself: the scores' Softmax stays what it is, to the bit."""

import numpy as np
import pytest

import qpipe
from passes.normalize import normalize
from passes.rewrites.finite_masks import FiniteMasks
from passes.rewrites.separate_masks import SeparateMasks
from qpipe.runtime.session import open_session, run_batches
from support.networks import build, load, parse
from support.rewriting import assert_same, assert_stays

RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((5, 2)).astype(np.float32)
TABLE[0] = -np.inf
TEXT = "(float[N,2,4,4] x, int64[N,4,4] d) => (float[N,2,4,4] y) {{ {} }}"


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_the_softmax_is_the_same_and_the_rows_are_looked_up_once():
    text = TEXT.format(
        "g = Gather(table, d) b = Transpose<perm = [0, 3, 1, 2]>(g) s = Add(x, b) p = Softmax(s) t = Add(b, p) "
        "y = Softmax(t)"
    )
    model = build(text, table=TABLE)
    FiniteMasks()(model)
    d = np.tile(np.array([[1, 2, 0, 4], [2, 1, 3, 0], [4, 3, 1, 2], [0, 0, 2, 1]]), (3, 1, 1))
    assert_same(SeparateMasks(), model, x=floats(3, 2, 4, 4), d=d)
    assert [node.op_type for node in model.graph].count("Gather") == 3  # the old one is dead


@pytest.mark.parametrize("table", [np.where(np.isinf(TABLE), TABLE, 0), np.where(np.isinf(TABLE), -100, TABLE)])
def test_what_stays(table):
    text = TEXT.format("g = Gather(table, d) b = Transpose<perm = [0, 3, 1, 2]>(g) s = Add(x, b) y = Softmax(s)")
    model = build(text, table=table.astype(np.float32))
    FiniteMasks()(model)
    assert_stays(SeparateMasks(), model)


def test_biases_keep_their_levels_and_masks_mask():
    """Graphormer's attention: distances have biases, and what fills up has -inf, in calibration or later."""
    network = parse(
        "(int64[N,6] atoms, int64[N,6,6] d) => (float[N,6,3] y) { e = Gather(words, atoms) q = MatMul(e, w1) "
        "k = Transpose<perm=[0,2,1]>(q) p = MatMul(q, k) g = Gather(table, d) b = Squeeze(g, last) t = Add(p, b) "
        "a = Softmax<axis=-1>(t) v = MatMul(a, q) h = MatMul(v, w2) r = Relu(h) y = MatMul(r, w3) }",
        words=floats(9, 4), w1=0.3 * floats(4, 8), w2=floats(8, 8), w3=floats(8, 3),
        table=np.array([[-np.inf], [2], [0.5], [-1], [-2]], np.float32), last=np.array([-1]),
    )  # fmt: skip
    distances = RNG.integers(1, 5, (64, 6, 6))
    data = {"atoms": RNG.integers(0, 9, (64, 6)), "d": distances}
    assert "float island" not in qpipe.inspect(network).roles
    qdq = qpipe.calibrate(network, data)
    filled = data | {"d": np.where(np.arange(6) < RNG.integers(2, 7, (64, 1, 1)), distances, 0)}
    for given in (data, filled):
        found = {}
        for format_ in ("integer", "qoperator", "qdq"):
            exported = qpipe.export(qdq, format=format_, data=given)
            found[format_] = next(run_batches(open_session(exported), [given], rows_only=False))[0]
        np.testing.assert_array_equal(found["integer"], found["qdq"])
        np.testing.assert_array_equal(found["qoperator"], found["qdq"])
        real = next(run_batches(open_session(load(network)), [given], rows_only=False))[0]
        # 20 dB.
        assert np.square(found["qdq"] - real).mean() < 0.01 * np.square(real).mean()


def test_it_is_a_part_of_normalizing():
    text = TEXT.format("g = Gather(table, d) b = Transpose<perm = [0, 3, 1, 2]>(g) s = Add(x, b) y = Softmax(s)")
    model = build(text, table=TABLE)
    normalize(model)
    assert [node.op_type for node in model.graph].count("Add") == 2
