"""Shapes that a graph computes become constants, with the batch open; what does not follow stays."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.normalize import normalize
from passes.rewrites.known_shapes import KnownShapes
from qpipe.nodes import constant_input
from support.networks import build, integers, ops
from support.rewriting import assert_stays
from support.run import run_as_written

SHAPE = "s = Shape(x) n = Slice(s, zero, one, zero) c = Gather(s, first) h = Gather(s, second)"
CONSTANTS = {
    "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "four": np.array([4]), "minus": np.array([-1]),
    "six": np.array([6]), "end": np.array([2**63 - 1]), "far": np.array([-(2**63) + 1]),
    "sides": np.array([[0, 2], [1, 0], [0, 0], [0, 0]]), "three": np.array([3]), "pairs": np.array([-1, 2]),
    "some": np.array([0, 1]),
    "first": np.array(1), "second": np.array(2), "half": np.array(2), "single": np.array(1), "halved": np.float32(0.5),
    "twice": np.array(2.0, np.float32),
}  # fmt: skip
CASES = {
    "a shuffle of channels": (
        """k = Div(c, half) k1 = Unsqueeze(k, zero) h1 = Unsqueeze(h, zero) c1 = Unsqueeze(c, zero)
        t = Concat<axis=0>(n, two, k1, h1, minus) a = Reshape(x, t) b = Transpose<perm=[0,2,1,3,4]>(a)
        t2 = Concat<axis=0>(n, minus, h1, h1) y = Reshape(b, t2)""",
        ["Reshape", "Transpose", "Reshape"],
    ),
    "its own shape": ("y = Reshape(x, s)", ["Reshape"]),
    "to the rank of the batch": (
        "cube = Mul(c, h) c1 = Unsqueeze(cube, zero) t = Concat<axis=0>(n, c1, minus) y = Reshape(x, t)", ["Reshape"]
    ),
    "twice as large, as opset 11 wrote it": (
        """f = Cast<to=1>(h) g = Mul(f, twice) r = Floor(g) i = Cast<to=7>(r) h1 = Unsqueeze(i, zero)
        nc = Slice(s, zero, two) t = Concat<axis=0>(nc, h1, h1) y = Resize<mode="nearest">(x, , , t)""",
        ["Resize"],
    ),
    "as large as another": (
        """p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) q = Shape(p) nc = Slice(q, zero, two)
        hw = Slice(s, two, four) t = Concat<axis=0>(nc, hw)
        y = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(p, , , t)""",
        ["MaxPool", "Resize"],
    ),
    "expanded to what it is": (
        """r = Shape<start=0, end=1>(s) ones = ConstantOfShape<value=int64[1] {1}>(r) e = Equal(s, minus)
        w = Where(e, ones, s) z = Expand(x, w) y = Relu(z)""",
        ["Relu"],
    ),
    "as dynamo writes it": (
        "cube = Mul(c, h) c1 = Unsqueeze(cube, zero) t = Concat<axis=0>(n, c1, minus) y = Reshape<allowzero=1>(x, t)",
        ["Reshape"],
    ),
    "rows of the batch, dealt out and gathered": (
        """c1 = Unsqueeze(c, zero) nc1 = Mul(n, c1) t = Concat<axis=0>(nc1, minus) a = Reshape(x, t)
        t2 = Concat<axis=0>(n, minus, two) y = Reshape(a, t2)""",
        ["Reshape", "Reshape"],
    ),
    "as many rows as follow": (
        """a = Reshape(x, pairs) r = Shape(a) m = Slice(r, zero, one) k = Div(m, three) l = Div(c, half)
        l1 = Unsqueeze(l, zero) t = Concat<axis=0>(k, l1, minus) y = Reshape(a, t)""",
        ["Reshape", "Reshape"],
    ),
    "parts of what is taken whole": (
        """a = Slice(x, zero, end, zero) b = Slice(a, one, end, one) d = Slice(b, zero, four, two)
        q = Shape(d) m = Slice(q, zero, one) t = Concat<axis=0>(m, minus) y = Reshape(d, t)""",
        ["Slice", "Slice", "Reshape"],
    ),
    "the side of a square": (
        """f = Cast<to=1>(h) p = Mul(f, f) r = Sqrt(p) q = Mul(r, r) o = Pow(q, halved) i = Cast<to=7>(o)
        i1 = Unsqueeze(i, zero) t = Concat<axis=0>(n, minus, i1) y = Reshape(x, t)""",
        ["Reshape"],
    ),
    "one number alone": ("m = Max(c) c1 = Unsqueeze(m, zero) t = Concat<axis=0>(n, c1, minus) y = Reshape(x, t)",
        ["Reshape"],
    ),
    "rows for each head, as tf2onnx writes Einsum": (
        """b = Gather<axis=0>(s, some) r = ReduceProd<keepdims=1>(b) t = Concat<axis=0>(r, minus, two)
        a = Reshape(x, t) c2 = MaxPool<kernel_shape=[1,1]>(x) q = Shape(c2) d = Gather<axis=0>(q, some)
        m = Max(b, d) t2 = Concat<axis=0>(m, minus, two) y = Reshape(a, t2)""",
        ["Reshape", "Reshape"],
    ),
    "padding, as PyTorch turns its list around": (
        """p = Slice(sides, minus, far, zero, minus) t = Transpose<perm=[1,0]>(p) f = Reshape(t, minus)
        l = Cast<to=7>(f) a = Pad(x, l) q = Shape(a) m = Slice(q, zero, one) r = Concat<axis=0>(m, minus)
        y = Reshape(a, r)""",
        ["Pad", "Reshape"],
    ),
    "a window's ends": (
        "k = Sub(h, half) k1 = Unsqueeze(k, zero) y = Slice(x, zero, k1, two)", ["Slice"]
    ),
}  # fmt: skip


def network(nodes: str) -> ir.Model:
    used = {name: array for name, array in CONSTANTS.items() if name in (SHAPE + nodes).replace("(", " ")}
    return build(f"(float[N,4,6,6] x) => (float[] y) {{ {SHAPE} {nodes} }}", **used)


@pytest.mark.parametrize(("nodes", "expected"), CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("batch", [1, 3])
def test_what_follows_becomes_constant(nodes: str, expected: list[str], batch: int) -> None:
    x = integers(batch, 4, 6, 6)
    before = run_as_written(network(nodes), x=x)
    model = network(nodes)
    assert KnownShapes()(model).modified
    assert not KnownShapes()(model).modified
    normalize(model)
    assert ops(model) == expected
    for found, wanted in zip(run_as_written(model, x=x), before, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_batch_stays_open() -> None:
    model = network(CASES["a shuffle of channels"][0])
    KnownShapes()(model)
    targets = [constant_input(node, 1) for node in model.graph if node.op_type == "Reshape"]
    assert [[] if target is None else target.tolist() for target in targets] == [[-1, 2, 2, 6, 6], [-1, 4, 6, 6]]


@pytest.mark.parametrize("name", ["N", "unk__7"])
def test_the_batch_may_have_a_name_like_those_of_inference(name: str) -> None:
    """As tf2onnx calls it: what stands behind a Reshape to the rest has the batch all the same."""
    nodes = """a = Reshape(x, rest) b = Unsqueeze(a, one) s = Shape(b) c = Gather<axis=0>(s, some)
        r = ReduceProd<keepdims=1>(c) t = Concat<axis=0>(r, minus, two) d = Reshape(b, t)
        q = Shape(x) e = Gather<axis=0>(q, some) m = Max(c, e) u = Concat<axis=0>(m, minus, two) y = Reshape(d, u)"""
    text = f"(float[{name},4,6,6] x) => (float[] y) {{ {nodes} }}"
    constants = {"rest": np.array([-1, 4, 6, 6]), **CONSTANTS}
    model = build(text, **{each: constants[each] for each in ("rest", "one", "some", "minus", "two")})
    assert KnownShapes()(model).modified
    *_, last = (constant_input(node, 1) for node in model.graph if node.op_type == "Reshape")
    assert last is not None
    assert last.tolist() == [-1, 4, 18, 2]


def test_the_batch_keeps_its_name_behind_an_expand() -> None:
    """As keys that several heads of attention share are written, layer after layer."""
    model = network("m = ReduceMax<keepdims=1>(x, one) t = Concat<axis=0>(n, four, six, six) y = Expand(m, t)")
    assert KnownShapes()(model).modified
    (expand,) = (node for node in model.graph if node.op_type == "Expand")
    target, found = constant_input(expand, 1), expand.outputs[0].shape
    assert target is not None
    assert target.tolist() == [1, 4, 6, 6]
    assert found is not None
    assert [str(size) for size in found] == ["N", "4", "6", "6"]


@pytest.mark.parametrize(
    "nodes",
    [
        "n1 = Mul(n, two) t = Concat<axis=0>(n, n1, minus) y = Reshape(x, t)",
        "k = Div(n, two) t = Concat<axis=0>(k, minus) y = Reshape(x, t)",
        """o = Sub(n, one) b = Cast<to=9>(o) w = Where(b, two, four) t = Concat<axis=0>(minus, w)
        y = Reshape(x, t)""",
    ],
    ids=["two open sizes", "half of the batch", "whether there are several images"],
)
def test_what_does_not_follow_stays(nodes: str) -> None:
    assert_stays(KnownShapes(), network(nodes))


@pytest.mark.parametrize(
    ("nodes", "sizes"),
    [
        ("m = ReduceMax(x, zero) t = Concat<axis=0>(n, one, one, one) y = Expand(m, t)", ["N", "4", "6", "6"]),
        ("m = ReduceMax(x, zero) t = Concat<axis=0>(n, one, two, one) y = Tile(m, t)", ["N", "4", "12", "6"]),
        ("t = Concat<axis=0>(n, four) y = ConstantOfShape(t)", ["N", "4"]),
        ("z = Flatten<axis=2>(x) m = ReduceMax(z, one) y = Relu(m)", ["4*N", "1"]),
        ("k = Squeeze(n, zero) o = Sub(c, c) r = Range(o, k, single) y = Cast<to=1>(r)", ["N"]),
        ("z = Flatten<axis=-1>(x) y = Relu(z)", ["24*N", "6"]),
        ("o = Sub(c, second) h5 = Sub(o, c) r = Range(first, h5, single) y = Cast<to=1>(r)", ["0"]),
    ],
    ids=[
        "expanded to the batch", "tiled", "filled", "flattened with the batch", "counted to the batch",
        "flattened from the end", "counted to less",
    ],
)  # fmt: skip
def test_what_follows_has_a_name(nodes: str, sizes: list[str]) -> None:
    """Also where nothing becomes a constant: what stands behind may hang on it."""
    model = network(nodes)
    KnownShapes()(model)
    assert [str(size) for size in model.graph.outputs[0].shape or ()] == sizes


def test_a_graph_that_asks_for_no_shape_stays() -> None:
    model = build("(float[N,4] x) => (float[N,2,2] y) { y = Reshape(x, target) }", target=np.array([0, 2, 2]))
    assert_stays(KnownShapes(), model)
