import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.constant_reshape import ConstantReshape
from passes.fold_batch_shapes import FoldBatchShapes
from passes.remove_dead_code import RemoveDeadCode
from support.networks import build, integers, ops
from support.run import run_as_written


def check(model, expected_ops, *sizes):
    """Equal at two batches that the pass doesn't look at."""
    inputs = [integers(rows, *sizes, seed=rows) for rows in (1, 5)]
    before = [run_as_written(model, x=x) for x in inputs]
    assert FoldBatchShapes()(model).modified
    ConstantReshape()(model)
    RemoveDeadCode()(model)
    assert ops(model) == expected_ops
    for x, expected in zip(inputs, before, strict=True):
        for one, other in zip(run_as_written(model, x=x), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not FoldBatchShapes()(model).modified


def constants(text, **more):
    known = {"zero": np.array(0), "one": np.array(1), "two": np.array(2), "ax": np.array([0]), "open": np.array([-1]),
             "four": np.array([4]), "w": integers(8, 8), "token": integers(1, 8, seed=3)}  # fmt: skip
    words = text.replace(",", " ").replace(")", " ").replace("(", " ").split()
    return {name: array for name, array in (known | more).items() if name in words}


def parsed(nodes, source="N,8,2,2", rank="A,B,C", **more):
    return build(f"(float[{source}] x) => (float[{rank}] y) {{ {nodes} }}", **constants(nodes, **more))


BATCH = "s = Shape(x) n = Gather(s, zero) b = Unsqueeze(n, ax)"


def test_a_patch_embedding():
    nodes = "s = Shape(x) h = Slice(s, ax, t2, ax) t = Concat<axis = 0>(h, open) r = Reshape(x, t) "
    nodes += "p = Transpose<perm = [0, 2, 1]>(r) y = MatMul(p, w)"
    model = parsed(nodes, t2=np.array([2]))
    check(model, ["Reshape", "Transpose", "MatMul"], 8, 2, 2)
    assert model.graph.node(0).outputs[0].shape == ir.Shape(["N", 8, 4])


def test_heads_one_behind_the_other():
    """The second Reshape's sizes follow only where the first's are known."""
    nodes = (
        f"{BATCH} t = Concat<axis = 0>(b, open, two1, four) r = Reshape(x, t) p = Transpose<perm = [0, 2, 1, 3]>(r) "
    )
    nodes += (
        "s2 = Shape(p) m = Gather(s2, two) m1 = Unsqueeze(m, ax) u = Concat<axis = 0>(b, m1, open) y = Reshape(p, u)"
    )
    model = parsed(nodes, source="N,6,8", two1=np.array([2]))
    check(model, ["Reshape", "Transpose", "Reshape"], 6, 8)
    assert all(
        value.shape is not None and None not in value.shape.dims for node in model.graph for value in node.outputs
    )


@pytest.mark.parametrize("how", ["Expand", "ConstantOfShape", "Tile"])
def test_a_class_token(how):
    token = {
        "Expand": "t = Concat<axis = 0>(b, open, open) e = Expand(token, t)".replace("open", "one1"),
        "ConstantOfShape": "t = Concat<axis = 0>(b, one1, eight) z = ConstantOfShape(t) e = Add(z, token)",
        "Tile": "t = Concat<axis = 0>(b, one1, one1) e = Tile(token3, t)",
    }[how]
    nodes = f"{BATCH} {token} c = Concat<axis = 1>(e, x) y = MatMul(c, w)"
    more = {"one1": np.array([1]), "eight": np.array([8]), "token3": integers(1, 1, 8, seed=3)}
    check(parsed(nodes, source="N,3,8", **more), ["Pad", "Add", "MatMul"], 3, 8)


def test_rows_that_broadcast():
    nodes = f"{BATCH} t = Concat<axis = 0>(b, one1, one1) e = Expand(token, t) a = Mul(e, x) y = MatMul(a, w)"
    check(parsed(nodes, source="N,3,8", one1=np.array([1])), ["Mul", "MatMul"], 3, 8)


def test_numbers_of_sizes():
    """A scale of attention, as a power of a size."""
    nodes = "s = Shape(x) d = Gather(s, two) f = Cast<to = 1>(d) r = Sqrt(f) a = Mul(x, x) y = Div(a, r)"
    check(parsed(nodes, source="N,3,4"), ["Mul", "Div"], 3, 4)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.data())
def test_any_reshape_that_keeps_the_batch(sizes, data):
    order = data.draw(st.permutations(range(len(sizes))))
    target = [sizes[i] for i in order]
    at = data.draw(st.integers(0, len(target)))
    parts = [f"k{i}" for i in range(len(target))]
    given = {f"k{i}": np.array([-1 if i == at else size]) for i, size in enumerate(target)}
    rank = ",".join("ABCDE"[: len(sizes) + 1])
    nodes = f"{BATCH} t = Concat<axis = 0>({', '.join(['b', *parts])}) y = Reshape(x, t)"
    check(parsed(nodes, source=",".join(["N", *map(str, sizes)]), rank=rank, **given), ["Reshape"], *sizes)


@pytest.mark.parametrize(
    ("source", "nodes"),
    [
        ("N,T,8", "s = Shape(x) d = Gather(s, one) f = Cast<to = 1>(d) y = Div(x, f)"),
        ("N,3,8", "y = Relu(x)"),
        ("N,3,8", "i = Cast<to = 7>(x) m = ReduceMax<keepdims = 0>(i) u = Unsqueeze(m, ax) s = Shape(x) "
                  "t = Add(s, u) y = Expand(x, t)"),
    ],
    ids=["another open size", "no sizes", "what hangs on data"],
)  # fmt: skip
def test_what_stays(source, nodes):
    model = parsed(nodes, source=source)
    before = ops(model)
    FoldBatchShapes()(model)
    RemoveDeadCode()(model)
    assert ops(model) == before


def test_what_the_batch_alone_decides_stays_computed():
    nodes = f"{BATCH} f = Cast<to = 1>(n) y = Div(x, f)"
    model = parsed(nodes, source="N,3,8")
    FoldBatchShapes()(model)
    np.testing.assert_array_equal(run_as_written(model, x=integers(4, 3, 8))[0], integers(4, 3, 8) / 4)
