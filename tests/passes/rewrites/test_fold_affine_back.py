import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passes.rewrites.fold_affine_back import FoldAffineBack
from passes.rewrites.remove_dead_code import RemoveDeadCode
from support.networks import build, integers
from support.rewriting import assert_same, assert_stays, network
from support.run import run_as_written

CONV = "(float[N,3,6,6] x) => (float[N,4,6,6] y) {{ z = Conv <pads = [1, 1, 1, 1]> (x, w{}) y = Add({}) }}"
MATMUL = "(float[{},5] x) => (float[A,B] y) {{ z = MatMul(x, w) y = Add({}) }}"


def fuse_and_compare(model, ops, **inputs):
    expected = run_as_written(model, **inputs)[0]
    assert FoldAffineBack()(model).modified
    assert [node.op_type for node in model.graph] == ops
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_array_equal(run_as_written(model, **inputs)[0], expected)
    assert not FoldAffineBack()(model).modified


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (1, 1, 1, 1), (1, 1, 1), (1,), ()])
@pytest.mark.parametrize("order", ["z, c", "c, z"])
def test_conv(shape, order):
    model = build(CONV.format("", order), w=integers(4, 3, 3, 3, seed=1), c=integers(*shape, seed=2))
    fuse_and_compare(model, ["Conv"], x=integers(2, 3, 6, 6))
    assert model.graph.node(0).inputs[2].const_value.shape == (4,)


def test_conv_that_has_a_bias():
    model = build(
        CONV.format(", b", "z, c"), w=integers(4, 3, 3, 3), b=integers(4, seed=1), c=integers(4, 1, 1, seed=2)
    )
    fuse_and_compare(model, ["Conv"], x=integers(2, 3, 6, 6))
    RemoveDeadCode()(model)
    assert len(model.graph.initializers) == 2


@pytest.mark.parametrize("shape", [(6,), (4, 6, 1), (4, 6, 6), (2, 4, 1, 1), (1, 1, 4, 1, 1)])
def test_conv_with_an_add_along_other_dimensions_stays(shape):
    rank5 = len(shape) == 5
    text = CONV.format("", "z, c").replace("float[N,4,6,6] y", "float[A,B,C,D,E] y" if rank5 else "float[A,B,C,D] y")
    model = build(text, w=integers(4, 3, 3, 3), c=integers(*shape))
    assert not FoldAffineBack()(model).modified


@pytest.mark.parametrize("shape", [(7,), (1, 7), (1, 1), (1,), ()])
@pytest.mark.parametrize("order", ["z, c", "c, z"])
def test_matmul(shape, order):
    model = build(MATMUL.format("N", order), w=integers(5, 7), c=integers(*shape, seed=1) + 9)
    fuse_and_compare(model, ["Gemm"], x=integers(3, 5))


@pytest.mark.parametrize("shape", [(3, 7), (3, 1)])
def test_matmul_with_an_offset_per_row_stays(shape):
    assert not FoldAffineBack()(build(MATMUL.format("3", "z, c"), w=integers(5, 7), c=integers(*shape))).modified


def test_matmul_of_rank_3_stays():
    model = build(
        "(float[N,2,5] x) => (float[N,2,7] y) { z = MatMul(x, w) y = Add(z, c) }", w=integers(5, 7), c=integers(7)
    )
    assert not FoldAffineBack()(model).modified


def test_product_with_two_readers_stays():
    model = build(
        "(float[N,5] x) => (float[N,7] y) { z = MatMul(x, w) a = Add(z, c) y = Mul(a, z) }",
        w=integers(5, 7),
        c=integers(7),
    )
    assert not FoldAffineBack()(model).modified


def test_product_added_to_itself_stays():
    model = build("(float[N,5] x) => (float[N,7] y) { z = MatMul(x, w) y = Add(z, z) }", w=integers(5, 7))
    assert not FoldAffineBack()(model).modified


def test_product_that_is_an_output_stays():
    model = build(
        "(float[N,5] x) => (float[N,7] y, float[N,7] z) { z = MatMul(x, w) y = Add(z, c) }",
        w=integers(5, 7),
        c=integers(7),
    )
    assert not FoldAffineBack()(model).modified


def test_computed_weight_stays():
    """As behind DequantizeLinear: a float bias would break the integer layer."""
    model = build(
        "(float[N,5] x) => (float[N,7] y) { w = DequantizeLinear(q, s) z = MatMul(x, w) y = Add(z, c) }",
        q=np.ones((5, 7), np.int8),
        s=np.float32(0.5),
        c=integers(7),
    )
    assert not FoldAffineBack()(model).modified


def test_bias_read_elsewhere_keeps_its_value():
    model = build(
        "(float[N,5] x) => (float[N,7] y) { z = MatMul(x, w) a = Add(z, c) y = Mul(a, c) }",
        w=integers(5, 7),
        c=integers(7, seed=1),
    )
    x = integers(3, 5)
    expected = run_as_written(model, x=x)[0]
    assert FoldAffineBack()(model).modified
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], expected)


