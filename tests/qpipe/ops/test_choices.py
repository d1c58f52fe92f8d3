"""What chooses among scores reads their integers, and chooses what it chose of the floats."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import qpipe
from qpipe.nodes import describe
from qpipe.ops.choices import choices_of
from qpipe.runtime.session import open_session, run_batches
from support.networks import build, parse

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def twins(*shape: int) -> np.ndarray:
    """Weights of classes that are equal in pairs, so that scores tie."""
    return np.repeat(floats(*shape[:-1], shape[-1] // 2), 2, axis=-1)


def rows(outputs: str, tail: str) -> onnx.ModelProto:
    text = f"(float[N,4] x) => ({outputs}) {{ h = Gemm(x, w1) r = Relu(h) g = Gemm(r, w2) {tail} }}"
    constants = {"w1": floats(4, 16), "w2": twins(16, 6), "three": np.array([3]), "one": np.array([1])}
    return parse(text, **{name: array for name, array in constants.items() if name in text})


def pixels(tail: str) -> onnx.ModelProto:
    text = f"(float[N,3,6,6] x) => (int64[N,1,6,6] y) {{ c = Conv(x, w1) r = Relu(c) s = Conv(r, w2) {tail} }}"
    return parse(text, w1=floats(8, 3, 1, 1), w2=np.repeat(floats(3, 8, 1, 1), 2, axis=0))


NETWORKS = {
    "first": (rows("int64[N] y", "y = ArgMax<axis=1, keepdims=0>(g)"), True),
    "last of equal ones": (rows("int64[N,1] y", "y = ArgMax<axis=-1, select_last_index=1>(g)"), True),
    "smallest": (rows("int64[N,1] y", "y = ArgMin<axis=1>(g)"), True),
    "moved": (rows("int64[N,1] y", "t = Unsqueeze(g, one) y = ArgMax<axis=2, keepdims=0>(t)"), True),
    "places": (rows("int64[N,3] y", "v, y = TopK<axis=1>(g, three)"), True),
    "smallest places": (rows("int64[N,3] y", "v, y = TopK<axis=1, largest=0>(g, three)"), True),
    "numbers too": (rows("float[N,3] v, int64[N,3] y", "v, y = TopK<axis=1>(g, three)"), False),
    "of what was rounded": (rows("int64[N] y", "e = Relu(g) y = ArgMax<axis=1, keepdims=0>(e)"), True),
    "beside scores": (rows("int64[N] y, float[N,6] g", "y = ArgMax<axis=1, keepdims=0>(g)"), False),
    "pixels": (pixels("y = ArgMax<axis=1>(s)"), True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_exports_choose_as_the_specification(name: str) -> None:
    network, is_free = NETWORKS[name]
    x = floats(64, *(dim.dim_value for dim in network.graph.input[0].type.tensor_type.shape.dim[1:]))
    qdq = qpipe.calibrate(network, x)
    spec = outputs(qpipe.export(qdq, format="qdq", data=x), x)
    # The ends of both formats are the same code.
    for format_ in ("integer", "qoperator") if name in ("first", "numbers too") else ("integer",):
        exported = qpipe.export(qdq, format=format_, data=x)
        for found, expected in zip(outputs(exported, x), spec, strict=True):
            np.testing.assert_array_equal(found, expected)
        types = {value.dtype for node in exported.graph for value in node.outputs}
        assert (ir.DataType.FLOAT not in types) == is_free


def outputs(model: ir.Model, x: np.ndarray) -> list[np.ndarray]:
    return next(run_batches(open_session(model), [x], rows_only=False))


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ("y = ArgMax(x)", ["ArgMax 'y'"]),
        ("a = Transpose(x) y = ArgMax(a)", ["Transpose 'a'"]),
        ("a = Transpose(x) y = ArgMax(a) z = Exp(a)", []),
        ("a = Neg(x) y = ArgMax(a)", []),
        ("y = Transpose(x)", []),
        ("y = ArgMax(x) z = Exp(x)", ["ArgMax 'y'"]),
    ],
)
def test_which_readers_choose(nodes: str, found: list[str]) -> None:
    types = {"y": "float" if "y = T" in nodes else "int64", "z": "float"}
    ends = ", ".join(f"{kind}[] {name}" for name, kind in types.items() if f"{name} =" in nodes)
    model = build(f"(float[4,4] x) => ({ends}) {{ {nodes} }}")
    assert [describe(choice.entry) for choice in choices_of(model.graph.inputs[0])] == found
