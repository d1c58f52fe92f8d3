import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.rewrites.affine_to_batch_norm import AffineToBatchNorm
from support.networks import integers
from support.rewriting import assert_same, assert_stays, network

W = {"w": integers(2, 4, 1)}


CHAINS = (["Mul(x, c)"], ["Add(x, c)"], ["Sub(c, x)"], ["Mul(x, c)", "Add(a, d)"], ["Add(x, c)", "Mul(d, a)"])


@given(st.sampled_from(CHAINS), st.sampled_from([(4, 1), (1, 4, 1), (1,), ()]))
def test_channels_get_a_batch_norm(chain, shape):
    nodes = f"m = {chain[0]}" if len(chain) == 1 else f"a = {chain[0]} m = {chain[1]}"
    constants = {"c": integers(*shape, seed=1) + np.float32(9), "d": integers(4, 1, seed=2)}
    model = network("N,4,3", f"{nodes} y = Conv(m, w)", **constants, **W)
    assert_same(AffineToBatchNorm(), model, ["BatchNormalization", "Conv"], x=integers(2, 4, 3))


def test_of_a_longer_chain_each_pair():
    nodes = "a = Mul(x, c) b = Add(a, c) m = Mul(b, c) y = Conv(m, w)"
    model = network("N,4,3", nodes, c=np.float32(2), **W)
    assert_same(AffineToBatchNorm(), model, ["BatchNormalization", "BatchNormalization", "Conv"], x=integers(2, 4, 3))


def test_beyond_float32_each_stays_one():
    nodes = "a = Mul(x, huge) m = Mul(a, huge) y = Conv(m, w)"
    model = network("N,4,3", nodes, huge=np.float32(2**100), **W)
    expected = ["BatchNormalization", "BatchNormalization", "Conv"]
    assert_same(AffineToBatchNorm(), model, expected, x=integers(2, 4, 3) * np.float32(2**-100))


def test_a_value_between_that_others_read_stays():
    nodes = "a = Mul(x, c) b = Add(a, c) d = Concat<axis = 2>(a, b) y = Conv(d, w)"
    model = network("N,4,3", nodes, c=np.float32(2), **W)
    expected = ["BatchNormalization", "BatchNormalization", "Concat", "Conv"]
    assert_same(AffineToBatchNorm(), model, expected, x=integers(2, 4, 3))


@pytest.mark.parametrize(
    ("shape", "nodes"),
    [
        ("N,4,3", "a = Conv(x, w) y = Mul(a, c)"),
        ("N,4,3", "m = Mul(x, last) y = Conv(m, w)"),
        ("N,4,3", "m = Mul(x, each) y = Conv(m, w)"),
        ("N,4,3", "e = Hardmax(x) m = Mul(e, c) y = Conv(m, w)"),
        ("4", "m = Mul(x, c) y = MatMul(m, v)"),
    ],
    ids=["behind the last weights", "channels last", "each place", "behind floats", "no channels"],
)
def test_what_stays(shape, nodes):
    more = {"v": integers(4, 2), "last": integers(3, seed=1), "each": integers(4, 3)}
    assert_stays(AffineToBatchNorm(), network(shape, nodes, c=np.float32(2), **more, **W))
