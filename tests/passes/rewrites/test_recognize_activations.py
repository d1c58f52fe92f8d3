import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.rewrites.recognize_activations import FUNCTIONS, SAMPLES, TOLERANCE, RecognizeActivations, is_near
from passes.rewrites.remove_dead_code import RemoveDeadCode
from support.networks import build, ops
from support.rewriting import assert_stays
from support.run import run_as_written

X = np.linspace(-9, 9, 240, dtype=np.float32).reshape(5, 4, 12)
NUMBERS = {
    "zero": 0, "half": 0.5, "one": 1, "two": 2, "three": 3, "six": 6, "sixth": 1 / 6, "root": 2**0.5,
    "inverse": 0.5**0.5, "k": 0.044715, "c": (2 / np.pi) ** 0.5, "tenth": 0.1, "five": 5,
    "twenty": 20,
}  # fmt: skip
CHANNELS = {"slope": np.float32([0.1, 0.2, -0.3, 2.5]).reshape(4, 1)}
SIGMOID = "m = Neg(x) e = Exp(m) p = Add(e, one)"
SPELLINGS = {
    "Elu": "m = Min(x, zero) e = Exp(m) f = Sub(e, one) r = Relu(x) y = Add(r, f)",
    "Gelu": "d = Div(x, root) e = Erf(d) p = Add(e, one) m = Mul(x, p) y = Mul(half, m)",
    "Gelu behind half": "d = Mul(x, inverse) e = Erf(d) p = Add(one, e) h = Mul(x, half) y = Mul(p, h)",
    "Gelu of two halves": "d = Mul(x, inverse) e = Erf(d) a = Mul(x, half) m = Mul(a, e) y = Add(m, a)",
    "Gelu tanh": "q = Pow(x, three) k1 = Mul(q, k) s = Add(x, k1) t = Mul(s, c) h = Tanh(t) p = Add(h, one) "
    "m = Mul(x, p) y = Mul(m, half)",
    "Gelu tanh of products": "q = Mul(x, x) r = Mul(q, x) k1 = Mul(k, r) s = Add(x, k1) t = Mul(c, s) h = Tanh(t) "
    "p = Add(one, h) a = Mul(half, x) y = Mul(a, p)",
    "HardSigmoid": "a = Add(x, three) r = Clip(a, zero, six) y = Div(r, six)",
    "LeakyRelu": "r = Relu(x) m = Neg(x) n = Relu(m) s = Mul(n, tenth) y = Sub(r, s)",
    "LeakyRelu of the larger": "s = Mul(tenth, x) y = Max(x, s)",
    "Mish": "e = Exp(x) p = Add(e, one) l = Log(p) t = Tanh(l) y = Mul(x, t)",
    "Mish of a Softplus": "l = Softplus(x) t = Tanh(l) y = Mul(t, x)",
    "PRelu": "r = Relu(x) m = Neg(x) n = Relu(m) s = Mul(n, slope) y = Sub(r, s)",
    "PRelu of sizes": "a = Abs(x) d = Sub(x, a) s = Mul(d, slope) h = Mul(s, half) r = Relu(x) y = Add(r, h)",
    "Sigmoid": f"{SIGMOID} y = Reciprocal(p)",
    "SiLU": f"{SIGMOID} y = Div(x, p)",
    "SiLU of a Sigmoid": "s = Sigmoid(x) y = Mul(s, x)",
    "Softplus": "e = Exp(x) p = Add(e, one) y = Log(p)",
    "Softplus with a threshold": "e = Exp(x) p = Add(e, one) l = Log(p) g = Greater(x, twenty) y = Where(g, x, l)",
    "Softsign": "a = Abs(x) p = Add(a, one) y = Div(x, p)",
    "Tanh": "d = Mul(x, two) s = Sigmoid(d) t = Mul(s, two) y = Sub(t, one)",
}


def parsed(nodes, rank="A,B,C", source="N,4,12"):
    names = nodes.replace(",", " ").replace(")", " ").replace("(", " ").split()
    constants = {name: np.float32(number) for name, number in NUMBERS.items()} | CHANNELS
    return build(
        f"(float[{source}] x) => (float[{rank}] y) {{ {nodes} }}",
        **{name: array for name, array in constants.items() if name in names},
    )


def check(model, op):
    (expected,) = run_as_written(model, x=X)
    assert RecognizeActivations()(model).modified
    RemoveDeadCode()(model)
    assert ops(model) == [op]
    (found,) = run_as_written(model, x=X)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(X).max())
    assert_stays(RecognizeActivations(), model)


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name):
    check(parsed(SPELLINGS[name]), name.split()[0])