@st.composite
def layers(draw):
    """A layer of constants, its input's sizes, the axes of its result, and where its channels are."""
    channels, groups = draw(st.sampled_from([(4, 1), (4, 2), (6, 3)]))
    bias = draw(st.booleans())
    kind = draw(st.sampled_from(["Conv", "ConvTranspose", "Gemm", "Gemm transposed", "MatMul"]))
    more = {"b": integers(channels, seed=7)} if bias else {}
    operands = "x, w, b" if bias else "x, w"
    if kind.startswith("Conv"):
        inside = (channels, 6 // groups) if kind == "Conv" else (6, channels // groups)
        text = f"{kind}<group = {groups}, pads = [1, 0]>({operands})"
        return text, (2, 6, 5), 3, 1, channels, {"w": integers(*inside, 3, seed=6), **more}
    shape = (channels, 5) if kind.endswith("transposed") else (5, channels)
    if kind == "MatMul":
        return "MatMul(x, w)", (3, 5), 2, -1, channels, {"w": integers(*shape, seed=6)}
    transposed = f"<transB = {int(kind.endswith('transposed'))}>"
    return f"Gemm{transposed}({operands})", (3, 5), 2, -1, channels, {"w": integers(*shape, seed=6), **more}


LINKS = st.sampled_from(["Mul(z, c)", "Add(z, c)", "Sub(z, c)", "Sub(c, z)", "Neg(z)"])


@given(layers(), st.lists(LINKS, min_size=1, max_size=3), st.booleans(), st.integers(0, 9))
def test_any_chain_behind_any_layer(layer, chain, is_per_channel, seed):
    text, sizes, dims, axis, channels, constants = layer
    shape = [1] * dims
    shape[axis] = channels if is_per_channel else 1
    lines, value = [f"z0 = {text}"], "z0"
    for i, link in enumerate(chain):
        constants[f"c{i}"] = integers(*shape, seed=seed + i) + np.float32(9)
        lines.append(f"z{i + 1} = {link.replace('z', value).replace('c)', f'c{i})').replace('(c,', f'(c{i},')}")
        value = f"z{i + 1}"
    lines[-1] = lines[-1].replace(f"{value} =", "y =", 1)
    model = network(",".join(map(str, sizes)), " ".join(lines), **constants)
    folded = text.split("(")[0].split("<")[0]
    adds = any("Add" in link or "Sub" in link for link in chain)
    assert_same(FoldAffineBack(), model, ["Gemm" if folded == "MatMul" and adds else folded], x=integers(*sizes))


NHWC = "t = Transpose<perm = [0, 2, 3, 1]>(z)"


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        (f"z = Conv(x, w) {NHWC} y = Mul(t, c)", (4,)),
        ("z = Conv(x, w) t = Flatten(z) y = Add(t, c)", (64,)),
        ("z = Conv(x, w) t = Reshape(z, rows) y = Add(t, c)", (4, 1)),
    ],
    ids=["channels last", "rows, equal along each image", "rows of pixels"],
)
def test_through_what_moves_numbers(nodes, shape):
    c = integers(*shape, seed=1) if shape != (64,) else np.repeat(integers(4, seed=1), 16)
    model = build(
        f"(float[N,3,4,4] x) => (float[] y) {{ {nodes} }}", w=integers(4, 3, 1, 1), c=c, rows=np.array([-1, 4, 16])
    )
    assert_same(FoldAffineBack(), model, [node.op_type for node in model.graph][:-1], x=integers(2, 3, 4, 4))


def test_keras_dense_on_sequences():
    """Rows, MatMul, sequences again, and only then the bias."""
    model = build(
        "(float[N,6,5] x) => (float[] y) { r = Reshape(x, rows) z = MatMul(r, w) s = Reshape(z, back) y = Add(s, c) }",
        rows=np.array([-1, 5]), back=np.array([-1, 6, 7]), w=integers(5, 7), c=integers(7, seed=1),
    )  # fmt: skip
    assert_same(FoldAffineBack(), model, ["Reshape", "Gemm", "Reshape"], x=integers(2, 6, 5))


def test_a_batch_norm_takes_both():
    stats = {name: integers(4, seed=i) for i, name in enumerate("gbm")} | {"v": np.full(4, 4, np.float32)}
    nodes = "n = BatchNormalization<epsilon = 0.0>(x, g, b, m, v) a = Mul(n, f) y = Add(a, o)"
    model = network("N,4,3", nodes, f=integers(4, 1, seed=5), o=integers(1, seed=6), **stats)
    assert_same(FoldAffineBack(), model, ["BatchNormalization"], x=integers(2, 4, 3))


def test_a_weight_that_two_layers_share_stays_the_others():
    model = build(
        "(float[N,5] x) => (float[] y, float[] y2) { a = MatMul(x, w) y = Mul(a, c) y2 = MatMul(x, w) }",
        w=integers(5, 7), c=integers(7, seed=1),
    )  # fmt: skip
    assert_same(FoldAffineBack(), model, ["MatMul", "MatMul"], x=integers(2, 5))


@pytest.mark.parametrize(
    "nodes",
    [
        "z = MatMul(x, w) a = Mul(z, c) b = Relu(z) y = Add(a, b)",
        "z = MatMul(x, w) r = Relu(z) y = Mul(r, c)",
        "z = Gemm<alpha = 2.0>(x, w) y = Mul(z, c)",
        "z = MatMul(x, w) y = Mul(z, huge)",
        "z = MatMul(x, w) y = Mul(z, each)",
        "z = MatMul(x, w) y = Div(c, z)",
        "z = MatMul(x, w) y = If (q) <then_branch = g () => (t) { t = Mul(z, c) }, "
        "else_branch = h () => (e) { e = Neg(z) }>",
    ],
    ids=["two readers", "an activation between", "alpha", "beyond float32", "each row", "reciprocal", "in branches"],
)  # fmt: skip
def test_what_stays(nodes):
    constants = {"w": integers(5, 7), "c": integers(7, seed=1) + 9, "huge": np.float32(3e38)}
    each, q = integers(2, 1) + 9, np.array(True)
    assert_stays(FoldAffineBack(), network("2,5", nodes, each=each, q=q, **constants))
