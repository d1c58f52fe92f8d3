import numpy as np
import pytest

from passes.rewrites.fold_batch_rows import FoldBatchRows
from passes.rewrites.known_shapes import KnownShapes
from passes.rewrites.remove_dead_code import RemoveDeadCode
from support.networks import build, integers, ops
from support.rewriting import assert_stays
from support.run import run_as_written


def check(model, expected_ops, *sizes):
    """Equal at two batches that the pass doesn't look at."""
    inputs = [integers(rows, *sizes, seed=rows) for rows in (1, 5)]
    before = [run_as_written(model, x=x) for x in inputs]
    assert FoldBatchRows()(model).modified
    RemoveDeadCode()(model)
    assert ops(model) == expected_ops
    for x, expected in zip(inputs, before, strict=True):
        for one, other in zip(run_as_written(model, x=x), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not FoldBatchRows()(model).modified


def constants(text, **more):
    known = {"zero": np.array(0), "one": np.array(1), "two": np.array(2), "ax": np.array([0]), "open": np.array([-1]),
             "four": np.array([4]),
             "behind": np.array([1, 2]), "w": integers(8, 8), "token": integers(1, 8, seed=3)}  # fmt: skip
    words = text.replace(",", " ").replace(")", " ").replace("(", " ").split()
    return {name: array for name, array in (known | more).items() if name in words}


def parsed(nodes, source="N,8,2,2", rank="A,B,C", **more):
    return build(f"(float[{source}] x) => (float[{rank}] y) {{ {nodes} }}", **constants(nodes, **more))


BATCH = "s = Shape(x) n = Gather(s, zero) b = Unsqueeze(n, ax)"


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


@pytest.mark.parametrize("product", ["MatMul(e, x)", "MatMul(x, e)"])
def test_queries_that_are_the_same_for_all(product):
    nodes = f"{BATCH} t = Concat<axis = 0>(b, one1, one1) e = Expand(queries, t) y = {product}"
    more = {"one1": np.array([1]), "queries": integers(1, 8, 8, seed=3)}
    check(parsed(nodes, source="N,8,8", **more), ["MatMul"], 8, 8)


@pytest.mark.parametrize(
    ("node", "left"),
    [("Add(u, e)", "Add"), ("Sub(e, u)", "Sub"), ("MatMul(u, e)", "MatMul"), ("MatMul(e, u)", "MatMul")],
)
@pytest.mark.parametrize("how", ["Tile", "Expand"])
def test_rows_of_several_windows_of_each_image(node, left, how):
    """A mask of shifted windows, or a table for each head, where windows lie side by side in the batch."""
    repeat = {
        "Tile": "t = Concat<axis = 0>(b, one1, one1) e = Tile(mask, t)",
        "Expand": "t = Concat<axis = 0>(b, two1, one1, one1) f = Expand(mask, t) e = Reshape(f, all)",
    }[how]
    nodes = f"{BATCH} u = Reshape(x, all) {repeat} a = {node} y = MatMul(a, w)"
    mask = integers(2, 8, 8, seed=3)
    more = {"one1": np.array([1]), "two1": np.array([2]), "all": np.array([-1, 8, 8])}
    model = parsed(nodes, source="N,2,8,8", mask=mask if how == "Tile" else mask[None], **more)
    KnownShapes()(model)
    check(model, ["Reshape", "Reshape", left, "Reshape", "MatMul"], 2, 8, 8)


def test_rows_that_are_repeated_one_by_one_stay():
    nodes = f"""{BATCH} u = Reshape(x, all) t = Concat<axis = 0>(one1, b, one1, one1) f = Expand(mask, t)
        e = Reshape(f, all) a = Add(u, e) y = MatMul(a, w)"""
    more = {"one1": np.array([1]), "all": np.array([-1, 8, 8]), "mask": integers(2, 1, 8, 8, seed=3)}
    model = parsed(nodes, source="N,2,8,8", **more)
    KnownShapes()(model)
    assert_stays(FoldBatchRows(), model)


def test_rows_that_differ_by_roundings_are_one():
    """A product of many numbers sums them in another order for another batch; infinite ones are equal."""
    rng = np.random.default_rng(0)
    wide, mask = rng.standard_normal((1, 512)).astype(np.float32), np.float32([[[0, -np.inf] * 4]])
    w = rng.standard_normal((512, 8)).astype(np.float32)
    nodes = f"""{BATCH} t = Concat<axis = 0>(b, one1) e = Expand(wide, t) m = MatMul(e, v) r = Unsqueeze(m, behind1)
        t3 = Concat<axis = 0>(b, one1, one1) k = Expand(mask, t3) a = Add(x, r) y = Add(a, k)"""
    more = {"one1": np.array([1]), "wide": wide, "mask": mask, "v": w, "behind1": np.array([1])}
    model = parsed(nodes, source="N,3,8", **more)
    assert FoldBatchRows()(model).modified
    RemoveDeadCode()(model)
    assert ops(model) == ["Add", "Add"]
    (y,) = run_as_written(model, x=np.zeros((2, 3, 8), np.float32))
    # 512 products about 1, summed in float32.
    np.testing.assert_allclose(y[..., ::2], np.broadcast_to(wide @ w, (2, 3, 8))[..., ::2], rtol=0, atol=1e-3)
    assert np.isneginf(y[..., 1::2]).all()


def test_rows_of_a_matrix_are_no_batch_that_broadcasts():
    nodes = f"{BATCH} t = Concat<axis = 0>(b, one1) e = Expand(token, t) u = Transpose(x) y = MatMul(u, e)"
    assert_stays(FoldBatchRows(), parsed(nodes, source="N,8", rank="A,B", one1=np.array([1])))


@pytest.mark.parametrize(
    ("source", "nodes"),
    [
        ("N,T,8", "s = Shape(x) e = Expand(token, s) y = Add(x, e)"),
        ("N,3,8", "s = Shape(x) n = Gather(s, zero) f = Cast<to = 1>(n) y = Div(x, f)"),
        ("N,3,8", "s = Shape(x) n = Gather(s, zero) r = Range(zero, n, one) f = Cast<to = 1>(r) "
                  "u = Unsqueeze(f, behind) y = Add(x, u)"),
        ("N,3,8", "y = Relu(x)"),
        ("N,3,8", "i = Cast<to = 7>(x) m = ReduceMax<keepdims = 0>(i) u = Unsqueeze(m, ax) s = Shape(x) "
                  "t = Add(s, u) y = Expand(x, t)"),
    ],
    ids=["another open size", "the number of rows", "a number for each row", "no sizes", "what hangs on data"],
)  # fmt: skip
def test_what_stays(source, nodes):
    model = parsed(nodes, source=source)
    assert_stays(FoldBatchRows(), model)