def test_a_slope_of_nearly_0_is_none():
    """A Relu behind factors of fresh statistics: what lies below 1e-5 is no line of its own."""
    slopes = np.full((4, 1), -1e-7, np.float32)
    nodes = "r = Relu(x) m = Neg(x) n = Relu(m) s = Mul(n, tiny) y = Sub(r, s)"
    check(build(f"(float[N,4,12] x) => (float[A,B,C] y) {{ {nodes} }}", tiny=slopes), "Relu")


def test_a_factor_of_nearly_1_is_no_activation():
    nodes = "m = Mul(x, near) y = Add(m, zeros)"
    near, zeros = np.full((4, 1), 0.999995, np.float32), np.zeros((4, 1), np.float32)
    model = build(f"(float[N,4,12] x) => (float[A,B,C] y) {{ {nodes} }}", near=near, zeros=zeros)
    assert_stays(RecognizeActivations(), model)


GATES = ("g = Clip(a, zero, six)", "b = Relu(a) g = Min(b, six)", "b = Max(a, zero) g = Min(six, b)")
ORDERS = (
    "d = Div(g, six) y = Mul(x, d)", "d = Mul(g, sixth) y = Mul(d, x)", "d = Mul(x, g) y = Div(d, six)",
    "d = Mul(g, x) y = Mul(sixth, d)", "d = Div(x, six) y = Mul(d, g)", "d = Mul(sixth, x) y = Mul(g, d)",
)  # fmt: skip


@given(st.sampled_from(["a = Add(x, three)", "a = Add(three, x)"]), st.sampled_from(GATES), st.sampled_from(ORDERS))
def test_hard_swish_in_every_order(shift, gate, order):
    check(parsed(f"{shift} {gate} {order}"), "HardSwish")


def test_hard_swish_of_a_hard_sigmoid():
    check(parsed("h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, h)"), "HardSwish")


def test_what_is_between_stays_for_its_readers():
    model = parsed("a = Add(x, three) g = Clip(a, zero, six) d = Div(g, six) h = Mul(x, d) y = Add(h, g)")
    (expected,) = run_as_written(model, x=X)
    assert RecognizeActivations()(model).modified
    RemoveDeadCode()(model)
    assert sorted(ops(model)) == ["Add", "Add", "Clip", "HardSwish"]
    np.testing.assert_allclose(run_as_written(model, x=X)[0], expected, rtol=0, atol=TOLERANCE * 9)


def test_the_gate_of_another_value_is_no_part():
    nodes = "z = Erf(x) a = Add(x, three) g = Clip(a, zero, six) d = Div(g, six) h = Mul(z, d) y = Exp(h)"
    model = parsed(nodes)
    assert RecognizeActivations()(model).modified
    RemoveDeadCode()(model)
    assert sorted(ops(model)) == ["Erf", "Exp", "HardSigmoid", "Mul"]


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Add(x, two) g = Clip(a, zero, six) d = Div(g, six) y = Mul(x, d)",
        "a = Add(x, three) g = Clip(a, zero, five) d = Div(g, six) y = Mul(x, d)",
        "d = Div(x, root) e = Erf(d) p = Add(e, one) y = Mul(x, p)",
        "d = Mul(x, slope) e = Erf(d) p = Add(e, one) m = Mul(x, p) y = Mul(half, m)",
        "e = Exp(x) p = Add(e, two) y = Log(p)",
        "y = Relu(x)",
        "a = Mul(x, two) y = Add(a, one)",
    ],
    ids=["a shift", "a bound", "twice a Gelu", "by channel", "no Softplus", "one node", "affine"],
)  # fmt: skip
def test_near_misses_stay(nodes):
    assert_stays(RecognizeActivations(), parsed(nodes))


def test_two_values_stay():
    text = "(float[N,4] x, float[N,4] z) => (float[N,4] y) { s = Sigmoid(x) m = Mul(s, z) y = Neg(m) }"
    assert_stays(RecognizeActivations(), build(text))


def test_what_broadcasts_stays():
    text = "(float[N,1] x) => (float[N,3] y) { a = Add(x, wide) y = Relu(a) }"
    assert_stays(RecognizeActivations(), build(text, wide=np.zeros(3, np.float32)))


def test_no_two_functions_are_near():
    """The tolerance tells each from all others."""
    for one, other in itertools.combinations(FUNCTIONS, 2):
        distance = np.abs(one.compute(SAMPLES) - other.compute(SAMPLES)).max()
        assert distance > 20 * TOLERANCE
        assert not is_near(one.compute(SAMPLES), other.compute(SAMPLES), SAMPLES)
