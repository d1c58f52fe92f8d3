"""Networks with branches and loops: no pass breaks them, and the float tail may be one."""

import numpy as np
import pytest

import qpipe
from qpipe.runtime.session import open_session
from support.networks import load, ops, parse
from support.run import run_as_written

HEAD = """(float[N,3,4,4] x) => (float[N,4,4,4] y) {
    c = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(c) m = ReduceMax<keepdims = 0>(x, axes) q = Greater(m, bound) """
RESULT = "float[N,4,4,4]"
TAILS = {
    "an Identity of what is outside": f"""y = If(q) <then_branch = a () => ({RESULT} t) {{ t = Identity(r) }},
        else_branch = b () => ({RESULT} e) {{ e = Neg(c) }}>""",
    "one reader, inside": f"""y = If(q) <then_branch = a () => ({RESULT} t) {{ t = Relu(c) }},
        else_branch = b () => ({RESULT} e) {{ z = Neg(r) e = Identity(z) }}>""",
    "constants": """s = If(q) <then_branch = a () => (float[1] t) { t = Constant<value_floats = [2.0]>() },
        else_branch = b () => (float[1] e) { u = Constant<value_floats = [3.0]>() e = Identity(u) }> y = Mul(r, s)""",
    "a loop": f"""y = Loop(three, go, c) <body = l (int64 i, bool on, {RESULT} s) => (bool more, {RESULT} t) {{
        more = Identity(on) t = Add(s, r) }}>""",
}


def network(tail):
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32) / 5
    numbers = {"axes": np.arange(4), "bound": np.zeros(1, np.float32), "three": np.array(3), "go": np.array(True)}
    return parse(f"{HEAD} {tail} }}", w=w, **{name: array for name, array in numbers.items() if name in HEAD + tail})


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_branches_and_loops_stay_what_they_are(tail):
    x = np.random.default_rng(1).standard_normal((8, 3, 4, 4)).astype(np.float32)
    proto = network(tail)
    model = load(proto)
    assert ops(load(model)) == ops(model)
    reference = open_session(proto, optimize=False)
    for rows in (x, -np.abs(x)):
        expected = reference.run(None, {"x": rows})[0]
        np.testing.assert_array_equal(run_as_written(model, x=rows)[0], expected)
    quantized = qpipe.calibrate(proto, x, preprocess={})
    # Half a step of 8 bits of input, weight and output, a few times; what is exact is the exports' business.
    expected = reference.run(None, {"x": x})[0]
    assert np.abs(run_as_written(quantized, x=x)[0] - expected).max() < np.abs(expected).max() / 16
    for format in ("qoperator", "integer", "qdq"):
        qpipe.export(quantized, format=format)


@pytest.mark.parametrize(
    ("outputs", "nodes"),
    [
        ("float[N,3,4,4] z", "z = Identity(x)"),
        ("float[N,4,4,4] z", "z = Identity(y)"),
        ("float[N,4,4,4] z, float[N,4,4,4] z2", "z = Identity(y) z2 = Identity(z)"),
        ("float[4,3,1,1] w", ""),
        ("float[1] z", "z = Add(k, k)"),
    ],
)
def test_outputs_of_the_same_value(outputs, nodes):
    proto = parse(
        f"(float[N,3,4,4] x) => (float[N,4,4,4] y, {outputs}) {{ y = Conv(x, w) {nodes} }}",
        w=np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32),
        k=np.ones(1, np.float32),
    )
    x = np.random.default_rng(1).standard_normal((8, 3, 4, 4)).astype(np.float32)
    expected = open_session(proto, optimize=False).run(None, {"x": x})
    quantized = qpipe.calibrate(proto, x, preprocess={})
    assert [value.name for value in quantized.graph.outputs] == [value.name for value in proto.graph.output]
    for model in (quantized, qpipe.export(quantized)):
        for got, want in zip(open_session(model).run(None, {"x": x}), expected, strict=True):
            # Two roundings of 8 bits, and sums of three.
            assert np.abs(got - want).max() <= np.abs(want).max() / 16
